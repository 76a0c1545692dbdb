//! From findings to anomalies: one opens, is renewed, and closes.
//!
//! A detector says each second at most what it sees now; this turns that into few, stable states.
//! An anomaly opens at once, stays open through pauses shorter than `close_after_s`, and is renewed
//! ever more rarely (the time between updates doubles), and at once when its severity rises.
//!
//! Invariant: a kind is open at most once a client; its id never changes and is never used again;
//! revisions rise by one.

use std::time::Duration;

use crate::{
    ClientId, LifecycleConfig, Nanos,
    anomaly::{Anomaly, AnomalyKind, State},
    client_id::fnv1a,
    detector::Finding,
};

/// The time between updates doubles this often at most.
const MAX_DOUBLINGS: u32 = 6;

/// The anomalies of one client.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    open: Vec<Open>,
    /// When an anomaly of each kind last closed; behaviour before it belongs to that one.
    closed: [Nanos; AnomalyKind::ALL.len()],
}

#[derive(Debug)]
struct Open {
    /// As last told to the outside.
    anomaly: Anomaly,
    /// Evidence that came since.
    newer: Option<Finding>,
    /// When the behaviour was last seen.
    last_seen: Nanos,
    told: Nanos,
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
        let anomaly = Anomaly {
            id: id(client, kind, first_seen),
            kind,
            state: State::Open,
            severity: finding.severity,
            score: finding.score,
            client,
            members: Vec::new(),
            first_seen,
            last_seen: finding.last_seen,
            raised: now,
            evidence: finding.evidence,
            revision: 1,
        };
        self.open.push(Open {
            anomaly: anomaly.clone(),
            newer: None,
            last_seen: anomaly.last_seen,
            told: now,
        });
        Some(anomaly)
    }

    /// Renews and closes what is due at `now`.
    pub(crate) fn advance(&mut self, now: Nanos, config: &LifecycleConfig) -> Vec<Anomaly> {
        let patience = Duration::from_secs_f64(config.close_after_s);
        let mut changes = Vec::new();
        for open in &mut self.open {
            // A clock that stepped back must not keep an anomaly open.
            open.last_seen = open.last_seen.min(now);
            open.told = open.told.min(now);
            if now.since(open.last_seen) > patience {
                self.closed[open.anomaly.kind as usize] = now;
                changes.push(open.renew(now, State::Closed));
            } else if open.is_due(now, config) {
                changes.push(open.renew(now, State::Updated));
            }
        }
        self.open.retain(|open| open.anomaly.state != State::Closed);
        changes
    }

    /// Closes everything, because the client is forgotten.
    pub(crate) fn close_all(&mut self, now: Nanos) -> Vec<Anomaly> {
        self.open.drain(..).map(|mut open| open.renew(now, State::Closed)).collect()
    }
}

impl Open {
    fn is_due(&self, now: Nanos, config: &LifecycleConfig) -> bool {
        let Some(newer) = &self.newer else { return false };
        let doublings = (self.anomaly.revision - 1).min(MAX_DOUBLINGS);
        let pause = Duration::from_secs_f64(config.update_every_s) * (1 << doublings);
        newer.severity > self.anomaly.severity || now.since(self.told) >= pause
    }

    fn renew(&mut self, now: Nanos, state: State) -> Anomaly {
        if let Some(finding) = self.newer.take() {
            self.anomaly.severity = self.anomaly.severity.max(finding.severity);
            self.anomaly.score = finding.score;
            self.anomaly.evidence = finding.evidence;
        }
        self.anomaly.state = state;
        self.anomaly.last_seen = self.anomaly.last_seen.max(self.last_seen);
        self.anomaly.revision += 1;
        self.told = now;
        self.anomaly.clone()
    }
}

/// The same for the same client, kind and beginning, on every machine.
pub(crate) fn id(client: ClientId, kind: AnomalyKind, first_seen: Nanos) -> String {
    format!("{:016x}", fnv1a(format!("{kind}|{client}|{}", first_seen.0).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anomaly::{Evidence, Severity};

    const CLIENT: ClientId = ClientId::V4(std::net::Ipv4Addr::LOCALHOST);
    const KIND: AnomalyKind = AnomalyKind::LowAndSlow;

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    fn finding(first: u64, last: u64, severity: Severity) -> Finding {
        let evidence =
            Evidence { summary: String::new(), features: Vec::new(), series: Vec::new(), exchanges: last };
        Finding { score: 0.9, severity, first_seen: at(first), last_seen: at(last), evidence }
    }

    fn config() -> LifecycleConfig {
        LifecycleConfig { close_after_s: 60.0, update_every_s: 10.0 }
    }

    #[test]
    fn an_anomaly_stays_open_through_a_pause_and_closes_after_a_longer_one() {
        let mut life = Lifecycle::default();
        let opened = life.found(CLIENT, KIND, finding(0, 20, Severity::Low), at(20)).unwrap();
        assert!(life.advance(at(79), &config()).is_empty());
        assert!(life.found(CLIENT, KIND, finding(0, 79, Severity::Low), at(79)).is_none());
        assert!(life.advance(at(139), &config()).iter().all(|change| change.state == State::Updated));
        let closed = life.advance(at(140), &config());
        assert_eq!(
            (closed.len(), closed[0].state, &closed[0].id, closed[0].last_seen),
            (1, State::Closed, &opened.id, at(79))
        );
        assert!(!life.is_open());
    }

    #[test]
    fn updates_become_rarer() {
        let mut life = Lifecycle::default();
        life.found(CLIENT, KIND, finding(0, 20, Severity::Low), at(0)).unwrap();
        let told: Vec<u64> = (1..=200)
            .filter(|second| {
                life.found(CLIENT, KIND, finding(0, *second, Severity::Low), at(*second));
                !life.advance(at(*second), &config()).is_empty()
            })
            .collect();
        assert_eq!(told, [10, 30, 70, 150]);
    }

    #[test]
    fn a_higher_severity_is_told_at_once_and_a_lower_one_is_not() {
        let mut life = Lifecycle::default();
        life.found(CLIENT, KIND, finding(0, 20, Severity::Medium), at(20)).unwrap();
        let mut told_at = |second, severity| {
            life.found(CLIENT, KIND, finding(0, second, severity), at(second));
            let changes = life.advance(at(second), &config());
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
        let first = life.found(CLIENT, KIND, finding(5, 20, Severity::Low), at(20)).unwrap();
        life.advance(at(100), &config());
        assert!(life.found(CLIENT, KIND, finding(5, 20, Severity::Low), at(101)).is_none(), "old evidence");
        let second = life.found(CLIENT, KIND, finding(5, 110, Severity::Low), at(110)).unwrap();
        assert_ne!(first.id, second.id);
        assert_eq!((second.first_seen, second.revision), (at(100), 1));
    }
}
