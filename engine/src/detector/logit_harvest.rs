//! `logit_harvest`: streamed answers whose server records are far larger than the service's norm.
//!
//! Each token of a streamed answer is one server record, nearly. With log-probabilities it carries
//! the alternatives as well and is several times larger, also under TLS (measured: 241 to 248 bytes
//! without, 695 to 712 with five alternatives, 1,721 to 4,082 with twenty).
//!
//! Rule. In the last ten minutes at least `min_answers` streamed answers of one service had a
//! median record of at least `ratio` times the service's norm. The norm is the median over the
//! other clients of their own medians, one vote each, once three of them have voted; until then the
//! limit is `cold_limit_bytes`. While an anomaly is open these limits are 30 % lower.
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

use std::collections::BTreeMap;

use crate::{
    LogitHarvestConfig,
    anomaly::{AnomalyKind, ComparedWith, Evidence, FeatureEvidence, Severity},
    baseline::Spread,
    window::Sample,
};

use super::{Detector, Finding, Subject};

/// Other clients that must have voted before the norm counts.
const MIN_VOTERS: usize = 3;

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
    mad: f64,
}

impl LogitHarvest {
    pub(super) fn new(config: LogitHarvestConfig) -> Self {
        Self { config }
    }

    fn norm(&self, subject: &Subject<'_>, service: u16) -> Norm {
        let others = subject.norms.record_bytes.get(service as usize).map(|votes| votes.without(subject.id));
        match others.filter(|others| others.len() >= MIN_VOTERS).and_then(|others| others.median()) {
            Some(bytes) => {
                Norm { bytes, limit: bytes * self.config.ratio, with: ComparedWith::Service, mad: 0.0 }
            }
            None => Norm {
                bytes: self.config.cold_limit_bytes,
                limit: self.config.cold_limit_bytes,
                with: ComparedWith::Limit,
                mad: 0.0,
            },
        }
    }

    fn judge_service(&self, subject: &Subject<'_>, service: u16, streamed: &[&Sample]) -> Option<Finding> {
        let mut norm = self.norm(subject, service);
        let limit = subject.standing.ease(norm.limit);
        let large: Vec<&Sample> =
            streamed.iter().copied().filter(|sample| f64::from(sample.record_bytes) >= limit).collect();
        if large.len() < self.config.min_answers {
            return None;
        }
        let (first, last) = (large.first()?, large.last()?);
        let value = Spread::of(large.iter().map(|s| f64::from(s.record_bytes)).collect())?.median;
        if norm.with == ComparedWith::Service {
            let votes = subject.norms.record_bytes.get(service as usize)?;
            norm.mad = votes.without(subject.id).spread()?.mad;
        }
        let answers = large.len();
        Some(Finding {
            score: score(value / norm.bytes, answers, norm.with),
            severity: if norm.with == ComparedWith::Service { Severity::High } else { Severity::Medium },
            first_seen: first.start,
            last_seen: last.start,
            evidence: Evidence {
                summary: summary(answers, streamed.len(), value, &norm),
                features: vec![FeatureEvidence {
                    feature: "server_record_median",
                    value,
                    baseline: norm.bytes,
                    unit: "bytes",
                    compared_with: norm.with,
                    deviation: Spread { median: norm.bytes, mad: norm.mad }
                        .deviation(value, LEAST_VARIATION * norm.bytes),
                }],
                series: vec![subject.window.record_series(subject.now)],
                exchanges: answers as u64,
            },
        })
    }
}

impl Detector for LogitHarvest {
    fn kind(&self) -> AnomalyKind {
        AnomalyKind::LogitHarvest
    }

    fn judge(&self, subject: &Subject<'_>) -> Option<Finding> {
        let mut by_service: BTreeMap<u16, Vec<&Sample>> = BTreeMap::new();
        for sample in subject.window.recent(subject.now).filter(|sample| sample.record_bytes > 0) {
            by_service.entry(sample.service).or_default().push(sample);
        }
        by_service
            .iter()
            .filter_map(|(service, streamed)| self.judge_service(subject, *service, streamed))
            .max_by(|a, b| a.score.total_cmp(&b.score))
    }
}

fn score(times: f64, answers: usize, with: ComparedWith) -> f64 {
    let size = 1.0 - 1.0 / times.max(1.0).powi(2);
    let count = answers as f64 / (answers as f64 + 1.0);
    // A limit that knows nothing of the service convinces half as much.
    let trust = if with == ComparedWith::Service { 1.0 } else { 0.5 };
    let certainty = if with == ComparedWith::Service { size * count } else { count };
    (certainty * trust).clamp(0.0, 1.0)
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
        "{answers} of {streamed} streamed answers in ten minutes came in records of {value:.0} bytes, {usual}: \
         answers that carry log-probabilities look like this."
    )
}
