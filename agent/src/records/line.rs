//! One line: the exchange that it is, or why it is none.

use hydrometer_engine::{Exchange, ExchangeRecord, ExchangeRecordError};
use serde_json::Value;

use super::Reason;

/// Fields that every line has, and the most that their types hold.
const FIGURES: [(&str, f64); 8] = [
    ("start", f64::MAX),
    ("port", u16::MAX as f64),
    ("flow", u64::MAX as f64),
    ("req_bytes", u64::MAX as f64),
    ("resp_bytes", u64::MAX as f64),
    ("duration_ms", f64::MAX),
    ("records", u32::MAX as f64),
    ("record_median", u32::MAX as f64),
];

/// An exchange, and the first field of its line that is not known.
pub(super) struct Line {
    pub(super) exchange: Exchange,
    pub(super) unknown: Option<String>,
}

/// Reads a line that is not empty.
pub(super) fn read(line: &[u8]) -> Result<Line, (Reason, String)> {
    let mut unknown = None;
    let mut json = serde_json::Deserializer::from_slice(line);
    let record: Result<ExchangeRecord, _> = serde_ignored::deserialize(&mut json, |path| {
        unknown.get_or_insert_with(|| format!("field {path} is not known"));
    });
    let record =
        record.and_then(|record| json.end().map(|()| record)).map_err(|error| diagnose(line, &error))?;
    let exchange = Exchange::try_from(record).map_err(|error| (reason(&error), error.to_string()))?;
    Ok(Line { exchange, unknown })
}

fn reason(error: &ExchangeRecordError) -> Reason {
    match error {
        ExchangeRecordError::Client(_) => Reason::Client,
        ExchangeRecordError::Time { value, .. } if value.is_finite() => Reason::Negative,
        ExchangeRecordError::Time { .. } => Reason::NotFinite,
        ExchangeRecordError::Share { .. } | ExchangeRecordError::Absurd { .. } => Reason::Absurd,
    }
}

/// Why a line could not be read.
fn diagnose(line: &[u8], error: &serde_json::Error) -> (Reason, String) {
    let said = error.to_string();
    let Ok(value) = serde_json::from_slice::<Value>(line) else {
        let is_infinite = word(line, error.column()).parse::<f64>().is_ok_and(|value| !value.is_finite());
        return (if is_infinite { Reason::NotFinite } else { Reason::NotJson }, said);
    };
    let Value::Object(fields) = value else { return (Reason::NotJson, "not an object".to_owned()) };
    for (name, value) in &fields {
        if value.as_f64().is_some_and(|value| value < 0.0) {
            return (Reason::Negative, format!("field {name} is {value}: it must be zero or more"));
        }
    }
    let is_there = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    for name in FIGURES.map(|(name, _)| name).into_iter().chain(["client"]) {
        if !is_there(name) {
            return (Reason::MissingField, format!("missing field {name}"));
        }
    }
    for (name, most) in FIGURES {
        if let Some(value) = fields[name].as_f64().filter(|value| *value > most) {
            return (Reason::Absurd, format!("field {name} is {value}: it must be {most} or less"));
        }
    }
    (Reason::WrongType, said)
}

/// The word, or number, at a column, or just before it.
fn word(line: &[u8], column: usize) -> &str {
    let is_part = |at: usize| {
        line.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    };
    let at = column.saturating_sub(1);
    let at = if is_part(at) { at } else { at.saturating_sub(1) };
    let start = (0..=at).rev().take_while(|at| is_part(*at)).last().unwrap_or(at);
    let end = (at..line.len()).find(|at| !is_part(*at)).unwrap_or(line.len());
    line.get(start..end).and_then(|word| std::str::from_utf8(word).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"start":1.5,"client":"10.0.0.1","port":8000,"flow":1,"req_bytes":332,"resp_bytes":6078,"ttfb_ms":31.3,"ttft_ms":null,"duration_ms":405.5,"records":27,"record_median":234,"ja4":null}"#;

    #[test]
    fn each_way_to_be_wrong_has_its_reason() {
        for (from, to, reason, said) in [
            ("}", "", Reason::NotJson, "EOF while parsing"),
            (GOOD, "[1]", Reason::NotJson, "not an object"),
            (GOOD, "\u{0}", Reason::NotJson, "expected value"),
            ("}", "} {}", Reason::NotJson, "trailing characters"),
            ("1.5", "NaN", Reason::NotFinite, "expected"),
            ("1.5", "-Infinity", Reason::NotFinite, "number"),
            ("1.5", "1e999", Reason::NotFinite, "number out of range"),
            ("\"start\":1.5,", "", Reason::MissingField, "missing field start"),
            ("\"10.0.0.1\"", "null", Reason::MissingField, "missing field client"),
            ("\"10.0.0.1\"", "\"me\"", Reason::Client, "field client: \"me\" is not a client"),
            ("1.5", "-1.5", Reason::Negative, "field start is -1.5"),
            ("332", "-332", Reason::Negative, "field req_bytes is -332"),
            ("31.3", "-31.3", Reason::Negative, "field ttfb_ms is -31.3"),
            ("1.5", "1e300", Reason::Absurd, "field start is 1000"),
            ("405.5", "1e12", Reason::Absurd, "field duration_ms is 1000000000000"),
            ("8000", "70000", Reason::Absurd, "field port is 70000: it must be 65535 or less"),
            ("6078", "1e30", Reason::Absurd, "field resp_bytes is 1000"),
            ("6078", "9007199254740993", Reason::Absurd, "field resp_bytes is 900719925474099"),
            ("332", "332.5", Reason::WrongType, "floating point"),
            ("332", "\"332\"", Reason::WrongType, "invalid type: string"),
            ("\"flow\":1", "\"flow\":1,\"flow\":2", Reason::WrongType, "duplicate field `flow`"),
        ] {
            let line = GOOD.replacen(from, to, 1);
            let Err((is, why)) = read(line.as_bytes()) else { panic!("{line} was read") };
            assert!(is == reason && why.contains(said), "{line}: {is:?} {why}");
        }
    }

    #[test]
    fn every_field_that_a_written_line_may_have_is_known_and_kept() {
        let more = ",\"req_head_bytes\":200,\"req_head_accuracy\":\"exact\",\"resp_head_bytes\":150,\
                    \"resp_head_accuracy\":\"derived\",\"truncated\":true,\"confidence\":0.5,\"tcp_rtt_ms\":0.4,\
                    \"tls_rtt_ms\":80.5}";
        let Line { exchange, unknown } = read(GOOD.replacen('}', more, 1).as_bytes()).unwrap();
        assert_eq!(unknown, None);
        assert_eq!(
            (exchange.truncated, exchange.heads.request.map(|head| head.bytes)),
            (Some(true), Some(200))
        );
        let written = serde_json::to_vec(&ExchangeRecord::from(&exchange)).unwrap();
        let again = read(&written).unwrap();
        assert_eq!((again.exchange, again.unknown), (exchange, None));
    }

    #[test]
    fn an_unknown_field_is_named_and_does_not_matter() {
        let Line { exchange, unknown } = read(GOOD.as_bytes()).unwrap();
        assert_eq!(unknown, None);
        let more = read(GOOD.replacen('{', "{\"mood\":\"fair\",", 1).as_bytes()).unwrap();
        assert_eq!((more.exchange, more.unknown.as_deref()), (exchange, Some("field mood is not known")));
    }
}
