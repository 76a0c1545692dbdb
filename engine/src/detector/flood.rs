//! `flood`: one small request, again and again, as fast as it goes.
//!
//! Rule. The last 64 requests have nearly one size (nine in ten within 15 %), their answers one small size (within
//! 5 %, at most 4 KiB), and the last minute has more of them than the busiest minute of the day of 199 in 200 other
//! clients, and than the client's own busiest at this time of its earlier days. The evidence is the log-likelihood ratio
//! of that many to the larger of both (Poisson).
//!
//! Evidence: the last minute's requests against the population, or against the own past; the rate over ten minutes.
//!
//! Known false positives: a load test; a batch of one-word classifications. Known misses: connections
//! and handshakes without a request, which are no exchanges; floods of varied requests (`bulk_extraction`). One
//! spread over many addresses is told by its campaign.
//!
//! ATLAS: AML.T0029, Denial of AI Service.

use std::time::Duration;

use crate::{
    anomaly::{AnomalyKind, ComparedWith, Evidence, FeatureEvidence, Severity},
    trail::{Digest, MAX_MARKS, quantile},
};

use super::{Account, Detector, Subject};

const MINUTE: Duration = Duration::from_mins(1);

/// The ninth decile of the request sizes, and of the answer sizes, over the first.
const MOST_REQUEST_RATIO: f64 = 1.15;
const MOST_ANSWER_RATIO: f64 = 1.05;
const MOST_ANSWER_BYTES: f64 = 4096.0;

#[derive(Debug)]
pub(super) struct Flood;

/// Whether a client repeats one small exchange.
fn is_repetition(digest: &Digest) -> bool {
    let ratio = |sorted: &[f64]| quantile(sorted, 0.9) / quantile(sorted, 0.1).max(1.0);
    quantile(&digest.answer_bytes, 0.5) <= MOST_ANSWER_BYTES
        && ratio(&digest.answer_bytes) <= MOST_ANSWER_RATIO
        && ratio(&digest.request_bytes) <= MOST_REQUEST_RATIO
}

/// Requests of a minute that are not unusual, and for whom.
fn usual(subject: &Subject<'_>) -> (f64, ComparedWith) {
    let others = subject.norms.busiest_minute(Some(subject.id), subject.now);
    match subject.past.usual(subject.now) {
        Some(own) if own > others => (own, ComparedWith::Own),
        _ => (others, ComparedWith::Population),
    }
}

impl Detector for Flood {
    fn kind(&self) -> AnomalyKind {
        AnomalyKind::Flood
    }

    fn scale(&self) -> f64 {
        5.0
    }

    fn weigh(&self, subject: &Subject<'_>) -> f64 {
        if subject.trail.len() < MAX_MARKS || !is_repetition(subject.digest) {
            return 0.0;
        }
        let requests = subject.window.requests_between(subject.now - MINUTE, subject.now) as f64;
        let (usual, _) = usual(subject);
        if requests <= usual { 0.0 } else { requests * (requests / usual).ln() + usual - requests }
    }

    fn explain(&self, subject: &Subject<'_>) -> Option<Account> {
        let requests = subject.window.requests_between(subject.now - MINUTE, subject.now);
        let (usual, compared_with) = usual(subject);
        let newest = subject.trail.newest()?;
        Some(Account {
            severity: Severity::High,
            first_seen: subject.trail.iter().next()?.start,
            evidence: Evidence {
                summary: format!(
                    "Sent {requests} requests in the last minute, all of {} bytes with answers of {} bytes; {} {usual:.0}.",
                    newest.request_bytes,
                    newest.answer_bytes,
                    match compared_with {
                        ComparedWith::Own => "at this time of the day it usually has a minute with",
                        _ => "few clients ever have a minute with",
                    },
                ),
                features: vec![FeatureEvidence {
                    feature: "request_rate",
                    value: requests as f64 / 60.0,
                    baseline: usual / 60.0,
                    unit: "1/s",
                    compared_with,
                    deviation: (requests as f64 - usual) / usual.sqrt(),
                }],
                series: vec![subject.window.rate_series(subject.now)],
                exchanges: requests,
            },
        })
    }
}
