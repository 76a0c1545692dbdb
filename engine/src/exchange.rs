//! One question and its answer, as the wire showed them.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ClientId, Nanos};

/// A local address and port that serves a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Service {
    /// The address; `None` when the record does not tell it.
    pub address: Option<IpAddr>,
    /// TCP or UDP port.
    pub port: u16,
}

/// What a flow speaks, as far as the wire tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP split at direction changes, nothing known about it.
    #[default]
    Other,
    /// HTTP/1.x in clear text.
    Http1,
    /// HTTP/1.x or WebSocket inside TLS.
    Tls,
    /// HTTP/2 in clear text.
    Http2,
    /// HTTP/2 inside TLS.
    TlsHttp2,
    /// QUIC.
    Quic,
}

/// How a figure was obtained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accuracy {
    /// Read from the wire without inference.
    Exact,
    /// Computed from exact figures by a rule that holds for the protocol.
    #[default]
    Derived,
    /// A guess with a known error.
    Estimated,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The client asked again, closed in order, or the answer has been over for a while.
    #[default]
    Complete,
    /// The connection was cut while the answer was outstanding or in progress.
    Aborted,
}

/// How it is known who asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The connection is the client's own, as far as the service's host can see.
    #[default]
    Direct,
    /// The connection is a trusted proxy's, which does not say on whose behalf it asks.
    Proxy,
    /// A trusted proxy says on whose behalf it asks.
    Forwarded,
}

/// How long the client's side took to answer in the handshakes of a connection, seen from the service; each `None`
/// where it was not measured.
///
/// The TCP handshake is answered by whoever ends that connection, the TLS handshake by whoever holds its keys. So behind
/// a relay that hands TLS on, `tls` is longer than `tcp` by the way from the relay to the client; without one,
/// by what the client's cryptography takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTrips {
    /// SYN-ACK to the acknowledgement that completes the handshake.
    pub tcp: Option<Duration>,
    /// The server's part of the TLS handshake to the client's answer.
    pub tls: Option<Duration>,
}

/// The head of a message: what its body does not have of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Application bytes.
    pub bytes: u32,
    /// Exact where the head was seen to end; derived where it came in a record of its own, inside TLS; estimated where it is
    /// taken to be as long as others.
    pub accuracy: Accuracy,
}

/// The heads of an exchange; each `None` where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    /// Of the request.
    pub request: Option<Head>,
    /// Of the answer.
    pub answer: Option<Head>,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// First byte of the request.
    pub start: Nanos,
    /// Who asked.
    pub client: ClientId,
    /// How that is known.
    pub identity: Identity,
    /// The port at the other end of the connection; 0 when the record does not tell it.
    pub client_port: u16,
    /// What was asked.
    pub service: Service,
    /// Identifies the flow within one agent run or one capture; 0 where it is not kept.
    pub flow: u64,
    /// Application bytes of the request.
    pub request_bytes: u64,
    /// Application bytes of the answer.
    pub answer_bytes: u64,
    /// Bytes of their heads.
    pub heads: Heads,
    /// End of the request to the first answer record; `None` without an answer.
    pub time_to_first_byte: Option<Duration>,
    /// End of the request to the second answer record, which is the first token of a stream; `None`
    /// when there was no second record.
    pub time_to_first_token: Option<Duration>,
    /// Start of the request to the last byte of the answer (or of the request, without an answer).
    pub duration: Duration,
    /// Server records (TLS) or segments (clear text) of the answer.
    pub records: u32,
    /// Median application bytes of those records; 0 without any.
    pub record_median: u32,
    /// What the flow spoke.
    pub protocol: Protocol,
    /// Accuracy of these figures.
    pub accuracy: Accuracy,
    /// How far an estimate is to be believed, from 0 to 1; `None` where nothing is estimated.
    pub confidence: Option<f32>,
    /// How it ended.
    pub ending: Ending,
    /// Whether a cap (`max_tokens`) ended the answer, as far as the client's other answers tell; `None` where they
    /// do not ([`AnswerLengths`](crate::AnswerLengths)).
    pub truncated: Option<bool>,
    /// JA4 fingerprint of the client's TLS ClientHello, where measured.
    pub ja4: Option<String>,
    /// Round trips of the connection's handshakes.
    pub round_trips: RoundTrips,
}
