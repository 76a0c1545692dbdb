//! An exchange as one JSON object, the line that `hydrometer replay --exchanges -o json` prints.
//!
//! The names are a promise to other programs. Reading accepts lines without `protocol`, `accuracy`,
//! `confidence`, `truncated`, the heads, `ja4`, `client_identity` and the round trips. What a line cannot say (the service's address, the client's port, how the exchange
//! ended) reads back as unknown.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Accuracy, ClientId, Ending, Exchange, Head, Heads, Identity, Nanos, ParseClientIdError, Protocol,
    RoundTrips, Service,
};

/// One exchange on one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExchangeRecord {
    /// First byte of the request, seconds since the epoch (or since the start of a recording).
    pub start: f64,
    /// Who asked, as text.
    pub client: String,
    /// The service's port.
    pub port: u16,
    /// Identifies the flow within one agent run or one capture.
    pub flow: u64,
    /// Application bytes of the request.
    pub req_bytes: u64,
    /// Application bytes of the answer.
    pub resp_bytes: u64,
    /// Of those of the request, its head's, where known.
    #[serde(default)]
    pub req_head_bytes: Option<u32>,
    /// How that is known; not there where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub req_head_accuracy: Option<Accuracy>,
    /// Of those of the answer, its head's, where known.
    #[serde(default)]
    pub resp_head_bytes: Option<u32>,
    /// How that is known; not there where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resp_head_accuracy: Option<Accuracy>,
    /// End of the request to the first answer record, milliseconds.
    pub ttfb_ms: Option<f64>,
    /// End of the request to the second answer record, milliseconds.
    pub ttft_ms: Option<f64>,
    /// Start of the request to the end of the answer, milliseconds.
    pub duration_ms: f64,
    /// Server records of the answer.
    pub records: u32,
    /// Median application bytes of those records.
    pub record_median: u32,
    /// What the flow spoke.
    #[serde(default)]
    pub protocol: Protocol,
    /// Accuracy of these figures.
    #[serde(default)]
    pub accuracy: Accuracy,
    /// How far an estimate is to be believed, from 0 to 1; not there where nothing is estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
    /// Whether a cap ended the answer, as far as the client's other answers tell.
    #[serde(default)]
    pub truncated: Option<bool>,
    /// JA4 fingerprint of the client, where measured.
    #[serde(default)]
    pub ja4: Option<String>,
    /// How it is known who asked.
    #[serde(default)]
    pub client_identity: Identity,
    /// SYN-ACK to the acknowledgement that completes the TCP handshake, milliseconds; not there where not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_rtt_ms: Option<f64>,
    /// The server's part of the TLS handshake to the client's answer, milliseconds; not there where not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_rtt_ms: Option<f64>,
}

/// A record that does not describe an exchange.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExchangeRecordError {
    /// The client is not an address.
    #[error("field client: {0}")]
    Client(#[from] ParseClientIdError),
    /// A share is not between 0 and 1.
    #[error("field {field} is {value}: it must be between 0 and 1")]
    Share {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: f32,
    },
    /// A time is negative or not finite.
    #[error("field {field} is {value}: it must be zero or more, and finite")]
    Time {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: f64,
    },
    /// A figure is beyond what an exchange can have.
    #[error("field {field} is {value}: it must be {most} or less")]
    Absurd {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: f64,
        /// The most that is believed.
        most: f64,
    },
}

/// The latest start that is believed, seconds: the year 2286.
const MAX_START_S: f64 = 1e10;
/// The longest that one exchange, or a part of it, may take, milliseconds: a day.
const MAX_SPAN_MS: f64 = 86_400_000.0;
/// The most bytes of one request or one answer: a tebibyte.
const MAX_BYTES: u64 = 1 << 40;

impl From<&Exchange> for ExchangeRecord {
    fn from(exchange: &Exchange) -> Self {
        Self {
            start: (exchange.start.as_secs_f64() * 1e6).round() / 1e6,
            client: exchange.client.to_string(),
            port: exchange.service.port,
            flow: exchange.flow,
            req_bytes: exchange.request_bytes,
            resp_bytes: exchange.answer_bytes,
            req_head_bytes: exchange.heads.request.map(|head| head.bytes),
            req_head_accuracy: exchange.heads.request.map(|head| head.accuracy),
            resp_head_bytes: exchange.heads.answer.map(|head| head.bytes),
            resp_head_accuracy: exchange.heads.answer.map(|head| head.accuracy),
            ttfb_ms: exchange.time_to_first_byte.map(millis),
            ttft_ms: exchange.time_to_first_token.map(millis),
            duration_ms: millis(exchange.duration),
            records: exchange.records,
            record_median: exchange.record_median,
            protocol: exchange.protocol,
            accuracy: exchange.accuracy,
            confidence: exchange.confidence,
            truncated: exchange.truncated,
            ja4: exchange.ja4.clone(),
            client_identity: exchange.identity,
            tcp_rtt_ms: exchange.round_trips.tcp.map(millis),
            tls_rtt_ms: exchange.round_trips.tls.map(millis),
        }
    }
}

impl TryFrom<ExchangeRecord> for Exchange {
    type Error = ExchangeRecordError;

    fn try_from(record: ExchangeRecord) -> Result<Self, Self::Error> {
        let start = time("start", record.start, MAX_START_S)?;
        Ok(Self {
            start: Nanos::default() + Duration::from_secs_f64(start),
            client: record.client.parse::<ClientId>()?,
            identity: record.client_identity,
            client_port: 0,
            service: Service { address: None, port: record.port },
            flow: record.flow,
            request_bytes: bytes("req_bytes", record.req_bytes)?,
            answer_bytes: bytes("resp_bytes", record.resp_bytes)?,
            heads: Heads {
                request: head(record.req_head_bytes, record.req_head_accuracy),
                answer: head(record.resp_head_bytes, record.resp_head_accuracy),
            },
            time_to_first_byte: optional_millis("ttfb_ms", record.ttfb_ms)?,
            time_to_first_token: optional_millis("ttft_ms", record.ttft_ms)?,
            duration: span("duration_ms", record.duration_ms)?,
            records: record.records,
            record_median: record.record_median,
            protocol: record.protocol,
            accuracy: record.accuracy,
            confidence: record.confidence.map(|value| share("confidence", value)).transpose()?,
            ending: Ending::Complete,
            truncated: record.truncated,
            ja4: record.ja4,
            round_trips: RoundTrips {
                tcp: optional_millis("tcp_rtt_ms", record.tcp_rtt_ms)?,
                tls: optional_millis("tls_rtt_ms", record.tls_rtt_ms)?,
            },
        })
    }
}

/// A head of which nobody says how it is known is an estimate.
fn head(bytes: Option<u32>, accuracy: Option<Accuracy>) -> Option<Head> {
    Some(Head { bytes: bytes?, accuracy: accuracy.unwrap_or(Accuracy::Estimated) })
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn optional_millis(field: &'static str, value: Option<f64>) -> Result<Option<Duration>, ExchangeRecordError> {
    value.map(|value| span(field, value)).transpose()
}

fn share(field: &'static str, value: f32) -> Result<f32, ExchangeRecordError> {
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(ExchangeRecordError::Share { field, value }) }
}

fn span(field: &'static str, millis: f64) -> Result<Duration, ExchangeRecordError> {
    Ok(Duration::from_secs_f64(time(field, millis, MAX_SPAN_MS)? / 1e3))
}

/// A time that is zero or more, and `most` at most.
fn time(field: &'static str, value: f64, most: f64) -> Result<f64, ExchangeRecordError> {
    match value {
        _ if !value.is_finite() || value < 0.0 => Err(ExchangeRecordError::Time { field, value }),
        _ if value > most => Err(ExchangeRecordError::Absurd { field, value, most }),
        _ => Ok(value),
    }
}

fn bytes(field: &'static str, value: u64) -> Result<u64, ExchangeRecordError> {
    let absurd = ExchangeRecordError::Absurd { field, value: value as f64, most: MAX_BYTES as f64 };
    if value <= MAX_BYTES { Ok(value) } else { Err(absurd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"start":1.018,"client":"185.128.17.223","port":8000,"flow":20068,"req_bytes":332,"resp_bytes":607821,"ttfb_ms":31.3,"ttft_ms":null,"duration_ms":40596.5,"records":2787,"record_median":234,"ja4":"t13d1812h1_85036bcba153_375ca2c5e164"}"#;

    #[test]
    fn a_line_without_protocol_and_accuracy_reads_back_as_it_was() {
        let record: ExchangeRecord = serde_json::from_str(LINE).unwrap();
        let exchange = Exchange::try_from(record.clone()).unwrap();
        assert_eq!(exchange.duration, Duration::from_micros(40_596_500));
        assert_eq!(exchange.service, Service { address: None, port: 8000 });
        assert_eq!(ExchangeRecord::from(&exchange), record);
    }

    #[test]
    fn a_written_line_has_the_promised_names_in_order() {
        let record = ExchangeRecord {
            confidence: Some(0.9),
            truncated: Some(true),
            req_head_bytes: Some(627),
            req_head_accuracy: Some(Accuracy::Exact),
            resp_head_bytes: Some(194),
            resp_head_accuracy: Some(Accuracy::Derived),
            tcp_rtt_ms: Some(0.4),
            tls_rtt_ms: Some(81.6),
            ..serde_json::from_str(LINE).unwrap()
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(ExchangeRecord::from(&Exchange::try_from(record.clone()).unwrap()), record);
        let mut at = 0;
        for name in [
            "start",
            "client",
            "port",
            "flow",
            "req_bytes",
            "resp_bytes",
            "req_head_bytes",
            "req_head_accuracy",
            "resp_head_bytes",
            "resp_head_accuracy",
            "ttfb_ms",
            "ttft_ms",
            "duration_ms",
            "records",
            "record_median",
            "protocol",
            "accuracy",
            "confidence",
            "truncated",
            "ja4",
            "client_identity",
            "tcp_rtt_ms",
            "tls_rtt_ms",
        ] {
            at += text[at..].find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name} in {text}"));
        }
    }

    #[test]
    fn absurd_values_are_refused_by_name() {
        let good: ExchangeRecord = serde_json::from_str(LINE).unwrap();
        let cases = [
            (ExchangeRecord { start: -1.0, ..good.clone() }, "field start is -1"),
            (ExchangeRecord { duration_ms: f64::NAN, ..good.clone() }, "field duration_ms is NaN"),
            (ExchangeRecord { ttfb_ms: Some(f64::INFINITY), ..good.clone() }, "field ttfb_ms is inf"),
            (ExchangeRecord { confidence: Some(1.1), ..good.clone() }, "field confidence is 1.1"),
            (
                ExchangeRecord { start: 1e11, ..good.clone() },
                "field start is 100000000000: it must be 10000000000 or",
            ),
            (ExchangeRecord { resp_bytes: u64::MAX, ..good.clone() }, "field resp_bytes is 1844674407370955"),
            (
                ExchangeRecord { duration_ms: 1e8, ..good.clone() },
                "field duration_ms is 100000000: it must be 86400000",
            ),
            (ExchangeRecord { client: "me".into(), ..good }, "field client: \"me\" is not a client"),
        ];
        for (record, message) in cases {
            let error = Exchange::try_from(record).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
