//! What is asked under each contract, against what was agreed: exchanges in, `contract_exceeded` out.
//!
//! Rule. The requests of the last minute, or the requests, bytes or estimated tokens of the last 24 hours, of all
//! clients under one contract together, are more than its limit. Spans are counted in slots, the one under way
//! included, so a figure covers up to a slot less than its span (5 s of a minute, 30 min of a day) and never more:
//! what is over a limit is over it.
//!
//! Evidence: each limit that is exceeded, with what was seen; since when; the series.
//!
//! Known false positives: none for requests and bytes, which are counted; tokens are estimates, right within a
//! third. Known misses: what was asked before the agent started; what the same customer asks through other nodes.
//!
//! ATLAS: AML.T0040, AI Model Inference API Access.
//!
//! A contract takes 2 KiB, whatever its clients do.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_big_array::BigArray;

use crate::{
    ClientId, EngineConfig, Exchange, LifecycleConfig, Nanos,
    anomaly::{Anomaly, AnomalyKind, ComparedWith, Evidence, FeatureEvidence, Series, Severity},
    attention::Attention,
    context::{Contract, Known, Limits},
    detector::Finding,
    impact::{ImpactConfig, Taken},
    lifecycle::{Facts, Lifecycle},
};

const KIND: AnomalyKind = AnomalyKind::ContractExceeded;

/// So many times a limit is no oversight.
const FLAGRANT: f64 = 2.0;

/// The contracts, and what was asked under each.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ledgers {
    #[serde(skip)]
    known: Known,
    /// Names of the contracts, by which what was saved finds them again.
    names: Vec<String>,
    /// In the order of the contracts.
    of: Vec<Ledger>,
    #[serde(skip)]
    is_enabled: bool,
}

/// What was asked under one contract.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ledger {
    minute: Slots<12, 5>,
    day: Slots<48, 1800>,
    /// Who asked last, and when.
    last: Option<(ClientId, Nanos)>,
    /// Since when a limit is exceeded without a break.
    over: Option<Nanos>,
    lifecycle: Lifecycle,
    /// What was taken in all.
    taken: Taken,
}

/// Volumes of the last `N` spans of `SECONDS` seconds.
#[derive(Debug, Serialize, Deserialize)]
struct Slots<const N: usize, const SECONDS: u64> {
    #[serde(with = "BigArray")]
    slots: [Volume; N],
    /// Number of the newest slot since the epoch.
    newest: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Volume {
    requests: f64,
    bytes: f64,
    taken: Taken,
}

/// A limit beside what was seen.
struct Measure {
    feature: &'static str,
    unit: &'static str,
    /// As the sentence says it.
    words: &'static str,
    allowed: f64,
    seen: f64,
}

impl Ledgers {
    pub(crate) fn new(config: &EngineConfig) -> Self {
        let known = Known::new(config.context.clone());
        let names: Vec<String> = known.contracts().iter().map(|contract| contract.name.clone()).collect();
        let of = names.iter().map(|_| Ledger::default()).collect();
        Self { known, names, of, is_enabled: !config.disabled.contains(&KIND) }
    }

    /// Goes on with what was saved, where the contract is still there by its name; closes what was open elsewhere.
    pub(crate) fn resume(&mut self, saved: Self, facts: Facts<'_>, now: Nanos) -> Vec<Anomaly> {
        let mut closed = Vec::new();
        for (name, mut ledger) in saved.names.into_iter().zip(saved.of) {
            if let Some(number) = self.names.iter().position(|held| *held == name) {
                self.of[number] = ledger;
            } else {
                let facts = Facts { taken: ledger.taken, ..facts };
                closed.extend(ledger.lifecycle.close_all(now, facts));
            }
        }
        closed
    }

    /// Whether the client is one of the operator's own machines.
    pub(crate) fn is_infrastructure(&self, client: ClientId) -> bool {
        self.known.is_infrastructure(client)
    }

    /// The contract that the client is under.
    pub(crate) fn contract(&self, client: ClientId, ja4: &[String], now: Nanos) -> Option<&Contract> {
        self.known.contract(client, ja4, now).map(|number| &self.known.contracts()[number])
    }

    /// Books an exchange, which took so much, of a client that shows these TLS stacks.
    pub(crate) fn book(&mut self, exchange: &Exchange, taken: Taken, ja4: &[String]) {
        let Some(number) = self.known.contract(exchange.client, ja4, exchange.start) else { return };
        let volume = Volume {
            requests: 1.0,
            bytes: exchange.request_bytes.saturating_add(exchange.answer_bytes) as f64,
            taken,
        };
        let ledger = &mut self.of[number];
        ledger.minute.add(exchange.start, volume);
        ledger.day.add(exchange.start, volume);
        ledger.taken = ledger.taken + taken;
        ledger.last = Some((exchange.client, exchange.start));
    }

    /// Contracts that were exceeded, still are, or are kept again.
    pub(crate) fn advance(
        &mut self,
        config: &LifecycleConfig,
        attention: &Attention,
        prices: &ImpactConfig,
        now: Nanos,
    ) -> Vec<Anomaly> {
        if !self.is_enabled {
            return Vec::new();
        }
        let mut changes = Vec::new();
        for (contract, ledger) in self.known.contracts().iter().zip(&mut self.of) {
            let Some((client, asked)) = ledger.last else { continue };
            // Several clients ask under a contract, of one stack or another.
            let facts = Facts { attention, prices, ja4: &[], taken: ledger.taken, campaign: None };
            if let Some(finding) = ledger.judge(contract, asked, now) {
                let opened = ledger.lifecycle.found(client, KIND, finding, facts, now);
                changes.extend(opened);
            }
            changes.extend(ledger.lifecycle.advance(now, config, facts));
        }
        changes
    }

    /// Of contracts that are exceeded.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Anomaly> {
        self.of.iter().flat_map(|ledger| ledger.lifecycle.open())
    }
}

impl Ledger {
    fn judge(&mut self, contract: &Contract, asked: Nanos, now: Nanos) -> Option<Finding> {
        let (minute, day) = (self.minute.total(now), self.day.total(now));
        let mut over = measures(&contract.limits, minute, day);
        over.retain(|measure| measure.seen > measure.allowed);
        // Most exceeded first.
        over.sort_by(|a, b| b.excess().total_cmp(&a.excess()));
        let Some(worst) = over.first() else {
            self.over = None;
            return None;
        };
        let since = *self.over.get_or_insert(now);
        let is_minute = worst.feature == PER_MINUTE;
        Some(Finding {
            score: 1.0,
            severity: if worst.excess() >= FLAGRANT { Severity::High } else { Severity::Medium },
            first_seen: since.min(asked),
            last_seen: asked,
            evidence: Evidence {
                summary: format!(
                    "Contract {} allows {} {}, and {} were seen.",
                    contract.name,
                    rounded(worst.allowed),
                    worst.words,
                    rounded(worst.seen)
                ),
                features: over.iter().map(Measure::evidence).collect(),
                series: vec![if is_minute { self.minute.series(now) } else { self.day.series(now) }],
                exchanges: if is_minute { minute.requests } else { day.requests } as u64,
            },
            taken: if is_minute { minute.taken } else { day.taken },
        })
    }
}

const PER_MINUTE: &str = "requests_per_minute";

fn measures(limits: &Limits, minute: Volume, day: Volume) -> Vec<Measure> {
    [
        (PER_MINUTE, "1", "requests a minute", limits.requests_per_minute, minute.requests),
        ("requests_per_day", "1", "requests a day", limits.requests_per_day, day.requests),
        ("bytes_per_day", "bytes", "bytes a day", limits.bytes_per_day, day.bytes),
        ("tokens_per_day", "tokens", "tokens a day", limits.tokens_per_day, day.taken.tokens()),
    ]
    .into_iter()
    .filter_map(|(feature, unit, words, allowed, seen)| {
        Some(Measure { feature, unit, words, allowed: allowed?, seen })
    })
    .collect()
}

impl Measure {
    /// Times the limit.
    fn excess(&self) -> f64 {
        self.seen / self.allowed.max(1.0)
    }

    fn evidence(&self) -> FeatureEvidence {
        FeatureEvidence {
            feature: self.feature,
            value: self.seen,
            baseline: self.allowed,
            unit: self.unit,
            compared_with: ComparedWith::Contract,
            deviation: 0.0,
        }
    }
}

/// A count with its thousands told apart.
fn rounded(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl<const N: usize, const SECONDS: u64> Default for Slots<N, SECONDS> {
    fn default() -> Self {
        Self { slots: [Volume::default(); N], newest: 0 }
    }
}

impl<const N: usize, const SECONDS: u64> Slots<N, SECONDS> {
    /// Adds to the slot of `at`, unless it is over.
    fn add(&mut self, at: Nanos, volume: Volume) {
        let number = Self::number(at);
        self.move_on(number);
        if number + N as u64 > self.newest {
            let slot = &mut self.slots[number as usize % N];
            slot.requests += volume.requests;
            slot.bytes += volume.bytes;
            slot.taken = slot.taken + volume.taken;
        }
    }

    /// Of all slots up to that of `now`.
    fn total(&mut self, now: Nanos) -> Volume {
        self.move_on(Self::number(now));
        self.slots.iter().fold(Volume::default(), |total, slot| Volume {
            requests: total.requests + slot.requests,
            bytes: total.bytes + slot.bytes,
            taken: total.taken + slot.taken,
        })
    }

    /// Requests of each slot, oldest first.
    fn series(&mut self, now: Nanos) -> Series {
        self.move_on(Self::number(now));
        let first = (self.newest + 1).saturating_sub(N as u64);
        Series {
            feature: "requests",
            unit: "1",
            start: Nanos(first * SECONDS * 1_000_000_000),
            step: Duration::from_secs(SECONDS),
            values: (first..=self.newest).map(|number| self.slots[number as usize % N].requests).collect(),
        }
    }

    /// Empties the slots that are entered.
    fn move_on(&mut self, number: u64) {
        for entered in (self.newest + 1..=number).rev().take(N) {
            self.slots[entered as usize % N] = Volume::default();
        }
        self.newest = self.newest.max(number);
    }

    fn number(at: Nanos) -> u64 {
        at.0 / 1_000_000_000 / SECONDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_never_covers_more_than_it_says_and_slots_are_used_anew() {
        let mut slots = Slots::<12, 5>::default();
        let one = Volume { requests: 1.0, ..Volume::default() };
        let at = |second: u64| Nanos(second * 1_000_000_000);
        for second in 0..600 {
            slots.add(at(second), one);
            let expected = (second + 1).min(55 + second % 5 + 1);
            assert_eq!(slots.total(at(second)).requests as u64, expected, "at {second}");
        }
        slots.add(at(530), one);
        assert_eq!(slots.total(at(599)).requests as u64, 60, "what is over is not counted");
        slots.add(at(550), one);
        assert_eq!(slots.series(at(599)).values.iter().sum::<f64>() as u64, 61);
        assert_eq!(slots.total(at(100_000)).requests as u64, 0);
    }

    #[test]
    fn counts_are_written_with_thousands() {
        let texts = [0.0, 999.0, 1000.0, 1_234_567.4].map(rounded);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
