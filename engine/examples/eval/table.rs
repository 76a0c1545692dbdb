//! Figures of several runs together: by kind of campaign, by role of the falsely accused, and how reliable scores are.

use std::collections::BTreeMap;

use hydrometer_engine::{
    anomaly::AnomalyKind,
    evaluation::{CampaignFigures, Claim, Evaluation, Figures, Reliability},
};

/// What came of several runs.
#[derive(Default)]
pub(crate) struct Table {
    kinds: BTreeMap<String, Vec<CampaignFigures>>,
    runs: Vec<Figures>,
    claims: Vec<Claim>,
}

impl Table {
    /// Takes in what came of a run.
    pub(crate) fn add(&mut self, evaluation: &Evaluation) {
        for campaign in &evaluation.per_campaign {
            self.kinds.entry(campaign.kind.clone()).or_default().push(campaign.clone());
        }
        self.runs.push(evaluation.figures.clone());
        self.claims.extend(&evaluation.claims);
    }

    pub(crate) fn print(&self) {
        print_header();
        for (name, campaigns) in &self.kinds {
            print_kind(name, campaigns);
        }
        let mean =
            |figure: fn(&Figures) -> Option<f64>| mean(&self.runs, |run| figure(run).unwrap_or_default());
        let matched = self.claims.iter().filter(|claim| claim.is_true).count();
        println!(
            "   mean of the seeds: recall {:.3}, false alerts {:.2}, precision {:.3} (of all alerts {:.3}), F1 {:.3}",
            mean(|run| run.recall),
            mean(|run| run.false_alerts_per_1000_clients_day),
            mean(|run| Some(run.precision)),
            matched as f64 / self.claims.len().max(1) as f64,
            mean(|run| run.cluster_f1),
        );
        let mut roles: BTreeMap<&str, usize> = BTreeMap::new();
        for (role, count) in self.runs.iter().flat_map(|run| &run.false_by_role) {
            *roles.entry(role).or_default() += count;
        }
        println!("   falsely accused: {roles:?}");
        self.print_reliability();
    }

    /// The line of one kind alone.
    pub(crate) fn print_kind(&self, name: &str) {
        print_kind(name, self.kinds.get(name).map_or(&[], Vec::as_slice));
    }

    /// Of those who claim to be about as likely as each other, how many there are and how many are true: of all alerts,
    /// and of each kind.
    fn print_reliability(&self) {
        println!("   {:18} {:>14} {:>8} {:>8} {:>8}", "kind", "said to be", "alerts", "mean", "true");
        print_bins("all", &Reliability::of(&self.claims));
        for kind in AnomalyKind::ALL {
            let claims = self.claims.iter().filter(|claim| claim.kind == kind);
            print_bins(kind.name(), &Reliability::of(claims));
        }
    }
}

/// The titles of a line a kind.
pub(crate) fn print_header() {
    println!(
        "   {:18} {:>9} {:>6} {:>6} {:>9} {:>9} {:>9} {:>7} {:>6}",
        "kind", "campaigns", "found", "named", "median s", "slowest s", "of length", "alerts", "F1"
    );
}

fn print_kind(name: &str, campaigns: &[CampaignFigures]) {
    let found: Vec<&CampaignFigures> = campaigns.iter().filter(|campaign| campaign.found).collect();
    let delays = found.iter().filter_map(|campaign| campaign.delay_s);
    let alerts: usize = found.iter().filter_map(|campaign| campaign.alerts).sum();
    println!(
        "   {name:18} {:>9} {:>6} {:>6} {:>9.0} {:>9.0} {:>9.3} {:>7.2} {:>6.3}",
        campaigns.len(),
        found.len(),
        campaigns.iter().filter(|campaign| campaign.named).count(),
        median(delays.clone()),
        delays.fold(0.0, f64::max),
        median(found.iter().filter_map(|campaign| campaign.delay_share)),
        alerts as f64 / found.len().max(1) as f64,
        mean(campaigns, |campaign| campaign.f1.unwrap_or_default()),
    );
}

fn print_bins(name: &str, Reliability(bins): &Reliability) {
    for bin in bins {
        let range = format!("{:.2} to {:.2}", bin.from, bin.to);
        println!("   {name:18} {range:>14} {:>8} {:>8.3} {:>8.3}", bin.alerts, bin.claimed, bin.share);
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn mean<T>(of: &[T], value: impl Fn(&T) -> f64) -> f64 {
    of.iter().map(value).sum::<f64>() / of.len().max(1) as f64
}
