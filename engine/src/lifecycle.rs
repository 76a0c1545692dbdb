//! From findings to anomalies: one opens, is renewed, and closes.
//!
//! A detector says each second at most what it sees now; this turns that into few, stable states.
//! An anomaly opens at once, stays open through pauses shorter than `close_after_s`, and is renewed
//! ever more rarely (the time between updates doubles), and at once when its severity rises.
//!
//! Invariant: a kind is open at most once a client; its id never changes and is never used again;
//! revisions rise by one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    ClientId, LifecycleConfig, Nanos,
    anomaly::{Anomaly, AnomalyKind, Reach, Severity, State},
    attention::{Attention, Audience, Marks},
    client_id::fnv1a,
    detector::Finding,
    impact::{ImpactConfig, Taken},
};

/// The time between updates doubles this often at most.
const MAX_DOUBLINGS: u32 = 6;

/// The anomalies of one client.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Lifecycle {
    open: Vec<Open>,
    /// When an anomaly of each kind last closed; behaviour before it belongs to that one.
    closed: [Nanos; AnomalyKind::ALL.len()],
}

#[derive(Debug, Serialize, Deserialize)]
struct Open {
    /// As last told to the outside.
    anomaly: Anomaly,
    /// Evidence that came since.
    newer: Option<Finding>,
    /// When the behaviour was last seen.
    last_seen: Nanos,
    told: Nanos,
    audience: Audience,
    /// What the client had taken when the behaviour began.
    before: Taken,
}

/// What is known beside the findings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// What the operator has said.
    pub(crate) attention: &'a Attention,
    pub(crate) prices: &'a ImpactConfig,
    /// The TLS stacks of the client.
    pub(crate) ja4: &'a [String],
    /// What the client has taken in all.
    pub(crate) taken: Taken,
    /// Identifier of the campaign that the client belongs to.
    pub(crate) campaign: Option<&'a str>,
}

impl Facts<'_> {
    fn marks(&self, anomaly: &Anomaly) -> Marks {
        self.attention.marks_of(&anomaly.id, anomaly.kind, anomaly.client, self.ja4)
    }
}

impl Lifecycle {
    pub(crate) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    pub(crate) fn has(&self, kind: AnomalyKind) -> bool {
        self.open.iter().any(|open| open.anomaly.kind == kind)
    }

    pub(crate) fn open(&self) -> impl Iterator<Item = &Anomaly> {
        self.open.iter().map(|open| &open.anomaly)
    }

    /// Takes in what a detector of `kind` found now; opens an anomaly when there was none.
    pub(crate) fn found(
        &mut self,
        client: ClientId,
        kind: AnomalyKind,
        finding: Finding,
        facts: Facts<'_>,
        now: Nanos,
    ) -> Option<Anomaly> {
        if let Some(open) = self.open.iter_mut().find(|open| open.anomaly.kind == kind) {
            open.last_seen = open.last_seen.max(finding.last_seen);
            open.newer = Some(finding);
            return None;
        }
        let closed = self.closed[kind as usize];
        // Findings look back ten minutes, and may still see what the previous anomaly was about.
        if closed > Nanos::default() && finding.last_seen <= closed {
            return None;
        }
        let first_seen = finding.first_seen.max(closed);
        let before = facts.taken - finding.taken;
        let taken = facts.taken - before;
        let mut anomaly = Anomaly {
            id: id(client, kind, first_seen),
            kind,
            state: State::Open,
            severity: finding.severity.max(facts.prices.severity(taken)),
            score: finding.score,
            client,
            members: Vec::new(),
            first_seen,
            last_seen: finding.last_seen,
            raised: now,
            evidence: finding.evidence,
            revision: 1,
            muted: None,
            acknowledged: None,
            reach: Reach::Fleet,
            impact: facts.prices.impact(taken),
            campaign: facts.campaign.map(str::to_owned),
            split_from: None,
            merged_into: None,
        };
        let mut audience = Audience::default();
        let marks = facts.marks(&anomaly);
        audience.hear(&mut anomaly, marks, now);
        self.open.push(Open {
            anomaly: anomaly.clone(),
            newer: None,
            last_seen: anomaly.last_seen,
            told: now,
            audience,
            before,
        });
        Some(anomaly)
    }

    /// Renews and closes what is due at `now`.
    pub(crate) fn advance(&mut self, now: Nanos, config: &LifecycleConfig, facts: Facts<'_>) -> Vec<Anomaly> {
        let patience = Duration::from_secs_f64(config.close_after_s);
        let mut changes = Vec::new();
        for open in &mut self.open {
            // A clock that stepped back must not keep an anomaly open.
            open.last_seen = open.last_seen.min(now);
            open.told = open.told.min(now);
            if now.since(open.last_seen) > patience {
                self.closed[open.anomaly.kind as usize] = now;
                changes.push(open.renew(now, State::Closed, facts));
            } else if open.is_due(now, config, facts) || open.is_remarked(facts) || open.is_linked(facts) {
                changes.push(open.renew(now, State::Updated, facts));
            }
        }
        self.open.retain(|open| open.anomaly.state != State::Closed);
        changes
    }

    /// Closes everything, because the client is forgotten.
    pub(crate) fn close_all(&mut self, now: Nanos, facts: Facts<'_>) -> Vec<Anomaly> {
        self.open.drain(..).map(|mut open| open.renew(now, State::Closed, facts)).collect()
    }
}

impl Open {
    fn is_due(&self, now: Nanos, config: &LifecycleConfig, facts: Facts<'_>) -> bool {
        let Some(newer) = &self.newer else { return false };
        let doublings = (self.anomaly.revision - 1).min(MAX_DOUBLINGS);
        let pause = Duration::from_secs_f64(config.update_every_s) * (1 << doublings);
        newer.severity.max(self.severity(facts)) > self.anomaly.severity || now.since(self.told) >= pause
    }

    /// By what was taken.
    fn severity(&self, facts: Facts<'_>) -> Severity {
        facts.prices.severity(facts.taken - self.before)
    }

    /// Whether the client has come to belong to a campaign, or to another one.
    fn is_linked(&self, facts: Facts<'_>) -> bool {
        facts.campaign.is_some() && facts.campaign != self.anomaly.campaign.as_deref()
    }

    fn is_remarked(&self, facts: Facts<'_>) -> bool {
        facts.attention.has_news_for(&self.audience, || facts.marks(&self.anomaly))
    }

    fn renew(&mut self, now: Nanos, state: State, facts: Facts<'_>) -> Anomaly {
        self.anomaly.severity = self.anomaly.severity.max(self.severity(facts));
        // Of a campaign that has closed it was a part all the same.
        if self.is_linked(facts) {
            self.anomaly.campaign = facts.campaign.map(str::to_owned);
        }
        self.anomaly.impact = facts.prices.impact(facts.taken - self.before);
        if let Some(finding) = self.newer.take() {
            self.anomaly.severity = self.anomaly.severity.max(finding.severity);
            self.anomaly.score = finding.score;
            self.anomaly.evidence = finding.evidence;
        }
        self.anomaly.state = state;
        self.anomaly.last_seen = self.anomaly.last_seen.max(self.last_seen);
        self.anomaly.revision += 1;
        self.told = now;
        let marks = facts.marks(&self.anomaly);
        self.audience.hear(&mut self.anomaly, marks, now);
        self.anomaly.clone()
    }
}

/// Nothing is known.
#[cfg(test)]
pub(crate) const NO_FACTS: Facts<'static> = Facts {
    attention: &Attention::NONE,
    prices: &ImpactConfig::FREE,
    ja4: &[],
    taken: Taken::NOTHING,
    campaign: None,
};

/// The same for the same client, kind and beginning, on every machine.
pub(crate) fn id(client: ClientId, kind: AnomalyKind, first_seen: Nanos) -> String {
    format!("{:016x}", fnv1a(format!("{kind}|{client}|{}", first_seen.0).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Acknowledgement, Mute, Selector, Target,
        anomaly::{Evidence, Remark},
    };

    const CLIENT: ClientId = ClientId::V4(std::net::Ipv4Addr::LOCALHOST);
    const KIND: AnomalyKind = AnomalyKind::LowAndSlow;

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    fn finding(first: u64, last: u64, severity: Severity) -> Finding {
        let evidence =
            Evidence { summary: String::new(), features: Vec::new(), series: Vec::new(), exchanges: last };
        Finding {
            score: 0.9,
            severity,
            first_seen: at(first),
            last_seen: at(last),
            evidence,
            taken: Taken::NOTHING,
        }
    }

    /// An operator that has said this about the clients' anomalies.
    fn said(mutes: Vec<Mute>, acknowledgements: Vec<Acknowledgement>) -> Attention {
        let mut attention = Attention::default();
        attention.renew(mutes, acknowledgements, at(0));
        attention
    }

    /// The facts that hold at `second`.
    fn at_that(attention: &mut Attention, second: u64) -> Facts<'_> {
        attention.advance(at(second));
        Facts { attention, ..NO_FACTS }
    }

    fn config() -> LifecycleConfig {
        LifecycleConfig { close_after_s: 60.0, update_every_s: 10.0 }
    }

    #[test]
    fn an_anomaly_stays_open_through_a_pause_and_closes_after_a_longer_one() {
        let mut life = Lifecycle::default();
        let opened = life.found(CLIENT, KIND, finding(0, 20, Severity::Low), NO_FACTS, at(20)).unwrap();
        assert!(life.advance(at(79), &config(), NO_FACTS).is_empty());
        assert!(life.found(CLIENT, KIND, finding(0, 79, Severity::Low), NO_FACTS, at(79)).is_none());
        assert!(
            life.advance(at(139), &config(), NO_FACTS).iter().all(|change| change.state == State::Updated)
        );
        let closed = life.advance(at(140), &config(), NO_FACTS);
        assert_eq!(
            (closed.len(), closed[0].state, &closed[0].id, closed[0].last_seen),
            (1, State::Closed, &opened.id, at(79))
        );
        assert!(!life.is_open());
    }

    #[test]
    fn updates_become_rarer() {
        let mut life = Lifecycle::default();
        life.found(CLIENT, KIND, finding(0, 20, Severity::Low), NO_FACTS, at(0)).unwrap();
        let told: Vec<u64> = (1..=200)
            .filter(|second| {
                life.found(CLIENT, KIND, finding(0, *second, Severity::Low), NO_FACTS, at(*second));
                !life.advance(at(*second), &config(), NO_FACTS).is_empty()
            })
            .collect();
        assert_eq!(told, [10, 30, 70, 150]);
    }

    #[test]
    fn a_higher_severity_is_told_at_once_and_a_lower_one_is_not() {
        let mut life = Lifecycle::default();
        life.found(CLIENT, KIND, finding(0, 20, Severity::Medium), NO_FACTS, at(20)).unwrap();
        let mut told_at = |second, severity| {
            life.found(CLIENT, KIND, finding(0, second, severity), NO_FACTS, at(second));
            let changes = life.advance(at(second), &config(), NO_FACTS);
            changes.iter().map(|change| (change.severity, change.revision)).collect::<Vec<_>>()
        };
        assert_eq!(told_at(21, Severity::High), [(Severity::High, 2)]);
        assert_eq!(told_at(22, Severity::High), []);
        assert_eq!(told_at(23, Severity::Low), []);
        assert_eq!(told_at(24, Severity::Critical), [(Severity::Critical, 3)]);
    }

    #[test]
    fn behaviour_that_comes_back_is_a_new_anomaly() {
        let mut life = Lifecycle::default();
        let first = life.found(CLIENT, KIND, finding(5, 20, Severity::Low), NO_FACTS, at(20)).unwrap();
        life.advance(at(100), &config(), NO_FACTS);
        assert!(
            life.found(CLIENT, KIND, finding(5, 20, Severity::Low), NO_FACTS, at(101)).is_none(),
            "old evidence"
        );
        let second = life.found(CLIENT, KIND, finding(5, 110, Severity::Low), NO_FACTS, at(110)).unwrap();
        assert_ne!(first.id, second.id);
        assert_eq!((second.first_seen, second.revision), (at(100), 1));
    }

    fn mute(until: u64) -> Mute {
        let remark = Remark { by: "ann".into(), reason: "known".into(), at: at(0), until: at(until) };
        Mute { target: Target::Clients(Selector::Client(CLIENT)), kind: None, remark }
    }

    /// What is told at each of these seconds, while the behaviour goes on.
    fn told(life: &mut Lifecycle, attention: &mut Attention, seconds: &[u64]) -> Vec<(u64, State, Reach)> {
        let mut told = Vec::new();
        for second in seconds {
            let facts = at_that(attention, *second);
            let finding = finding(0, *second, Severity::Low);
            let opened = life.found(CLIENT, KIND, finding, facts, at(*second));
            let changes = opened.into_iter().chain(life.advance(at(*second), &config(), facts));
            told.extend(changes.map(|change| {
                assert_eq!(change.reach == Reach::Node, change.muted.is_some());
                (*second, change.state, change.reach)
            }));
        }
        told
    }

    #[test]
    fn what_was_found_while_muted_stays_here_and_is_raised_when_the_mute_ends() {
        use Reach::{Fleet, Node};
        use State::{Open, Updated};

        let mut life = Lifecycle::default();
        let mut attention = said(vec![mute(25)], Vec::new());
        let told = told(&mut life, &mut attention, &[1, 11, 21, 24, 25, 70]);
        let expected = [(1, Open, Node), (11, Updated, Node), (25, Open, Fleet), (70, Updated, Fleet)];
        assert_eq!(told, expected);
        assert_eq!(life.open().next().map(|anomaly| anomaly.raised), Some(at(25)));
    }

    #[test]
    fn the_fleet_hears_that_what_it_knows_of_was_muted_and_closed_and_nothing_between() {
        let mut life = Lifecycle::default();
        let tell = |life: &mut Lifecycle, attention: &mut Attention, second, is_seen: bool| {
            let facts = at_that(attention, second);
            if is_seen {
                life.found(CLIENT, KIND, finding(0, second, Severity::Low), facts, at(second));
            }
            let changes = life.advance(at(second), &config(), facts);
            changes.iter().map(|change| (change.state, change.reach)).collect::<Vec<_>>()
        };
        let mut attention = Attention::default();
        assert_eq!(tell(&mut life, &mut attention, 1, true), []);
        let mut attention = said(vec![mute(1000)], Vec::new());
        assert_eq!(tell(&mut life, &mut attention, 2, false), [(State::Updated, Reach::Fleet)]);
        assert_eq!(tell(&mut life, &mut attention, 30, true), [(State::Updated, Reach::Node)]);
        assert_eq!(tell(&mut life, &mut attention, 91, false), [(State::Closed, Reach::Fleet)]);
    }

    #[test]
    fn what_was_never_raised_closes_unheard() {
        let mut life = Lifecycle::default();
        let mut attention = said(vec![mute(1000)], Vec::new());
        let facts = at_that(&mut attention, 1);
        life.found(CLIENT, KIND, finding(0, 1, Severity::Low), facts, at(1)).unwrap();
        let facts = at_that(&mut attention, 1000);
        let closed = life.advance(at(1000), &config(), facts);
        assert_eq!((closed[0].state, closed[0].reach), (State::Closed, Reach::Node));
    }

    #[test]
    fn an_acknowledgement_is_told_at_once_and_so_is_its_end() {
        let mut life = Lifecycle::default();
        let mut attention = Attention::default();
        let facts = at_that(&mut attention, 1);
        let anomaly = life.found(CLIENT, KIND, finding(0, 1, Severity::Low), facts, at(1)).unwrap();
        let remark = Remark { by: "ann".into(), reason: "asked them".into(), at: at(2), until: at(9) };
        let known = Acknowledgement { anomaly: anomaly.id, remark: remark.clone() };
        let mut attention = said(Vec::new(), vec![known]);
        for (second, expected) in [(2, vec![Some(remark)]), (3, vec![]), (9, vec![None]), (10, vec![])] {
            let facts = at_that(&mut attention, second);
            let changes = life.advance(at(second), &config(), facts);
            assert!(changes.iter().all(|change| change.reach == Reach::Fleet));
            let marks: Vec<_> = changes.into_iter().map(|change| change.acknowledged).collect();
            assert_eq!(marks, expected, "at {second}");
        }
    }

    #[test]
    fn what_is_taken_counts_from_the_begin_and_raises_the_severity_at_once() {
        let prices = ImpactConfig::default();
        let taken = |answer_tokens| prices.taken(8000, 0.0, answer_tokens);
        let facts = |answer_tokens| Facts { prices: &prices, taken: taken(answer_tokens), ..NO_FACTS };
        let mut life = Lifecycle::default();
        let first = Finding { taken: taken(1e4), ..finding(0, 1, Severity::Low) };
        let opened = life.found(CLIENT, KIND, first, facts(5e6), at(1)).unwrap();
        assert_eq!((opened.impact.answer_tokens, opened.severity), (10_000, Severity::Low));
        let mut told = |second, answer_tokens| {
            life.found(CLIENT, KIND, finding(0, second, Severity::Low), facts(answer_tokens), at(second));
            let changes = life.advance(at(second), &config(), facts(answer_tokens));
            changes.iter().map(|told| (told.impact.answer_tokens, told.severity)).collect::<Vec<_>>()
        };
        assert_eq!(told(2, 5e6 + 1e4), []);
        assert_eq!(told(3, 5e6 + 2e4), [(30_000, Severity::Medium)]);
        assert_eq!(told(4, 5e6 + 3e6), [(3_010_000, Severity::Critical)]);
    }
}
