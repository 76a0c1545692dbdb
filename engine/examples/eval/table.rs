//! Figures of several runs together: by kind of campaign, by role of the falsely accused, and how reliable scores are.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::target;

/// What came of several runs.
#[derive(Default)]
pub(crate) struct Table {
    kinds: BTreeMap<String, Kind>,
    /// Benign clients falsely alerted.
    roles: BTreeMap<String, u64>,
    alerts: f64,
    matched: f64,
    runs: Vec<Figures>,
    claims: Vec<(f64, bool)>,
}

#[derive(Clone, Default)]
struct Kind {
    campaigns: usize,
    found: usize,
    named: usize,
    alerts: f64,
    delays: Vec<f64>,
    shares: Vec<f64>,
    f1: Vec<f64>,
}

struct Figures {
    false_alerts: f64,
    precision: f64,
    f1: f64,
    recall: f64,
}

impl Table {
    /// Takes in what the scorer said of a run.
    pub(crate) fn add(&mut self, figures: &Value) {
        for campaign in figures["per_campaign"].as_array().into_iter().flatten() {
            self.kinds.entry(text(&campaign["kind"])).or_default().add(campaign);
        }
        for (role, count) in figures["false_by_role"].as_object().into_iter().flatten() {
            *self.roles.entry(role.clone()).or_default() += count.as_u64().unwrap_or_default();
        }
        let alerts = number(&figures["alerts"]);
        self.alerts += alerts;
        self.matched += alerts * number(&figures["precision"]);
        self.runs.push(Figures {
            false_alerts: number(&figures["false_alerts_per_1000_clients_day"]),
            precision: number(&figures["precision"]),
            f1: number(&figures["cluster_f1"]),
            recall: number(&figures["recall"]),
        });
    }

    /// Takes in what an alert claimed, and whether it was true.
    pub(crate) fn claim(&mut self, score: f64, is_true: bool) {
        self.claims.push((score, is_true));
    }

    pub(crate) fn print(&self) {
        self.print_kinds();
        let mean = |figure: fn(&Figures) -> f64| {
            self.runs.iter().map(figure).sum::<f64>() / self.runs.len().max(1) as f64
        };
        println!(
            "   mean of the seeds: recall {:.3}, false alerts {:.2}, precision {:.3} (of all alerts {:.3}), F1 {:.3}",
            mean(|run| run.recall),
            mean(|run| run.false_alerts),
            mean(|run| run.precision),
            self.matched / self.alerts.max(1.0),
            mean(|run| run.f1),
        );
        println!("   falsely accused: {:?}", self.roles);
        target::print_reliability(&self.claims);
    }

    fn print_kinds(&self) {
        println!(
            "   {:18} {:>9} {:>6} {:>6} {:>9} {:>9} {:>9} {:>7} {:>6}",
            "kind", "campaigns", "found", "named", "median s", "slowest s", "of length", "alerts", "F1"
        );
        for (name, kind) in &self.kinds {
            kind.print(name);
        }
    }

    /// The line of one kind alone.
    pub(crate) fn print_kind(&self, name: &str) {
        self.kinds.get(name).cloned().unwrap_or_default().print(name);
    }
}

impl Kind {
    fn add(&mut self, campaign: &Value) {
        self.campaigns += 1;
        self.named += usize::from(campaign["named"] == true);
        if campaign["found"] == true {
            self.found += 1;
            self.alerts += number(&campaign["alerts"]);
            self.delays.push(number(&campaign["delay_s"]));
            self.shares.push(number(&campaign["delay_share"]));
        }
        self.f1.push(number(&campaign["f1"]));
    }

    fn print(&self, name: &str) {
        let f1 = self.f1.iter().sum::<f64>() / self.f1.len().max(1) as f64;
        println!(
            "   {name:18} {:>9} {:>6} {:>6} {:>9.0} {:>9.0} {:>9.3} {:>7.2} {f1:>6.3}",
            self.campaigns,
            self.found,
            self.named,
            median(&self.delays),
            self.delays.iter().copied().fold(0.0, f64::max),
            median(&self.shares),
            self.alerts / self.found.max(1) as f64,
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
