//! Alerts against labelled campaigns.
//!
//! A campaign is found by the first alert, at or after its start and not later than an hour after its end, at least half
//! of whose clients belong to it. An alert that matches no campaign is false. Membership is judged by the F1 of the
//! campaign's clients and those of all alerts that match it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Alert, Alerts, Claim, LabelledCampaign, Labels, Reliability};

/// So long after its end a campaign may still be found, seconds.
const AFTERWARDS_S: f64 = 3600.0;

/// What alerts are worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// In all.
    #[serde(flatten)]
    pub figures: Figures,
    /// By what the labels call a campaign, or an alert calls itself.
    pub per_kind: BTreeMap<String, KindFigures>,
    /// As the labels have them.
    pub per_campaign: Vec<CampaignFigures>,
    /// Of all alerts.
    pub reliability: Reliability,
    /// Every alert, by when it was raised.
    #[serde(skip)]
    pub claims: Vec<Claim>,
}

/// Figures in all; those of which nothing is known are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Campaigns to be found.
    pub campaigns: usize,
    /// Campaigns found.
    pub found: usize,
    /// Share of the campaigns found.
    pub recall: Option<f64>,
    /// Campaigns found by an alert of their own kind.
    pub named: usize,
    /// Alerts raised.
    pub alerts: usize,
    /// Share of the alerts that match a campaign.
    pub precision: f64,
    /// Alerts that match none, for 1,000 benign clients and day.
    pub false_alerts_per_1000_clients_day: Option<f64>,
    /// Benign clients in them.
    pub benign_clients_falsely_alerted: usize,
    /// Likewise, by what they are.
    pub false_by_role: BTreeMap<String, usize>,
    /// From a campaign's start to its first alert, seconds.
    pub median_delay_s: Option<f64>,
    /// Likewise, as a share of its length.
    pub median_delay_share: Option<f64>,
    /// What an analyst has to read of a campaign that is found.
    pub alerts_per_found_campaign: Option<f64>,
    /// Mean F1 of the campaigns of several clients; one that is missed has 0.
    pub cluster_f1: Option<f64>,
}

/// Figures of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct KindFigures {
    /// Campaigns of that kind.
    pub campaigns: usize,
    /// Of these, found.
    pub found: usize,
    /// Of these, found by an alert of that kind.
    pub named: usize,
    /// From start to first alert, seconds.
    pub median_delay_s: Option<f64>,
    /// Mean F1; one that is missed has 0.
    pub f1: Option<f64>,
    /// Alerts of that kind.
    pub alerts: usize,
    /// Share of them that match a campaign of any kind.
    pub precision: Option<f64>,
    /// Of these alerts.
    pub reliability: Reliability,
}

/// Figures of one campaign; those of one that is missed are left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CampaignFigures {
    /// As the labels call it.
    pub id: String,
    /// What it is.
    pub kind: String,
    /// Who takes part.
    pub clients: usize,
    /// Whether an alert matches it.
    pub found: bool,
    /// Whether one of its own kind does.
    pub named: bool,
    /// Alerts that match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alerts: Option<usize>,
    /// From its start to the first, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_s: Option<f64>,
    /// Likewise, as a share of its length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_share: Option<f64>,
    /// Of its clients and those of all alerts that match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
}

impl Evaluation {
    /// Judges `alerts` by `labels`.
    pub fn of(labels: &Labels, alerts: &Alerts) -> Self {
        let alerts = alerts.in_order();
        let clients: Vec<BTreeSet<&str>> =
            alerts.iter().map(|alert| alert.clients.iter().map(String::as_str).collect()).collect();
        let mut is_true = vec![false; alerts.len()];
        let mut per_campaign = Vec::new();
        for campaign in &labels.campaigns {
            let members: BTreeSet<&str> = campaign.clients.iter().map(String::as_str).collect();
            let hits: Vec<usize> = (0..alerts.len())
                .filter(|at| matches(alerts[*at], &clients[*at], campaign, &members))
                .collect();
            for at in &hits {
                is_true[*at] = true;
            }
            let got: BTreeSet<&str> = hits.iter().flat_map(|at| clients[*at].iter().copied()).collect();
            let hits: Vec<&Alert> = hits.into_iter().map(|at| alerts[at]).collect();
            per_campaign.push(CampaignFigures::of(campaign, &members, &hits, &got));
        }
        let claims: Vec<Claim> = alerts
            .iter()
            .zip(is_true)
            .map(|(alert, is_true)| Claim { kind: alert.kind, score: alert.score, is_true })
            .collect();
        let falsely: BTreeSet<&str> = claims
            .iter()
            .zip(&clients)
            .filter(|(claim, _)| !claim.is_true)
            .flat_map(|(_, clients)| clients.iter().copied())
            .collect();
        Self {
            figures: Figures::of(labels, &per_campaign, &claims, &falsely),
            per_kind: KindFigures::all(&per_campaign, &claims),
            per_campaign,
            reliability: Reliability::of(&claims),
            claims,
        }
    }
}

impl Figures {
    fn of(
        labels: &Labels,
        campaigns: &[CampaignFigures],
        claims: &[Claim],
        falsely: &BTreeSet<&str>,
    ) -> Self {
        let found: Vec<&CampaignFigures> = campaigns.iter().filter(|campaign| campaign.found).collect();
        let matched = claims.iter().filter(|claim| claim.is_true).count();
        let mut false_by_role = BTreeMap::new();
        for role in falsely.iter().filter_map(|client| labels.benign.get(*client)) {
            *false_by_role.entry(role.clone()).or_insert(0) += 1;
        }
        let client_days = labels.benign.len() as f64 * labels.days;
        let several = campaigns.iter().filter(|campaign| campaign.clients > 1);
        Self {
            campaigns: campaigns.len(),
            found: found.len(),
            recall: mean(campaigns.iter().map(|campaign| f64::from(u8::from(campaign.found)))),
            named: campaigns.iter().filter(|campaign| campaign.named).count(),
            alerts: claims.len(),
            precision: matched as f64 / claims.len().max(1) as f64,
            false_alerts_per_1000_clients_day: (client_days > 0.0)
                .then(|| (claims.len() - matched) as f64 / client_days * 1000.0),
            benign_clients_falsely_alerted: false_by_role.values().sum(),
            false_by_role,
            median_delay_s: median(found.iter().filter_map(|campaign| campaign.delay_s)),
            median_delay_share: median(found.iter().filter_map(|campaign| campaign.delay_share)),
            alerts_per_found_campaign: mean(
                found.iter().filter_map(|campaign| campaign.alerts).map(|alerts| alerts as f64),
            ),
            cluster_f1: mean(several.map(|campaign| campaign.f1.unwrap_or_default())),
        }
    }
}

impl KindFigures {
    fn all(campaigns: &[CampaignFigures], claims: &[Claim]) -> BTreeMap<String, Self> {
        let names = campaigns.iter().map(|campaign| campaign.kind.clone());
        let names: BTreeSet<String> =
            names.chain(claims.iter().map(|claim| claim.kind.name().to_owned())).collect();
        let of = |name: String| {
            let campaigns: Vec<_> = campaigns.iter().filter(|campaign| campaign.kind == name).collect();
            let claims: Vec<_> = claims.iter().filter(|claim| claim.kind.name() == name).collect();
            let figures = Self::of(&campaigns, &claims);
            (name, figures)
        };
        names.into_iter().map(of).collect()
    }

    fn of(campaigns: &[&CampaignFigures], claims: &[&Claim]) -> Self {
        Self {
            campaigns: campaigns.len(),
            found: campaigns.iter().filter(|campaign| campaign.found).count(),
            named: campaigns.iter().filter(|campaign| campaign.named).count(),
            median_delay_s: median(campaigns.iter().filter_map(|campaign| campaign.delay_s)),
            f1: mean(campaigns.iter().map(|campaign| campaign.f1.unwrap_or_default())),
            alerts: claims.len(),
            precision: mean(claims.iter().map(|claim| f64::from(u8::from(claim.is_true)))),
            reliability: Reliability::of(claims.iter().copied()),
        }
    }
}

impl CampaignFigures {
    fn of(
        campaign: &LabelledCampaign,
        members: &BTreeSet<&str>,
        hits: &[&Alert],
        got: &BTreeSet<&str>,
    ) -> Self {
        let delay_s = hits.first().map(|first| first.t - campaign.start);
        let common = got.intersection(members).count();
        Self {
            id: campaign.id.clone(),
            kind: campaign.kind.clone(),
            clients: members.len(),
            found: !hits.is_empty(),
            named: hits.iter().any(|alert| alert.kind.name() == campaign.kind),
            alerts: (!hits.is_empty()).then_some(hits.len()),
            delay_s,
            delay_share: delay_s.map(|delay| delay / (campaign.end - campaign.start)),
            f1: (!hits.is_empty()).then(|| 2.0 * common as f64 / (got.len() + members.len()) as f64),
        }
    }
}

fn matches(
    alert: &Alert,
    clients: &BTreeSet<&str>,
    campaign: &LabelledCampaign,
    members: &BTreeSet<&str>,
) -> bool {
    let common = clients.intersection(members).count();
    let is_in_time = (campaign.start..=campaign.end + AFTERWARDS_S).contains(&alert.t);
    is_in_time && common > 0 && common * 2 >= clients.len()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    crate::baseline::median_in_place(&mut values.collect::<Vec<f64>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anomaly::AnomalyKind;

    fn labels() -> Labels {
        let campaign = |id: &str, kind: &str, clients: &[&str]| LabelledCampaign {
            id: id.to_owned(),
            kind: kind.to_owned(),
            clients: clients.iter().copied().map(str::to_owned).collect(),
            start: 1000.0,
            end: 2000.0,
        };
        let benign =
            [("e", "office"), ("f", "probe")].map(|(client, role)| (client.to_owned(), role.to_owned()));
        Labels {
            days: 0.5,
            release: None,
            benign: benign.into(),
            campaigns: vec![campaign("c0", "flood", &["a"]), campaign("c1", "hydra", &["b", "c", "d"])],
        }
    }

    fn alert(id: &str, t: f64, kind: AnomalyKind, clients: &[&str]) -> Alert {
        Alert {
            id: id.into(),
            t,
            kind,
            score: 0.9,
            clients: clients.iter().copied().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn an_alert_counts_for_the_campaign_that_half_of_its_clients_belong_to_while_it_lasts() {
        use AnomalyKind::{Flood, Hydra, SlowDrip};
        let alerts: Alerts = [
            alert("early", 999.0, Flood, &["a"]),
            alert("late", 5601.0, Flood, &["a"]),
            alert("other kind", 5600.0, SlowDrip, &["a"]),
            alert("grows", 1100.0, Hydra, &["b"]),
            alert("half", 1500.0, Hydra, &["b", "e"]),
            alert("less than half", 1500.0, Hydra, &["b", "e", "f"]),
            alert("grows", 1200.0, Hydra, &["b", "c"]),
        ]
        .into_iter()
        .collect();
        let evaluation = Evaluation::of(&labels(), &alerts);
        let [flood, hydra] = &evaluation.per_campaign[..] else { panic!("{evaluation:?}") };
        assert_eq!(
            (flood.found, flood.named, flood.delay_s, flood.f1),
            (true, false, Some(4600.0), Some(1.0))
        );
        assert_eq!(
            (hydra.named, hydra.alerts, hydra.delay_share, hydra.f1),
            (true, Some(2), Some(0.1), Some(2.0 / 3.0))
        );
        let figures = &evaluation.figures;
        assert_eq!((figures.alerts, figures.found, figures.named), (6, 2, 1));
        assert_eq!((figures.precision, figures.false_alerts_per_1000_clients_day), (0.5, Some(3000.0)));
        assert_eq!(figures.false_by_role, [("office".to_owned(), 1), ("probe".to_owned(), 1)].into());
        assert_eq!((figures.cluster_f1, figures.median_delay_s), (Some(2.0 / 3.0), Some(2350.0)));
        assert_eq!(evaluation.per_kind["hydra"].precision, Some(2.0 / 3.0));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut labels = labels();
        labels.benign.clear();
        labels.campaigns.pop();
        let evaluation = Evaluation::of(&labels, &Alerts::default());
        let expected = Figures { campaigns: 1, recall: Some(0.0), ..Figures::default() };
        assert_eq!(evaluation.figures, expected);
        assert!(evaluation.reliability.0.is_empty());
    }
}
