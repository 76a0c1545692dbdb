//! `bulk_extraction`: many varied questions with long answers, from workers that never rest.
//!
//! Rule. Over the last ten to fifteen minutes, nine at least, the client asked ten questions a minute or more that
//! differ in size (20 % or more about their mean), and got 256 tokens or more each, more than one at a time. The evidence is how much more evenly they came than at
//! random ([`Sums::evenness`], [`Window::steadiness`](crate::window::Window::steadiness)), and how unusual their cost is among the most costly ten minutes of other clients; it must
//! be in the highest fifth.
//! People and applications ask in bursts, a pool of workers that has a list to finish does not. What the client asked
//! at this time of its earlier days, without having been suspected, is its daily work.
//!
//! Evidence: cost against the population, the rate against the own past once that is known, the evenness, concurrency;
//! the rate over ten minutes.
//!
//! Known false positives: a first batch job over varied documents, a load test with recorded prompts: give such a
//! client a contract. Known misses: extraction that is paced to look like bursts; one that asks with constant
//! sizes is `template_sweep`, one spread over addresses is a campaign; less than ten questions a minute; a single
//! worker that waits for each answer.
//!
//! ATLAS: AML.T0024.002, Extract AI Model.

use crate::{
    anomaly::{AnomalyKind, ComparedWith, Evidence, FeatureEvidence, Severity},
    pace::Sums,
};

use super::{Account, Detector, Subject};

/// Gaps enough that their distribution shows.
const LEAST_REQUESTS_PER_S: f64 = 10.0 / 60.0;

/// Shorter bursts are every batch job's.
const LEAST_SECONDS: f64 = 540.0;

/// Requests of one kind of job differ less.
const LEAST_REQUEST_SPREAD: f64 = 0.2;

/// Answers a student can learn from; labels and short extracts are shorter.
const LEAST_ANSWER_TOKENS: f64 = 256.0;

/// A loop that waits for each answer, an agent's or any script's, has one request in progress at most.
const LEAST_CONCURRENCY: f64 = 1.1;

/// Nats of the highest fifth.
const UNUSUAL: f64 = 1.609;

#[derive(Debug)]
pub(super) struct BulkExtraction;

fn candidate(subject: &Subject<'_>) -> Option<Sums> {
    let sums = subject.pace.total(subject.now);
    let is_candidate = sums.seconds() >= LEAST_SECONDS
        && f64::from(sums.requests) >= LEAST_REQUESTS_PER_S * sums.seconds()
        && sums.request_spread() >= LEAST_REQUEST_SPREAD
        && sums.tokens_per_answer() >= LEAST_ANSWER_TOKENS
        && sums.concurrency() >= LEAST_CONCURRENCY
        && subject.norms.costs.without(subject.id).surprise(sums.cost()) >= UNUSUAL;
    let is_daily = subject.past.usual(subject.now).is_some_and(|usual| per_minute(&sums) <= usual);
    (is_candidate && !is_daily).then_some(sums)
}

fn per_minute(sums: &Sums) -> f64 {
    f64::from(sums.requests) * 60.0 / sums.seconds().max(1.0)
}

/// How the rate compares with the client's own past.
fn own_rate(subject: &Subject<'_>, sums: &Sums) -> Option<FeatureEvidence> {
    let (value, usual) = (per_minute(sums), subject.past.usual(subject.now)?);
    Some(FeatureEvidence {
        feature: "request_rate",
        value: value / 60.0,
        baseline: usual / 60.0,
        unit: "1/s",
        compared_with: ComparedWith::Own,
        deviation: (value - usual) / usual.max(1.0).sqrt(),
    })
}

/// A limiter shows in the gaps, a pool of several workers only in how many requests come in a minute.
fn evenness(subject: &Subject<'_>, sums: &Sums) -> f64 {
    sums.evenness().max(subject.window.steadiness(subject.now, sums.seconds_per_answer()))
}

impl Detector for BulkExtraction {
    fn kind(&self) -> AnomalyKind {
        AnomalyKind::BulkExtraction
    }

    fn scale(&self) -> f64 {
        3.0
    }

    fn weigh(&self, subject: &Subject<'_>) -> f64 {
        candidate(subject).map_or(0.0, |sums| {
            let cost = subject.norms.costs.without(subject.id).surprise(sums.cost());
            let evenness = evenness(subject, &sums);
            if evenness > 0.0 { cost + evenness } else { 0.0 }
        })
    }

    fn explain(&self, subject: &Subject<'_>) -> Option<Account> {
        let sums = candidate(subject)?;
        let costs = subject.norms.costs.without(subject.id);
        let (cost, usual) = (sums.cost(), costs.median().unwrap_or_default());
        let minutes = sums.seconds() / 60.0;
        let mut features = vec![
            FeatureEvidence {
                feature: "cost",
                value: cost,
                baseline: usual,
                unit: "tokens",
                compared_with: ComparedWith::Population,
                deviation: costs.surprise(cost),
            },
            FeatureEvidence {
                feature: "evenness",
                value: evenness(subject, &sums),
                baseline: 0.0,
                unit: "nats",
                compared_with: ComparedWith::Limit,
                deviation: evenness(subject, &sums),
            },
        ];
        features.extend(own_rate(subject, &sums));
        Some(Account {
            severity: Severity::Medium,
            first_seen: subject.trail.iter().next()?.start,
            evidence: Evidence {
                summary: format!(
                    "Asked {} varied questions in {minutes:.0} min without a pause and took {:.0} tokens of answers, {:.0} \
                     each, with {:.1} requests in progress; people and applications ask in bursts.",
                    sums.requests,
                    sums.answer_tokens,
                    sums.tokens_per_answer(),
                    sums.concurrency(),
                ),
                features,
                series: vec![subject.window.rate_series(subject.now)],
                exchanges: sums.requests.into(),
            },
        })
    }
}
