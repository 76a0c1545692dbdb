//! Recorded exchanges: lines that are right, that are wrong in one field, and that are anything; in any order of time.
#![no_main]

use hydrometer_agent::records::{Reason, Records};
use hydrometer_engine::{Engine, EngineConfig};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

/// A line, or several.
#[derive(Arbitrary, Debug)]
enum Piece<'a> {
    /// An exchange.
    Exchange(Figures),
    /// One of whose fields is something else.
    Edited { figures: Figures, field: u8, value: &'a str },
    /// Anything.
    Bytes(&'a [u8]),
}

/// What an exchange has.
#[derive(Arbitrary, Debug)]
struct Figures {
    start: u32,
    client: u8,
    flow: u8,
    request: u32,
    answer: u32,
    millis: u16,
}

const FIELDS: [&str; 9] =
    ["start", "client", "port", "flow", "req_bytes", "resp_bytes", "duration_ms", "records", "record_median"];

impl Figures {
    fn line(&self, edit: Option<(usize, &str)>) -> Vec<u8> {
        let values = [
            self.start.to_string(),
            format!("\"10.0.0.{}\"", self.client),
            "8000".to_owned(),
            self.flow.to_string(),
            self.request.to_string(),
            self.answer.to_string(),
            self.millis.to_string(),
            "9".to_owned(),
            "240".to_owned(),
        ];
        let value = |at: usize| match edit {
            Some((edited, value)) if edited == at => value,
            _ => values[at].as_str(),
        };
        let fields: Vec<String> =
            FIELDS.iter().enumerate().map(|(at, name)| format!("\"{name}\":{}", value(at))).collect();
        format!("{{{}}}", fields.join(",")).into_bytes()
    }
}

fuzz_target!(|pieces: Vec<Piece<'_>>| {
    let mut bytes = Vec::new();
    for piece in &pieces {
        bytes.extend(match piece {
            Piece::Exchange(figures) => figures.line(None),
            Piece::Edited { figures, field, value } => {
                figures.line(Some((usize::from(*field) % FIELDS.len(), *value)))
            }
            Piece::Bytes(bytes) => bytes.to_vec(),
        });
        bytes.push(b'\n');
    }
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    let is_compressed =
        bytes.get(1..4).is_some_and(|head| head == [0xb5, 0x2f, 0xfd] || head == [0x2a, 0x4d, 0x18]);
    let Ok(mut records) = Records::of_bytes(bytes) else { return };
    let mut engine = Engine::new(EngineConfig::default());
    for exchange in records.by_ref() {
        engine.observe(&exchange);
        engine.advance(exchange.start + exchange.duration);
    }
    let wrong = records.faults().iter().filter(|(reason, _)| *reason != Reason::UnknownField);
    let wrong: u64 = wrong.map(|(_, fault)| fault.count).sum();
    // Every line is an exchange, or counted.
    assert!(is_compressed || records.exchanges() + wrong == lines as u64);
});
