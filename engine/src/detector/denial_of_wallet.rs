//! `denial_of_wallet`: contexts far longer than anybody's, at a cost that is held.
//!
//! Rule. The evidence is how unusual among clients the median size of the client's last requests is, and that of its answers,
//! how unusual the cost of its last ten to fifteen minutes is among the most costly ten minutes of other clients,
//! and how surely its answers run into the service's limit. The first three must be in the highest tenth, over at
//! least 16 requests.
//!
//! Evidence: request size and cost against the population, the requests in progress; the rate over ten minutes.
//!
//! Known false positives: the first client that reads whole books or repositories with the model. Known misses:
//! costs made by many small requests (`flood`, `bulk_extraction`), and by so few that they are no harm.
//!
//! ATLAS: AML.T0034.001, Resource-Intensive Queries.

use crate::{
    anomaly::{AnomalyKind, ComparedWith, Evidence, FeatureEvidence, Severity},
    trail::quantile,
};

use super::{Account, Detector, Subject};

const LEAST_REQUESTS: usize = 16;

/// Nats of the highest tenth.
const UNUSUAL: f64 = std::f64::consts::LN_10;

#[derive(Debug)]
pub(super) struct DenialOfWallet;

struct Weight {
    request_bytes: f64,
    request: f64,
    cost: f64,
    costs: f64,
    answer_tokens: f64,
    answer: f64,
}

fn weight(subject: &Subject<'_>) -> Option<Weight> {
    if subject.trail.len() < LEAST_REQUESTS {
        return None;
    }
    let request_bytes = quantile(&subject.digest.request_bytes, 0.5);
    let request = subject.norms.request_bytes.without(subject.id).surprise(request_bytes);
    let cost = subject.pace.total(subject.now).cost();
    if request < UNUSUAL || cost <= 0.0 {
        return None;
    }
    let costs = subject.norms.costs.without(subject.id).surprise(cost);
    let answer_tokens = quantile(&subject.digest.tokens, 0.5);
    let answer = subject.norms.answer_tokens.without(subject.id).surprise(answer_tokens);
    (costs >= UNUSUAL && answer >= UNUSUAL).then_some(Weight {
        request_bytes,
        request,
        cost,
        costs,
        answer_tokens,
        answer,
    })
}

impl Detector for DenialOfWallet {
    fn kind(&self) -> AnomalyKind {
        AnomalyKind::DenialOfWallet
    }

    fn scale(&self) -> f64 {
        5.0
    }

    fn weigh(&self, subject: &Subject<'_>) -> f64 {
        weight(subject)
            .map_or(0.0, |weight| weight.request + weight.costs + weight.answer + subject.digest.cap().nats)
    }

    fn explain(&self, subject: &Subject<'_>) -> Option<Account> {
        let weight = weight(subject)?;
        let sums = subject.pace.total(subject.now);
        let usual_bytes = subject.norms.request_bytes.without(subject.id).median()?;
        let usual_cost = subject.norms.costs.without(subject.id).median()?;
        Some(Account {
            severity: Severity::High,
            first_seen: subject.trail.iter().next()?.start,
            evidence: Evidence {
                summary: format!(
                    "Sends requests of {:.0} KB, {:.0} times the usual, {} in {:.0} min with {:.1} in progress, for about {:.0} \
                     tokens asked and {:.0} answered.",
                    weight.request_bytes / 1e3,
                    weight.request_bytes / usual_bytes.max(1.0),
                    sums.requests,
                    sums.seconds() / 60.0,
                    sums.concurrency(),
                    sums.request_tokens,
                    sums.answer_tokens,
                ),
                features: vec![
                    FeatureEvidence {
                        feature: "request_bytes_median",
                        value: weight.request_bytes,
                        baseline: usual_bytes,
                        unit: "bytes",
                        compared_with: ComparedWith::Population,
                        deviation: weight.request,
                    },
                    FeatureEvidence {
                        feature: "answer_tokens_median",
                        value: weight.answer_tokens,
                        baseline: subject.norms.answer_tokens.without(subject.id).median()?,
                        unit: "tokens",
                        compared_with: ComparedWith::Population,
                        deviation: weight.answer,
                    },
                    FeatureEvidence {
                        feature: "cost",
                        value: weight.cost,
                        baseline: usual_cost,
                        unit: "tokens",
                        compared_with: ComparedWith::Population,
                        deviation: weight.costs,
                    },
                ],
                series: vec![subject.window.rate_series(subject.now)],
                exchanges: sums.requests.into(),
            },
        })
    }
}
