//! What was found, for whoever asks later and for whoever watches now.
//!
//! In flow changes of anomalies; out flow the newest state of each, and every change as it happens.
//! Invariant: memory is bounded; closed anomalies are forgotten before open ones, oldest first.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hydrometer_proto::v1::{Anomaly, AnomalyState};
use tokio::sync::broadcast;

/// Anomalies kept.
const CAPACITY: usize = 4_096;
/// Changes that wait for the slowest watcher, before it is told that it has missed some.
const BACKLOG: usize = 1_024;

/// The newest state of each anomaly.
#[derive(Debug)]
pub struct Findings {
    by_id: HashMap<String, Arc<Anomaly>>,
    changes: broadcast::Sender<Arc<Anomaly>>,
    /// Anomalies that were raised so far, by the number of their kind.
    raised: BTreeMap<i32, u64>,
}

impl Default for Findings {
    fn default() -> Self {
        Self { by_id: HashMap::new(), changes: broadcast::channel(BACKLOG).0, raised: BTreeMap::new() }
    }
}

impl Findings {
    /// Takes in one change.
    pub fn add(&mut self, anomaly: Arc<Anomaly>) {
        if !self.by_id.contains_key(&anomaly.id) && self.by_id.len() >= CAPACITY {
            self.forget_one();
        }
        let was_raised = self.by_id.get(&anomaly.id).is_some_and(|known| is_raised(known));
        if is_raised(&anomaly) && !was_raised {
            *self.raised.entry(anomaly.kind).or_default() += 1;
        }
        self.by_id.insert(anomaly.id.clone(), Arc::clone(&anomaly));
        // Without watchers there is nobody to tell.
        let _ = self.changes.send(anomaly);
    }

    fn forget_one(&mut self) {
        let oldest = self.by_id.values().min_by_key(|anomaly| (is_open(anomaly), seen(anomaly)));
        if let Some(id) = oldest.map(|anomaly| anomaly.id.clone()) {
            self.by_id.remove(&id);
        }
    }

    /// One anomaly in its newest state.
    pub fn get(&self, id: &str) -> Option<Arc<Anomaly>> {
        self.by_id.get(id).cloned()
    }

    /// Every anomaly still held, first raised first.
    pub fn all(&self) -> Vec<Arc<Anomaly>> {
        let mut all: Vec<_> = self.by_id.values().cloned().collect();
        all.sort_by(|a, b| (raised(a), &a.id).cmp(&(raised(b), &b.id)));
        all
    }

    /// Every change from now on.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Anomaly>> {
        self.changes.subscribe()
    }

    /// Those of one client, most recent first.
    pub fn of(&self, client: &str) -> Vec<Anomaly> {
        let mut found: Vec<_> = self.by_id.values().filter(|anomaly| anomaly.client == client).collect();
        found.sort_by_key(|anomaly| Reverse((seen(anomaly), anomaly.id.clone())));
        found.into_iter().map(|anomaly| Anomaly::clone(anomaly)).collect()
    }

    /// Identifiers of one client's open anomalies that are not muted, ascending.
    pub fn open_of(&self, client: &str) -> Vec<String> {
        let mut ids: Vec<_> = self
            .by_id
            .values()
            .filter(|anomaly| anomaly.client == client && is_raised(anomaly))
            .map(|anomaly| anomaly.id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// How many were raised so far, by the number of their kind; one whose mute ended counts then.
    pub fn raised(&self) -> BTreeMap<i32, u64> {
        self.raised.clone()
    }

    /// Those that are open and not muted.
    pub fn standing(&self) -> Vec<Arc<Anomaly>> {
        self.by_id.values().filter(|anomaly| is_raised(anomaly)).cloned().collect()
    }

    /// How many are open and not muted.
    pub fn open(&self) -> usize {
        self.by_id.values().filter(|anomaly| is_raised(anomaly)).count()
    }

    /// How many are open and muted.
    pub fn muted(&self) -> usize {
        self.by_id.values().filter(|anomaly| is_open(anomaly) && anomaly.muted.is_some()).count()
    }
}

fn is_open(anomaly: &Anomaly) -> bool {
    anomaly.state() != AnomalyState::Closed
}

fn is_raised(anomaly: &Anomaly) -> bool {
    is_open(anomaly) && anomaly.muted.is_none()
}

fn seen(anomaly: &Anomaly) -> (i64, i32) {
    anomaly.last_seen.as_ref().map_or((0, 0), |at| (at.seconds, at.nanos))
}

fn raised(anomaly: &Anomaly) -> (i64, i32) {
    anomaly.raised.as_ref().map_or((0, 0), |at| (at.seconds, at.nanos))
}

#[cfg(test)]
mod tests {
    use hydrometer_proto::v1::Remark;

    use super::*;

    fn change(id: usize, state: AnomalyState) -> Arc<Anomaly> {
        let at = Some(prost_types::Timestamp { seconds: id.cast_signed() as i64, nanos: 0 });
        Arc::new(Anomaly {
            id: format!("a{id}"),
            state: state.into(),
            client: "203.0.113.7".to_owned(),
            last_seen: at,
            raised: at,
            ..Anomaly::default()
        })
    }

    #[test]
    fn memory_is_bounded_and_open_anomalies_outlive_closed_ones() {
        let mut findings = Findings::default();
        findings.add(change(0, AnomalyState::Open));
        for id in 1..CAPACITY + 10 {
            findings.add(change(id, AnomalyState::Closed));
        }
        assert_eq!(findings.all().len(), CAPACITY);
        assert_eq!((findings.open(), findings.open_of("203.0.113.7")), (1, vec!["a0".to_owned()]));
        assert!(!findings.all().iter().any(|anomaly| anomaly.id == "a1"), "the oldest closed one has gone");
    }

    #[test]
    fn an_anomaly_counts_as_raised_once_and_not_while_it_is_muted() {
        let mut findings = Findings::default();
        let muted =
            Anomaly { muted: Some(Remark::default()), ..Anomaly::clone(&change(2, AnomalyState::Open)) };
        for state in [AnomalyState::Open, AnomalyState::Updated, AnomalyState::Closed] {
            findings.add(change(1, state));
        }
        findings.add(Arc::new(muted));
        assert_eq!((findings.raised().values().sum::<u64>(), findings.standing().len()), (1, 0));
        // Its mute has ended.
        findings.add(change(2, AnomalyState::Updated));
        assert_eq!((findings.raised().values().sum::<u64>(), findings.standing()[0].id.as_str()), (2, "a2"));
    }

    #[test]
    fn an_anomaly_is_held_once_in_its_newest_state() {
        let mut findings = Findings::default();
        findings.add(change(1, AnomalyState::Open));
        findings.add(change(2, AnomalyState::Open));
        findings.add(change(1, AnomalyState::Closed));
        let ids: Vec<_> =
            findings.all().iter().map(|anomaly| (anomaly.id.clone(), anomaly.state())).collect();
        assert_eq!(ids, [("a1".to_owned(), AnomalyState::Closed), ("a2".to_owned(), AnomalyState::Open)]);
        assert_eq!(findings.of("203.0.113.7")[0].id, "a2");
    }
}
