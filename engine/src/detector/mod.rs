//! Named rules: what the engine knows of one client goes in; evidence, in nats, and an account come out.
//!
//! A detector keeps no state and has no threshold of its own. It says how strong the evidence is, on the scale of a
//! log-likelihood ratio or of the unusualness among clients; the engine compares that with what benign clients
//! reach ([`Norms::threshold`]), so that one budget of false alarms rules them all.

mod bulk_extraction;
mod denial_of_wallet;
mod flood;
mod logit_harvest;
mod low_and_slow;
mod slow_drip;
mod template_sweep;

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    ClientId, EngineConfig, Nanos,
    anomaly::{AnomalyKind, Evidence, Severity},
    baseline::{OwnPast, Votes},
    cadence::Cadence,
    impact::Taken,
    pace::Pace,
    trail::{Digest, Trail},
    window::Window,
};

/// What a detector sees now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// 0 (nothing) to 1 (certain).
    pub(crate) score: f64,
    /// At least; more when more was taken.
    pub(crate) severity: Severity,
    /// When the behaviour began, as far back as is known.
    pub(crate) first_seen: Nanos,
    /// When it was last seen.
    pub(crate) last_seen: Nanos,
    pub(crate) evidence: Evidence,
    /// What was taken by then, an estimate.
    pub(crate) taken: Taken,
}

/// What a detector can tell about evidence that is strong enough.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) severity: Severity,
    pub(crate) first_seen: Nanos,
    pub(crate) evidence: Evidence,
}

impl Account {
    /// As a finding of `kind`, with what was taken until then.
    pub(crate) fn finding(self, kind: AnomalyKind, last_seen: Nanos, taken: Taken) -> Finding {
        Finding {
            score: kind.confidence(),
            severity: self.severity,
            first_seen: self.first_seen,
            last_seen,
            evidence: self.evidence,
            taken,
        }
    }
}

/// Everything a detector may look at.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) id: ClientId,
    pub(crate) trail: &'a Trail,
    pub(crate) digest: &'a Digest,
    pub(crate) cadence: &'a Cadence,
    pub(crate) pace: &'a Pace,
    pub(crate) window: Window<'a>,
    pub(crate) past: &'a OwnPast,
    pub(crate) norms: &'a Norms,
    pub(crate) now: Nanos,
}

/// What is usual among clients.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Norms {
    /// Requests of a client's busiest minute of the last day.
    pub(crate) busiest_minutes: Votes,
    /// Cost of a client's most costly ten minutes of the last day, in request tokens.
    pub(crate) costs: Votes,
    /// Median request bytes of a client.
    pub(crate) request_bytes: Votes,
    /// Median tokens of a client's answers.
    pub(crate) answer_tokens: Votes,
    /// Median seconds of a client's exchanges.
    pub(crate) durations: Votes,
    /// By service: median bytes of a server record over a client's streamed answers.
    pub(crate) record_bytes: Vec<Votes>,
    /// By detector: the strongest evidence against a client in the last day.
    pub(crate) evidence: BTreeMap<AnomalyKind, Votes>,
    /// Since when clients have voted.
    pub(crate) since: Option<Nanos>,
}

impl Norms {
    /// The evidence that a share of `share` of the clients reach in a day by `detector`, `client` left out.
    pub(crate) fn threshold(&self, detector: &dyn Detector, client: ClientId, share: f64, now: Nanos) -> f64 {
        let none = Votes::default();
        let votes = self.evidence.get(&detector.kind()).unwrap_or(&none);
        votes.without(client).threshold(share, self.covered(now), detector.scale())
    }

    /// Requests of a minute that only one in 200 clients reaches in a day, `client` left out.
    pub(crate) fn busiest_minute(&self, client: Option<ClientId>, now: Nanos) -> f64 {
        let votes = &self.busiest_minutes;
        let others = client.map_or_else(|| votes.everyone(), |client| votes.without(client));
        let rare = RARE * self.covered(now);
        let known = others.extreme(rare).filter(|_| others.len() >= CLIENTS_TO_KNOW);
        known.unwrap_or(COLD_BUSIEST_MINUTE).max(1.0)
    }

    /// How much of a day has been seen, at most one: what is rare in a day is rarer in a part of it.
    fn covered(&self, now: Nanos) -> f64 {
        let seen = self.since.map_or(Duration::ZERO, |since| now.since(since));
        (seen.as_secs_f64() / DAY_S).clamp(LEAST_COVERED, 1.0)
    }

    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut Votes> {
        let Self {
            busiest_minutes,
            costs,
            request_bytes,
            answer_tokens,
            durations,
            record_bytes,
            evidence,
            since: _,
        } = self;
        [busiest_minutes, costs, request_bytes, answer_tokens, durations]
            .into_iter()
            .chain(record_bytes)
            .chain(evidence.values_mut())
    }
}

/// The share of clients that may have a busier minute in a day.
const RARE: f64 = 0.005;

const DAY_S: f64 = 86_400.0;
/// An hour of a day.
const LEAST_COVERED: f64 = 1.0 / 24.0;

/// Clients that must be known before their busiest minutes say what is usual, and what is taken until then: ten a
/// second.
const CLIENTS_TO_KNOW: usize = 50;
const COLD_BUSIEST_MINUTE: f64 = 600.0;

/// One rule.
pub(crate) trait Detector: fmt::Debug + Send + Sync {
    fn kind(&self) -> AnomalyKind;

    /// By how many nats evidence must rise for false alarms to become e times fewer, as long as other clients
    /// have not shown that it takes more. 1 where evidence is exact; more where it rests on assumptions, such as
    /// that gaps are independent of each other.
    fn scale(&self) -> f64;

    /// Evidence, nats; 0 for none.
    fn weigh(&self, subject: &Subject<'_>) -> f64;

    /// What a person should know about it.
    fn explain(&self, subject: &Subject<'_>) -> Option<Account>;
}

/// Every detector that is switched on.
pub(crate) fn enabled(config: &EngineConfig) -> Vec<Box<dyn Detector>> {
    let all: [Box<dyn Detector>; 7] = [
        Box::new(bulk_extraction::BulkExtraction),
        Box::new(low_and_slow::LowAndSlow),
        Box::new(template_sweep::TemplateSweep),
        Box::new(logit_harvest::LogitHarvest::new(config.logit_harvest.clone())),
        Box::new(denial_of_wallet::DenialOfWallet),
        Box::new(flood::Flood),
        Box::new(slow_drip::SlowDrip),
    ];
    all.into_iter().filter(|detector| !config.disabled.contains(&detector.kind())).collect()
}
