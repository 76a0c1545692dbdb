//! Recorded exchanges, wherever they come from.
//!
//! In flow lines as `hydrometer replay --exchanges -o json` prints them, plain or compressed, or a capture, from a file or
//! a pipe; out flow exchanges, and an account of everything that was wrong ([`Faults`]). Invariants: memory does not grow
//! with the recording; whatever it holds, every line either gives an exchange or is counted under a reason; and lines that
//! are wrong change nothing about what the others give.

mod faults;
mod line;
mod lines;
mod sequence;
mod source;

use std::{collections::VecDeque, path::Path};

use hydrometer_engine::{Exchange, Service};
use indicatif::ProgressBar;

pub use self::faults::{Fault, Faults, Reason};
use self::{lines::Lines, sequence::Sequence, source::Source};
use crate::{
    identity::SecretError,
    replay::{
        Reading, Replay,
        pcap::{self, Capture, Contents},
    },
    traffic::Traffic,
};

/// Why there are no exchanges to read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened, or has no begin that can be read.
    #[error("cannot open it")]
    Open(#[source] std::io::Error),
    /// It is a capture, and nobody has said what in it is asked.
    #[error("it is a capture of packets: say which ports are services, such as --service 8000")]
    NoService,
    /// It begins like a capture, and is none.
    #[error(transparent)]
    Capture(#[from] pcap::Error),
    /// The secret of API keys is of no use.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// How packets are read, where the recording is a capture.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    /// What is asked.
    pub services: Vec<Service>,
    /// How.
    pub traffic: Traffic,
}

/// A recording that is read, exchange by exchange.
pub struct Records {
    input: Input,
    is_over: bool,
    /// Exchanges that wait to be taken.
    ready: VecDeque<Exchange>,
    faults: Faults,
    exchanges: u64,
}

enum Input {
    Lines(Box<Lines<Source>>, Sequence),
    Capture(Box<Capture<Source>>, Box<Reading>),
}

impl Records {
    /// Opens a file, or standard input for `-`. `progress` shows how much has been read.
    pub fn open(path: &Path, packets: Packets, progress: &ProgressBar) -> Result<Self, Error> {
        let (source, is_capture) = source::open(path, progress).map_err(Error::Open)?;
        Ok(Self::of(if is_capture { Self::capture(source, packets)? } else { Self::lines(source) }))
    }

    fn of(input: Input) -> Self {
        Self { input, is_over: false, ready: VecDeque::new(), faults: Faults::default(), exchanges: 0 }
    }

    /// Likewise, of bytes that are there already.
    pub fn of_bytes(bytes: Vec<u8>) -> Result<Self, Error> {
        let (source, is_capture) = source::of(bytes).map_err(Error::Open)?;
        if is_capture { Err(Error::NoService) } else { Ok(Self::of(Self::lines(source))) }
    }

    fn lines(source: Source) -> Input {
        Input::Lines(Box::new(Lines::new(source)), Sequence::default())
    }

    fn capture(source: Source, Packets { services, traffic }: Packets) -> Result<Input, Error> {
        if services.is_empty() {
            return Err(Error::NoService);
        }
        let reading = Reading::new(traffic, &services)?;
        Ok(Input::Capture(Box::new(Capture::new(source)?), Box::new(reading)))
    }

    /// Exchanges taken so far.
    pub fn exchanges(&self) -> u64 {
        self.exchanges
    }

    /// What was wrong so far.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What the capture held; nothing where the recording is none.
    pub fn packets(&self) -> Option<(&Replay, Contents)> {
        match &self.input {
            Input::Lines(..) => None,
            Input::Capture(capture, reading) => Some((reading.replay(), capture.contents())),
        }
    }

    /// Reads on, a line or a frame.
    fn read(&mut self) {
        match &mut self.input {
            Input::Lines(lines, sequence) => {
                if let Some((number, exchange)) = lines.next(&mut self.faults) {
                    sequence.take(number, exchange, &mut self.ready, &mut self.faults);
                } else {
                    sequence.finish(&mut self.ready, &mut self.faults);
                    self.is_over = true;
                }
            }
            Input::Capture(capture, reading) => {
                let more = capture.next().map(|frame| frame.map(|frame| reading.take(&frame)));
                match more {
                    Ok(Some(())) => self.ready.extend(reading.ended()),
                    end => {
                        if let Err(error) = end {
                            self.faults.add(Reason::Damaged, capture.contents().frames + 1, &error);
                        }
                        self.ready.extend(reading.flush());
                        self.is_over = true;
                    }
                }
            }
        }
    }
}

impl Iterator for Records {
    type Item = Exchange;

    fn next(&mut self) -> Option<Exchange> {
        while self.ready.is_empty() && !self.is_over {
            self.read();
        }
        let exchange = self.ready.pop_front()?;
        self.exchanges += 1;
        Some(exchange)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    const HOUR: f64 = 3600.0;
    const GOOD: usize = 140;

    /// A line of a recording; the flow is its number.
    fn line(number: usize, start: f64) -> String {
        format!(
            r#"{{"start":{start:.3},"client":"10.0.0.{}","port":8000,"flow":{number},"req_bytes":332,"resp_bytes":6078,"ttfb_ms":31.3,"ttft_ms":null,"duration_ms":405.5,"records":27,"record_median":234,"ja4":null}}"#,
            number % 7,
        )
    }

    /// A recording of some days with a silence.
    fn recording() -> Vec<String> {
        let silence = |number| if number >= GOOD / 2 { 30.0 * HOUR } else { 0.0 };
        (0..GOOD).map(|number| line(number, 50.0 * HOUR + number as f64 * 40.0 + silence(number))).collect()
    }

    fn read(lines: &[String]) -> (Vec<u64>, Faults) {
        read_bytes(lines.join("\n").into_bytes())
    }

    /// The flows of the exchanges that are believed, and what was wrong.
    fn read_bytes(bytes: Vec<u8>) -> (Vec<u64>, Faults) {
        let mut records = Records::of_bytes(bytes).unwrap();
        let flows = records.by_ref().map(|exchange| exchange.flow).collect();
        (flows, records.faults().clone())
    }

    /// Something wrong that is put into a recording.
    #[derive(Clone, Debug)]
    enum Wrong {
        Bytes(Vec<u8>),
        Shortened(Index),
        Replaced(usize, &'static str),
        Removed(usize),
        Ahead(f64),
        Behind(f64),
        Repeated(Index),
    }

    fn wrong() -> impl Strategy<Value = Wrong> {
        prop_oneof![
            vec(any::<u8>().prop_filter("one line", |byte| *byte != b'\n'), 1..300).prop_map(Wrong::Bytes),
            any::<Index>().prop_map(Wrong::Shortened),
            (
                0..8_usize,
                prop::sample::select(&["-1", "1e300", "NaN", "-Infinity", "1e999", "\"x\"", "[]", "{}"][..])
            )
                .prop_map(|(field, value)| Wrong::Replaced(field, value)),
            (0..8_usize).prop_map(Wrong::Removed),
            (40.0..1e6_f64).prop_map(Wrong::Ahead),
            // In a silence anything may be.
            (31.0..49.0_f64).prop_map(Wrong::Behind),
            any::<Index>().prop_map(Wrong::Repeated),
        ]
    }

    const FIELDS: [&str; 8] =
        ["start", "port", "flow", "req_bytes", "resp_bytes", "duration_ms", "records", "record_median"];

    impl Wrong {
        /// The line that is put behind the good lines up to `before`.
        fn line(&self, good: &[String], before: usize) -> Vec<u8> {
            let model = &good[before];
            let with = |start: f64| line(9999, start).into_bytes();
            let start = model[9..].split(',').next().and_then(|start| start.parse::<f64>().ok()).unwrap();
            let edit = |field: usize, value: Option<&str>| {
                let mut fields: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_str(model).unwrap();
                fields.remove(FIELDS[field]);
                let mut text = serde_json::to_string(&fields).unwrap();
                if let Some(value) = value {
                    text.insert_str(1, &format!("\"{}\":{value},", FIELDS[field]));
                }
                text.into_bytes()
            };
            match self {
                Self::Bytes(bytes) => bytes.clone(),
                Self::Shortened(at) => model.as_bytes()[..=at.index(model.len() - 2)].to_vec(),
                Self::Replaced(field, value) => edit(*field, Some(value)),
                Self::Removed(field) => edit(*field, None),
                Self::Ahead(hours) => with(start + hours * HOUR),
                Self::Behind(hours) => with(start - hours * HOUR),
                Self::Repeated(which) => good[which.index(before + 1)].clone().into_bytes(),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn lines_that_are_wrong_are_counted_and_change_nothing_about_the_others(
            wrong in vec((wrong(), 0..GOOD), 0..20), is_compressed in any::<bool>(),
        ) {
            let good = recording();
            let mut bytes = Vec::new();
            let mut blank = 0;
            for (number, line) in good.iter().enumerate() {
                bytes.extend(line.as_bytes());
                bytes.push(b'\n');
                for (wrong, _) in wrong.iter().filter(|(_, at)| *at == number) {
                    let line = wrong.line(&good, number);
                    blank += u64::from(line.trim_ascii().is_empty());
                    bytes.extend(line);
                    bytes.push(b'\n');
                }
            }
            // What comes last, and is ahead, nobody contradicts.
            bytes.extend((0..25).flat_map(|more| (line(GOOD + more, 90.0 * HOUR) + "\n").into_bytes()));
            if is_compressed {
                bytes = zstd::encode_all(&bytes[..], 1).unwrap();
            }
            let (flows, faults) = read_bytes(bytes);
            prop_assert!(flows.iter().copied().eq(0..GOOD as u64 + 25), "{flows:?} {faults:?}");
            prop_assert_eq!(faults.iter().map(|(_, fault)| fault.count).sum::<u64>() + blank, wrong.len() as u64);
        }

        #[test]
        fn what_is_cut_off_or_damaged_gives_what_came_before(at in any::<Index>(), flip in any::<Option<u8>>()) {
            let mut bytes = Vec::new();
            {
                let mut encoder = zstd::Encoder::new(&mut bytes, 3).unwrap();
                encoder.include_checksum(true).unwrap();
                encoder.write_all((recording().join("\n") + "\n").as_bytes()).unwrap();
                encoder.finish().unwrap();
            }
            // The first bytes tell that it is compressed.
            let at = 4 + at.index(bytes.len() - 4);
            match flip {
                Some(with) if bytes[at] != with => bytes[at] = with,
                _ => bytes.truncate(at),
            }
            let (flows, faults) = read_bytes(bytes);
            prop_assert!(flows.len() <= GOOD);
            let damaged = faults.of(Reason::Damaged).map_or(0, |fault| fault.count);
            // A few bytes of a frame's head may be others, and everything come out all the same.
            let is_whole = flows.len() == GOOD && faults.is_empty();
            prop_assert!(damaged == 1 || is_whole && flip.is_some(), "{flows:?} {faults:?}");
        }
    }

    #[test]
    fn a_recording_by_the_end_of_exchanges_and_one_with_long_silences_is_believed() {
        let mut long = line(0, 1000.0).replace("405.5", "18000000");
        let short = line(1, 1100.0);
        let (flows, faults) = read(&[short.clone(), long.clone()]);
        assert_eq!((flows, faults.is_empty()), (vec![1, 0], true));
        long = long.replace("1000.000", "100000.000");
        let later = line(2, 118_000.0);
        let much_later = line(3, 1e9);
        let (flows, faults) = read(&[short, later, long, much_later]);
        assert_eq!((flows, faults.is_empty()), (vec![1, 2, 0, 3], true));
    }

    #[test]
    fn the_first_lines_of_each_reason_are_named() {
        let mut lines = recording();
        for at in [3, 17, 40, 41, 42, 43, 44] {
            lines.insert(at, "mischief".to_owned());
        }
        lines.insert(0, "x".repeat(100_000));
        lines.insert(0, line(9999, 1e9));
        let (flows, faults) = read(&lines);
        assert_eq!(flows.len(), GOOD);
        let not_json = faults.of(Reason::NotJson).unwrap();
        assert_eq!((not_json.count, &not_json.lines[..]), (7, &[6, 20, 43, 44, 45][..]));
        assert_eq!(faults.of(Reason::TooLong).unwrap().lines, [2]);
        assert_eq!(faults.of(Reason::Future).unwrap().lines, [1]);
    }

    #[test]
    fn two_exchanges_that_were_under_way_at_once_may_look_the_same() {
        let alike = line(1, 5.0).replace("\"ja4\":null", "\"protocol\":\"tls_http2\"");
        assert_eq!(read(&[alike.clone(), alike]).0, [1, 1]);
    }
}
