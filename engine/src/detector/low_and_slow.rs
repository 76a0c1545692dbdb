//! `low_and_slow`: a machine's even pace, kept up.
//!
//! Rule. The gaps between requests are so much likelier under one even pace than at random
//! ([`crate::cadence`]). A scatter of up to 10 % counts from the first requests on; one of about 30 %, which a
//! person reading answers also keeps for a while, only when it lasted two hours. And the pace is the client's own:
//! - either it waits: the median pause from the end of an answer to the next request is at least 0.35 s;
//! - or it keeps time: starts are at least twice as regular as the answers' durations.
//!
//! So a loop that asks again as soon as it has its answer does not count. Nor do gaps between small
//! answers of one size: a probe, or a library that tries again while the service answers with an error, learns nothing.
//!
//! Evidence: the pace, its scatter, how many gaps and hours it lasted; the last gaps themselves.
//!
//! Known false positives: schedulers and monitors that send varied prompts. Known misses: several clients behind
//! one address, whose starts mix; scatter beyond 40 %; less than twelve requests.
//!
//! ATLAS: AML.T0005.001, Train Proxy via Replication.

use std::time::Duration;

use crate::{
    Nanos,
    anomaly::{AnomalyKind, ComparedWith, Evidence, FeatureEvidence, Series, Severity},
    baseline::Spread,
    cadence::Sum,
    trail::Mark,
    window::{Gaps, standard_deviation},
};

use super::{Account, Detector, Subject};

/// From this scatter on, time must vouch for the pace.
const LOOSE: f64 = 0.3;
const LOOSE_FOR_S: f32 = 7200.0;

/// Longer than a round trip and the client's own work between an answer and the next request.
const DELIBERATE_PAUSE_S: f64 = 0.35;

/// How much more regular than the durations starts must be to keep time by themselves.
const STEADIER_THAN_DURATIONS: f64 = 2.0;

/// CV of arrivals that are independent of each other, and how it varies over a dozen of them.
const RANDOM_CV: Spread = Spread { median: 1.0, mad: 0.17 };

/// Shown at most.
const SHOWN_GAPS: usize = 60;

#[derive(Debug)]
pub(super) struct LowAndSlow;

fn best(subject: &Subject<'_>) -> Option<(f64, Sum)> {
    let counts = |sigma: f64, sum: &Sum| sum.nats > 0.0 && (sigma < LOOSE || sum.seconds >= LOOSE_FOR_S);
    let (sigma, sum) = subject.cadence.best(counts)?;
    let marks: Vec<&Mark> = subject.trail.iter().collect();
    (waits(&marks) || keeps_time(&marks)).then_some((sigma, sum))
}

impl Detector for LowAndSlow {
    fn kind(&self) -> AnomalyKind {
        AnomalyKind::LowAndSlow
    }

    fn scale(&self) -> f64 {
        5.0
    }

    fn weigh(&self, subject: &Subject<'_>) -> f64 {
        best(subject).map_or(0.0, |(_, sum)| sum.nats.into())
    }

    fn explain(&self, subject: &Subject<'_>) -> Option<Account> {
        let (sigma, sum) = best(subject)?;
        let starts = subject.trail.iter().map(|mark| mark.start);
        let gaps = Gaps::of(starts.skip(subject.trail.len().saturating_sub(SHOWN_GAPS + 1)));
        let spread = gaps.spread()?;
        let scatter = spread.mad * 1.4826;
        Some(Account {
            severity: if sum.seconds >= LOOSE_FOR_S { Severity::Medium } else { Severity::Low },
            first_seen: sum.since,
            evidence: Evidence {
                summary: format!(
                    "Asked every {:.1} s ± {scatter:.1} s for {}, {} times in a row: a machine keeps this time, not a \
                     person or a loop that waits for answers.",
                    spread.median,
                    span(sum.seconds.into()),
                    sum.gaps,
                ),
                features: vec![
                    FeatureEvidence {
                        feature: "interarrival_scatter",
                        value: scatter / spread.median.max(1e-9),
                        baseline: 1.0,
                        unit: "1",
                        compared_with: ComparedWith::Limit,
                        deviation: RANDOM_CV.deviation(sigma, 0.1),
                    },
                    FeatureEvidence {
                        feature: "regular_gaps",
                        value: sum.gaps.into(),
                        baseline: 0.0,
                        unit: "1",
                        compared_with: ComparedWith::Limit,
                        deviation: sum.nats.into(),
                    },
                ],
                series: vec![Series {
                    feature: "interarrival",
                    unit: "s",
                    start: subject.trail.iter().next().map_or(Nanos::default(), |mark| mark.start),
                    step: Duration::from_secs_f64(spread.median),
                    values: gaps.0,
                }],
                exchanges: u64::from(sum.gaps) + 1,
            },
        })
    }
}

/// A span as people say it.
fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}

/// Whether it pauses between the latest end of an earlier answer and the next start.
fn waits(marks: &[&Mark]) -> bool {
    let mut latest = Nanos::default();
    let mut pauses = Vec::new();
    for pair in marks.windows(2) {
        latest = latest.max(pair[0].end());
        if latest <= pair[1].start {
            pauses.push(pair[1].start.since(latest).as_secs_f64());
        }
    }
    Spread::of(pauses).is_some_and(|pauses| pauses.median >= DELIBERATE_PAUSE_S)
}

fn keeps_time(marks: &[&Mark]) -> bool {
    let durations: Vec<f64> = marks.iter().map(|mark| mark.duration_s()).collect();
    let gaps = Gaps::of(marks.iter().map(|mark| mark.start));
    let scatter = standard_deviation(&durations);
    scatter > 0.0 && scatter >= STEADIER_THAN_DURATIONS * standard_deviation(&gaps.0)
}
