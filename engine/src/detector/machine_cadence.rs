//! `machine_cadence`: requests at machine-regular intervals.
//!
//! Rule. The last `min_requests` requests (of the last ten minutes) began at intervals whose
//! coefficient of variation and whose MAD over median are at most `max_cv`, with a median of at
//! least `min_interval_s`; and the regularity is the client's own, not an echo of the answers:
//! - either it waits: the median pause between the end of the previous answer and the next request
//!   is at least 0.35 s, more than a round trip on a long path;
//! - or it keeps time: starts are at least twice as regular as the answers' durations.
//!
//! So a loop that asks again as soon as it has its answer does not count, however even the answers
//! are: there the interval is the duration plus a round trip. Nor does a health probe: requests of
//! one size with answers of one small size (all within 5 %, at most 4 KiB) learn nothing.
//!
//! Evidence: CV, MAD over median, median interval, pause, and the intervals themselves.
//!
//! Known false positives: monitors that send varied prompts, schedulers. Known misses: several
//! clients behind one address (their starts mix, and hide a metronome among them), jitter on
//! purpose, intervals beyond 50 s (too few in ten minutes), loops faster than `min_interval_s`.
//!
//! ATLAS: AML.T0005.001, Train Proxy via Replication.

use crate::{
    MachineCadenceConfig, Nanos,
    anomaly::{AnomalyKind, ComparedWith, Evidence, FeatureEvidence, Series, Severity},
    baseline::Spread,
    window::{Gaps, Sample, standard_deviation},
};

use super::{Detector, Finding, Standing, Subject};

/// Longer than a round trip and the client's own work between an answer and the next request.
const DELIBERATE_PAUSE_S: f64 = 0.35;

/// How much more regular than the durations starts must be to keep time by themselves.
const STEADIER_THAN_DURATIONS: f64 = 2.0;

/// A probe's sizes all lie within this share of their median, and its answers are this small.
const PROBE_SIZE_SPREAD: f64 = 0.05;
const PROBE_ANSWER_BYTES: f64 = 4096.0;

/// An interval this far from the median ends the regular run, seen backwards.
const RUN_TOLERANCE: f64 = 0.4;

/// How far above the limit an open anomaly may go.
const OPEN_EASE: f64 = 1.5;

/// CV of arrivals that are independent of each other, and how it varies over a dozen of them.
const RANDOM_CV: Spread = Spread { median: 1.0, mad: 0.17 };

#[derive(Debug)]
pub(super) struct MachineCadence {
    config: MachineCadenceConfig,
}

impl MachineCadence {
    pub(super) fn new(config: MachineCadenceConfig) -> Self {
        Self { config }
    }
}

impl Detector for MachineCadence {
    fn kind(&self) -> AnomalyKind {
        AnomalyKind::MachineCadence
    }

    fn judge(&self, subject: &Subject<'_>) -> Option<Finding> {
        let recent: Vec<&Sample> = subject.window.recent(subject.now).collect();
        let newest = &recent[recent.len().checked_sub(self.config.min_requests)?..];
        let gaps = Gaps::of(newest.iter().map(|sample| sample.start));
        let (cv, spread) = (gaps.cv()?, gaps.spread()?);
        let limit = match subject.standing {
            Standing::Clear => self.config.max_cv,
            Standing::Open => self.config.max_cv * OPEN_EASE,
        };
        if cv > limit || spread.mad > limit * spread.median || spread.median < self.config.min_interval_s {
            return None;
        }
        let pause = median_pause(newest);
        let waits = pause.is_some_and(|pause| pause >= DELIBERATE_PAUSE_S);
        if !(waits || keeps_time(newest, &gaps)) || is_probe(newest) {
            return None;
        }
        let run = &recent[run_start(&recent, spread.median)..];
        let (first, last) = (run.first()?, run.last()?);
        Some(Finding {
            score: score(cv, limit, run.len()),
            severity: if run.len() >= 60 { Severity::High } else { Severity::Medium },
            first_seen: first.start,
            last_seen: last.start,
            evidence: Evidence {
                summary: format!(
                    "Sent {} requests in a row, one every {:.2} s, within {:.1} % of that: a machine keeps \
                     this time, not a person or a loop that waits for answers.",
                    run.len(),
                    spread.median,
                    cv * 100.0
                ),
                features: features(cv, limit, spread, self.config.min_interval_s, pause),
                series: vec![interval_series(run, spread.median)],
                exchanges: run.len() as u64,
            },
        })
    }
}

/// Where the run of even intervals that lasts until now began.
fn run_start(recent: &[&Sample], median: f64) -> usize {
    let is_break = |pair: &[&Sample]| {
        let gap = pair[1].start.since(pair[0].start).as_secs_f64();
        (gap - median).abs() > RUN_TOLERANCE * median
    };
    recent.windows(2).rposition(is_break).map_or(0, |at| at + 1)
}

/// Median time from the latest end of an earlier answer to the next start; `None` when requests
/// always overlapped.
fn median_pause(samples: &[&Sample]) -> Option<f64> {
    let pauses = (1..samples.len()).filter_map(|at| {
        let start = samples[at].start;
        let end = samples[..at].iter().map(|sample| sample.end()).filter(|end| *end <= start).max()?;
        Some(start.since(end).as_secs_f64())
    });
    Spread::of(pauses.collect()).map(|pauses| pauses.median)
}

fn keeps_time(samples: &[&Sample], gaps: &Gaps) -> bool {
    let durations: Vec<f64> = samples.iter().map(|sample| sample.duration.as_secs_f64()).collect();
    standard_deviation(&durations) >= STEADIER_THAN_DURATIONS * standard_deviation(&gaps.0)
        && standard_deviation(&durations) > 0.0
}

fn is_probe(samples: &[&Sample]) -> bool {
    let answers = spread_of(samples, |sample| sample.answer_bytes);
    let requests = spread_of(samples, |sample| sample.request_bytes);
    answers.is_some_and(|(median, range)| median <= PROBE_ANSWER_BYTES && range <= PROBE_SIZE_SPREAD * median)
        && requests.is_some_and(|(median, range)| range <= PROBE_SIZE_SPREAD * median)
}

/// Median, and the distance between the smallest and the largest.
fn spread_of(samples: &[&Sample], size: impl Fn(&Sample) -> u64) -> Option<(f64, f64)> {
    let sizes: Vec<f64> = samples.iter().map(|sample| size(sample) as f64).collect();
    let (low, high) = sizes
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), size| (low.min(*size), high.max(*size)));
    Spread::of(sizes).map(|spread| (spread.median, high - low))
}

/// Even intervals speak louder the longer they last.
fn score(cv: f64, limit: f64, run: usize) -> f64 {
    let regularity = 1.0 - 0.5 * cv / limit;
    let length = run as f64 / (run as f64 + 4.0);
    (regularity * length).clamp(0.0, 1.0)
}

fn features(
    cv: f64,
    limit: f64,
    spread: Spread,
    min_interval_s: f64,
    pause: Option<f64>,
) -> Vec<FeatureEvidence> {
    let feature = |feature, value: f64, baseline, unit, deviation| FeatureEvidence {
        feature,
        value,
        baseline,
        unit,
        compared_with: ComparedWith::Limit,
        deviation,
    };
    let from_random = RANDOM_CV.deviation(cv, 0.1);
    let mut features = vec![
        feature("interarrival_cv", cv, limit, "1", from_random),
        feature("interarrival_mad_over_median", spread.mad / spread.median, limit, "1", from_random),
        feature("interarrival_median", spread.median, min_interval_s, "s", 0.0),
    ];
    if let Some(pause) = pause {
        features.push(feature("pause_median", pause, DELIBERATE_PAUSE_S, "s", 0.0));
    }
    features
}

/// The last 60 intervals of the run.
fn interval_series(run: &[&Sample], median: f64) -> Series {
    let shown = &run[run.len().saturating_sub(61)..];
    Series {
        feature: "interarrival",
        unit: "s",
        start: shown.first().map_or(Nanos::default(), |sample| sample.start),
        step: std::time::Duration::from_secs_f64(median),
        values: Gaps::of(shown.iter().map(|sample| sample.start)).0,
    }
}
