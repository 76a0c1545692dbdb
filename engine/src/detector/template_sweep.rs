//! `template_sweep`: one skeleton with varied slots, whose answers run into a cap.
//!
//! Rule. Of the last 64 requests nine in ten have nearly one size (the largest of them at most a quarter above the
//! smallest), and many answers have exactly the size of the longest ones, which is at least 200 tokens: whoever
//! sets `max_tokens` for a data set gets that. The evidence is how much likelier so many capped answers are here
//! than with other clients, where one in fifty is ([`CAPPED`]): requests times the divergence of the two shares.
//!
//! Evidence: the share of capped answers, the cap, the spread of the request sizes; the rate over ten minutes.
//!
//! Known false positives: a form that an application fills in, with a cap that cuts most answers off. Known
//! misses: answers that end by themselves, slots as long as the skeleton, caps that vary.
//!
//! ATLAS: AML.T0005.001, Train Proxy via Replication.

use crate::{
    anomaly::{AnomalyKind, ComparedWith, Evidence, FeatureEvidence, Severity},
    trail::{CAPPED, Cap, MAX_MARKS, quantile},
};

use super::{Account, Detector, Subject};

/// Below this a cap and a short answer look the same.
const LEAST_CAP_TOKENS: f64 = 200.0;

/// The ninth decile of the request sizes over the first.
const MOST_REQUEST_RATIO: f64 = 1.25;

#[derive(Debug)]
pub(super) struct TemplateSweep;

struct Sweep {
    request_bytes: f64,
    request_ratio: f64,
    cap: Cap,
}

fn sweep(subject: &Subject<'_>) -> Option<Sweep> {
    let cap = subject.digest.cap();
    if subject.trail.len() < MAX_MARKS / 2 || cap.tokens < LEAST_CAP_TOKENS {
        return None;
    }
    let requests = &subject.digest.request_bytes;
    let request_ratio = quantile(requests, 0.9) / quantile(requests, 0.1).max(1.0);
    let request_bytes = quantile(requests, 0.5);
    (request_ratio <= MOST_REQUEST_RATIO).then_some(Sweep { request_bytes, request_ratio, cap })
}

impl Detector for TemplateSweep {
    fn kind(&self) -> AnomalyKind {
        AnomalyKind::TemplateSweep
    }

    fn scale(&self) -> f64 {
        5.0
    }

    fn weigh(&self, subject: &Subject<'_>) -> f64 {
        sweep(subject).map_or(0.0, |sweep| sweep.cap.nats)
    }

    fn explain(&self, subject: &Subject<'_>) -> Option<Account> {
        let sweep = sweep(subject)?;
        let requests = subject.trail.len();
        Some(Account {
            severity: Severity::Medium,
            first_seen: subject.trail.iter().next()?.start,
            evidence: Evidence {
                summary: format!(
                    "The last {requests} requests had {:.0} bytes, nine in ten within a factor of {:.2}, and {:.0} % of the \
                     answers were cut off at {:.0} tokens: one template is being filled in, for answers of a fixed \
                     length.",
                    sweep.request_bytes,
                    sweep.request_ratio,
                    sweep.cap.share * 100.0,
                    sweep.cap.tokens,
                ),
                features: vec![
                    FeatureEvidence {
                        feature: "capped_answers",
                        value: sweep.cap.share,
                        baseline: CAPPED,
                        unit: "1",
                        compared_with: ComparedWith::Limit,
                        deviation: sweep.cap.nats,
                    },
                    FeatureEvidence {
                        feature: "request_size_ratio",
                        value: sweep.request_ratio,
                        baseline: MOST_REQUEST_RATIO,
                        unit: "1",
                        compared_with: ComparedWith::Limit,
                        deviation: 0.0,
                    },
                ],
                series: vec![subject.window.rate_series(subject.now)],
                exchanges: requests as u64,
            },
        })
    }
}
