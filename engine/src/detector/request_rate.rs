//! `request_rate`: many more requests in a minute than is usual.
//!
//! Rule. Over the last minute the client sent at least `min_requests`, and
//! - when its own past is known (30 minutes with requests): more than `own_factor` times its own
//!   busy minute (the 99th percentile), and more than the population's busy minute;
//! - when not: more than `population_factor` times the population's busy minute, which is the
//!   98th percentile over the other clients of what each sends in its own busy minutes.
//!
//! While an anomaly is open these limits are 30 % lower. With fewer than `min_clients` other
//! clients the population says nothing; a client without a past is then not judged.
//!
//! Evidence: the last minute's requests against each baseline that decided, and the rate over ten
//! minutes.
//!
//! Known false positives: a batch job or load test that a client runs for the first time; a new
//! office or gateway behind one address (replaying three days of 670 real clients' arrival patterns
//! gave 8 such alerts per 1,000 clients and day). Known misses: anything spread over many clients, and
//! a load that grows slower than the baseline learns.
//!
//! ATLAS: AML.T0040, AI Model Inference API Access.

use std::time::Duration;

use crate::{
    RequestRateConfig,
    anomaly::{AnomalyKind, ComparedWith, Evidence, FeatureEvidence, Severity},
    baseline::Spread,
};

use super::{Detector, Finding, Subject};

/// Minutes with requests after which a client's own past is known.
const OWN_MINUTES: f64 = 30.0;
const OWN_BUSY: f64 = 0.99;
const POPULATION_BUSY: f64 = 0.98;
const MINUTE: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct RequestRate {
    config: RequestRateConfig,
}

/// A baseline and the limit that follows from it.
struct Comparison {
    with: ComparedWith,
    busy: f64,
    limit: f64,
    spread: Spread,
}

impl RequestRate {
    pub(super) fn new(config: RequestRateConfig) -> Self {
        Self { config }
    }

    fn comparisons(&self, subject: &Subject<'_>) -> Vec<Comparison> {
        let own = self.own(subject);
        // A client that left its own past has still to stand out among its peers, but no more.
        let factor = if own.is_some() { 1.0 } else { self.config.population_factor };
        own.into_iter().chain(self.population(subject, factor)).collect()
    }

    fn own(&self, subject: &Subject<'_>) -> Option<Comparison> {
        let busy = subject.past.quantile(OWN_BUSY).filter(|_| subject.past.minutes() >= OWN_MINUTES)?;
        let spread = subject.past.spread()?;
        Some(Comparison { with: ComparedWith::Own, busy, limit: busy * self.config.own_factor, spread })
    }

    fn population(&self, subject: &Subject<'_>, factor: f64) -> Option<Comparison> {
        let others = subject.norms.busy_minutes.without(subject.id);
        if others.len() < self.config.min_clients {
            return None;
        }
        let busy = others.quantile(POPULATION_BUSY)?;
        Some(Comparison {
            with: ComparedWith::Population,
            busy,
            limit: busy * factor,
            spread: others.spread()?,
        })
    }
}

impl Detector for RequestRate {
    fn kind(&self) -> AnomalyKind {
        AnomalyKind::RequestRate
    }

    fn judge(&self, subject: &Subject<'_>) -> Option<Finding> {
        let from = subject.now - MINUTE;
        let requests = subject.window.requests_between(from, subject.now);
        let value = requests as f64;
        if value < subject.standing.ease(f64::from(self.config.min_requests)) {
            return None;
        }
        let comparisons = self.comparisons(subject);
        let exceeds = |comparison: &Comparison| value > subject.standing.ease(comparison.limit);
        if comparisons.is_empty() || !comparisons.iter().all(exceeds) {
            return None;
        }
        let first = subject.window.between(from, subject.now).next()?;
        let last = subject.window.between(from, subject.now).next_back()?;
        // The first comparison is the stricter judge: the own past where there is one.
        let times = value / comparisons[0].busy.max(1.0);
        Some(Finding {
            score: (1.0 - 1.0 / times.max(1.0)).clamp(0.0, 1.0),
            severity: severity(times),
            first_seen: first.start,
            last_seen: last.start,
            evidence: Evidence {
                summary: summary(requests, times, &comparisons),
                features: comparisons.iter().map(|comparison| feature(value, comparison)).collect(),
                series: vec![subject.window.rate_series(subject.now)],
                exchanges: requests,
            },
        })
    }
}

fn severity(times: f64) -> Severity {
    match times {
        50.0.. => Severity::High,
        10.0.. => Severity::Medium,
        _ => Severity::Low,
    }
}

fn summary(requests: u64, times: f64, comparisons: &[Comparison]) -> String {
    let usual: Vec<String> = comparisons
        .iter()
        .map(|comparison| match comparison.with {
            ComparedWith::Own => format!("a busy minute of its own past has {:.0}", comparison.busy),
            _ => format!("one of the other clients has {:.0}", comparison.busy),
        })
        .collect();
    format!("Sent {requests} requests in the last minute, {times:.1} times the usual: {}.", usual.join(", "))
}

fn feature(value: f64, comparison: &Comparison) -> FeatureEvidence {
    FeatureEvidence {
        feature: "requests_per_minute",
        value,
        baseline: comparison.busy,
        unit: "1/min",
        compared_with: comparison.with,
        // Counts vary by their square root at least.
        deviation: comparison.spread.deviation(value, comparison.spread.median.max(1.0).sqrt()),
    }
}
