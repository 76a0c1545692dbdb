//! `slow_drip`: requests that hold a slot open and move hardly anything.
//!
//! Rule. Of the last requests, at least 16, most lasted far longer than other clients' do, while less than 64 bytes a
//! second passed in either direction, and several were held at once. The evidence is how unusual the median duration is
//! among clients, once for each request held.
//!
//! Evidence: duration against the population, bytes a second, requests in progress; the rate over ten minutes.
//!
//! Known false positives: clients on very slow links; long polling. Known misses: connections without a
//! request, which are no exchanges; drips that a proxy in front of the service buffers.
//!
//! ATLAS: AML.T0029, Denial of AI Service.

use crate::{
    anomaly::{AnomalyKind, ComparedWith, Evidence, FeatureEvidence, Severity},
    trail::{Mark, quantile},
};

use super::{Account, Detector, Subject};

const LEAST_REQUESTS: usize = 16;

/// Slower than any model writes, faster than a connection that is kept alive.
const DRIP_BYTES_PER_S: f64 = 64.0;

/// Requests held at once that are a crowd.
const LEAST_HELD: f64 = 2.0;

#[derive(Debug)]
pub(super) struct SlowDrip;

struct Drip {
    seconds: f64,
    held: f64,
    surprise: f64,
}

fn drip(subject: &Subject<'_>) -> Option<Drip> {
    if subject.trail.len() < LEAST_REQUESTS {
        return None;
    }
    let pace =
        |mark: &Mark| f64::from(mark.request_bytes.max(mark.answer_bytes)) / mark.duration_s().max(1e-3);
    let seconds = quantile(&subject.digest.seconds, 0.5);
    let most = quantile(&subject.digest.request_bytes, 0.5).max(quantile(&subject.digest.answer_bytes, 0.5));
    // The median of the pace is only worked out where it may be slow enough.
    if most > 2.0 * DRIP_BYTES_PER_S * seconds
        || quantile(&subject.trail.sorted(pace), 0.5) > DRIP_BYTES_PER_S
    {
        return None;
    }
    let (first, last) = (subject.trail.iter().next()?, subject.trail.newest()?);
    let span = last.end().since(first.start).as_secs_f64().max(1.0);
    let held = subject.trail.iter().map(Mark::duration_s).sum::<f64>() / span;
    let surprise = subject.norms.durations.without(subject.id).surprise(seconds);
    (held >= LEAST_HELD).then_some(Drip { seconds, held, surprise })
}

impl Detector for SlowDrip {
    fn kind(&self) -> AnomalyKind {
        AnomalyKind::SlowDrip
    }

    fn scale(&self) -> f64 {
        5.0
    }

    fn weigh(&self, subject: &Subject<'_>) -> f64 {
        drip(subject).map_or(0.0, |drip| drip.surprise * drip.held)
    }

    fn explain(&self, subject: &Subject<'_>) -> Option<Account> {
        let drip = drip(subject)?;
        let usual = subject.norms.durations.without(subject.id).median()?;
        let requests = subject.trail.len();
        Some(Account {
            severity: Severity::Medium,
            first_seen: subject.trail.iter().next()?.start,
            evidence: Evidence {
                summary: format!(
                    "Held {:.1} requests open at a time for {:.0} s each, {:.0} times the usual, while less than {DRIP_BYTES_PER_S:.0} \
                     bytes a second passed.",
                    drip.held,
                    drip.seconds,
                    drip.seconds / usual.max(1e-3),
                ),
                features: vec![FeatureEvidence {
                    feature: "duration_median",
                    value: drip.seconds,
                    baseline: usual,
                    unit: "s",
                    compared_with: ComparedWith::Population,
                    deviation: drip.surprise,
                }],
                series: vec![subject.window.rate_series(subject.now)],
                exchanges: requests as u64,
            },
        })
    }
}
