//! `logit_harvest`: streamed answers whose server records are far larger than the service's norm.
//!
//! Each token of a streamed answer is one server record, nearly. With log-probabilities it carries
//! the alternatives as well and is several times larger, also under TLS (measured: 241 to 248 bytes
//! without, 695 to 712 with five alternatives, 1,721 to 4,082 with twenty).
//!
//! Rule. Of the client's last exchanges, streamed answers of one service had records of at least
//! `ratio` times the service's norm. The norm is the median over the other clients of their own
//! medians, one vote each, once three of them have voted; until then the limit is
//! `cold_limit_bytes`. Each such answer is evidence of 4 nats: fewer than one in fifty other
//! answers is that large.
//!
//! Streamed means 8 records or more, smaller than the 4 KiB and larger buffers that proxies write
//! whole answers in; in clear text also smaller than a full segment.
//!
//! Evidence: the client's median record against the norm, and the record size over ten minutes.
//!
//! Known false positives: a client that alone uses a feature with large stream events (tool calls,
//! images in JSON); a service with large events before three clients have used it. Known misses:
//! answers that are not streamed; twenty alternatives in clear text, where segments hide the size;
//! a service most of whose clients ask for log-probabilities.
//!
//! ATLAS: AML.T0024.002, Extract AI Model.

use std::collections::BTreeSet;

use crate::{
    LogitHarvestConfig, Nanos,
    anomaly::{AnomalyKind, ComparedWith, Evidence, FeatureEvidence, Severity},
    baseline::{Others, Spread},
    trail::Mark,
};

use super::{Account, Detector, Subject};

/// Other clients that must have voted before the norm counts.
const MIN_VOTERS: usize = 3;

/// The logarithm of how much rarer such an answer is elsewhere.
const NATS_PER_ANSWER: f64 = 4.0;

/// Record sizes vary by this share of the norm at least.
const LEAST_VARIATION: f64 = 0.05;

#[derive(Debug)]
pub(super) struct LogitHarvest {
    config: LogitHarvestConfig,
}

/// What the records of a service are compared with.
struct Norm {
    bytes: f64,
    limit: f64,
    with: ComparedWith,
}

/// Answers of one service that came in large records.
struct Large {
    service: u16,
    first: Nanos,
    /// Their median record.
    bytes: f64,
    answers: usize,
    /// Streamed answers in all.
    streamed: usize,
    norm: Norm,
}

impl LogitHarvest {
    pub(super) fn new(config: LogitHarvestConfig) -> Self {
        Self { config }
    }

    fn norm(&self, subject: &Subject<'_>, service: u16) -> Norm {
        if let Some(bytes) = others(subject, service).and_then(|others| others.median()) {
            return Norm { bytes, limit: bytes * self.config.ratio, with: ComparedWith::Service };
        }
        let bytes = self.config.cold_limit_bytes;
        Norm { bytes, limit: bytes, with: ComparedWith::Limit }
    }

    fn large(&self, subject: &Subject<'_>, service: u16) -> Option<Large> {
        let norm = self.norm(subject, service);
        let streamed: Vec<&Mark> =
            subject.trail.iter().filter(|mark| mark.service == service && mark.record_bytes > 0).collect();
        let large: Vec<&Mark> =
            streamed.iter().copied().filter(|mark| f64::from(mark.record_bytes) >= norm.limit).collect();
        Some(Large {
            service,
            first: large.first()?.start,
            bytes: Spread::of(large.iter().map(|mark| mark.record_bytes.into()).collect())?.median,
            answers: large.len(),
            streamed: streamed.len(),
            norm,
        })
    }

    /// Of the service on which most answers are large.
    fn largest(&self, subject: &Subject<'_>) -> Option<Large> {
        let services: BTreeSet<u16> =
            subject.trail.iter().filter(|mark| mark.record_bytes > 0).map(|mark| mark.service).collect();
        services
            .into_iter()
            .filter_map(|service| self.large(subject, service))
            .max_by_key(|large| large.answers)
    }
}

impl Detector for LogitHarvest {
    fn kind(&self) -> AnomalyKind {
        AnomalyKind::LogitHarvest
    }

    fn scale(&self) -> f64 {
        1.3
    }

    fn weigh(&self, subject: &Subject<'_>) -> f64 {
        self.largest(subject).map_or(0.0, |large| large.answers as f64 * NATS_PER_ANSWER)
    }

    fn explain(&self, subject: &Subject<'_>) -> Option<Account> {
        let large = self.largest(subject)?;
        let norm = &large.norm;
        let spread = others(subject, large.service).and_then(|others| others.spread());
        let mad = spread.map_or(0.0, |spread| spread.mad);
        Some(Account {
            severity: if norm.with == ComparedWith::Service { Severity::High } else { Severity::Medium },
            first_seen: large.first,
            evidence: Evidence {
                summary: summary(large.answers, large.streamed, large.bytes, norm),
                features: vec![FeatureEvidence {
                    feature: "server_record_median",
                    value: large.bytes,
                    baseline: norm.bytes,
                    unit: "bytes",
                    compared_with: norm.with,
                    deviation: Spread { median: norm.bytes, mad }
                        .deviation(large.bytes, LEAST_VARIATION * norm.bytes),
                }],
                series: vec![subject.window.record_series(subject.now)],
                exchanges: large.answers as u64,
            },
        })
    }
}

/// The votes on a service's records, when they are enough.
fn others<'a>(subject: &Subject<'a>, service: u16) -> Option<Others<'a>> {
    let others = subject.norms.record_bytes.get(service as usize)?.without(subject.id);
    (others.len() >= MIN_VOTERS).then_some(others)
}

fn summary(answers: usize, streamed: usize, value: f64, norm: &Norm) -> String {
    let usual = match norm.with {
        ComparedWith::Service => format!(
            "{:.1} times the {:.0} bytes that are usual on this service",
            value / norm.bytes,
            norm.bytes
        ),
        _ => {
            format!("over the limit of {:.0} bytes that holds until the service's norm is learnt", norm.bytes)
        }
    };
    format!(
        "{answers} of {streamed} streamed answers came in records of {value:.0} bytes, {usual}: \
         answers that carry log-probabilities look like this."
    )
}
