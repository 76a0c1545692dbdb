//! What was raised, as a scorer counts it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::anomaly::{Anomaly, AnomalyKind, Reach, State};

/// An anomaly or a campaign: who is accused of what, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// The anomaly's; further alerts with it are the same one, grown.
    pub id: String,
    /// When it was raised, seconds.
    pub t: f64,
    /// Of what.
    pub kind: AnomalyKind,
    /// How likely it is said to be, 0 to 1.
    pub score: f64,
    /// Who: the client, or the members of the campaign.
    pub clients: Vec<String>,
}

impl Alert {
    /// What an anomaly that opened or changed says; a closed one says nothing new, and a muted one says it to nobody.
    pub fn of(anomaly: &Anomaly) -> Option<Self> {
        let alone = anomaly.members.is_empty().then_some(anomaly.client);
        let clients = anomaly.members.iter().map(|member| member.client).chain(alone);
        (anomaly.state != State::Closed && anomaly.reach == Reach::Fleet).then(|| Self {
            id: anomaly.id.clone(),
            t: anomaly.raised.as_secs_f64(),
            kind: anomaly.kind,
            score: anomaly.score,
            clients: clients.map(|client| client.to_string()).collect(),
        })
    }
}

/// Alerts by their identifier.
#[derive(Clone, Debug, Default)]
pub struct Alerts(BTreeMap<String, Alert>);

impl Alerts {
    /// Takes an alert in. One that is known keeps when it was first raised, and how likely it was then said to be.
    pub fn take(&mut self, mut alert: Alert) {
        if let Some(known) = self.0.get(&alert.id) {
            alert.t = alert.t.min(known.t);
            alert.score = known.score;
        }
        self.0.insert(alert.id.clone(), alert);
    }

    /// All of them, by when they were raised.
    pub fn in_order(&self) -> Vec<&Alert> {
        let mut alerts: Vec<&Alert> = self.0.values().collect();
        alerts.sort_by(|a, b| a.t.total_cmp(&b.t));
        alerts
    }
}

impl Extend<Alert> for Alerts {
    fn extend<T: IntoIterator<Item = Alert>>(&mut self, alerts: T) {
        for alert in alerts {
            self.take(alert);
        }
    }
}

impl FromIterator<Alert> for Alerts {
    fn from_iter<T: IntoIterator<Item = Alert>>(alerts: T) -> Self {
        let mut all = Self::default();
        all.extend(alerts);
        all
    }
}
