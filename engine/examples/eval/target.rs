//! The figures to reach, beside those reached.

use serde_json::Value;

use crate::Run;

/// Prints one line a figure: what it is, its bound, and whether it keeps it.
pub(crate) fn print(figures: &Value, run: &Run) {
    let number = |name: &str| figures[name].as_f64();
    let campaigns = number("campaigns").unwrap_or_default();
    // Of 18 campaigns 17 are to be found and 15 to be named; of a part, as large a share.
    let of_all = |count: f64| (count / 18.0 * campaigns).floor();
    at_least("campaigns found", number("found"), of_all(17.0));
    at_least("named by the right kind", number("named"), of_all(15.0));
    at_most("false alerts per 1,000 clients and day", number("false_alerts_per_1000_clients_day"), 1.0);
    at_least("precision", number("precision"), 0.9);
    at_least("cluster F1", number("cluster_f1"), 0.9);
    at_most("alerts per found campaign", number("alerts_per_found_campaign"), 4.0);
    at_most("median delay, share of the campaign", number("median_delay_share"), 0.1);
    for (kind, bound) in [("flood", 60.0), ("bulk_extraction", 600.0), ("denial_of_wallet", 600.0)] {
        let delays = figures["per_campaign"].as_array().into_iter().flatten();
        let delays = delays
            .filter(|campaign| campaign["kind"] == kind)
            .map(|campaign| campaign["delay_s"].as_f64().unwrap_or(f64::INFINITY));
        if let Some(slowest) = delays.max_by(f64::total_cmp) {
            at_most(&format!("slowest {kind}, s"), Some(slowest), bound);
        }
    }
    at_least("exchanges per second", Some(run.exchanges as f64 / run.seconds), 500_000.0);
    println!("   {:42} {:10}", "clients tracked", run.clients);
}

/// Prints, for alerts that claim to be about as likely as each other, how many there are and how many are true.
pub(crate) fn print_reliability(claims: &[(f64, bool)]) {
    println!("   {:24} {:>8} {:>8}", "claimed to be true", "alerts", "true");
    for (low, high) in [(0.0, 0.9), (0.9, 0.95), (0.95, 0.99), (0.99, 1.01)] {
        let inside: Vec<bool> = claims
            .iter()
            .filter(|(score, _)| (low..high).contains(score))
            .map(|(_, is_true)| *is_true)
            .collect();
        if !inside.is_empty() {
            let share = inside.iter().filter(|is_true| **is_true).count() as f64 / inside.len() as f64;
            println!("   {low:.2} to {:.2} {:>21} {share:>8.2}", f64::min(high, 1.0), inside.len());
        }
    }
}

fn at_least(what: &str, value: Option<f64>, bound: f64) {
    show(what, value, "at least", bound, value.is_some_and(|value| value >= bound));
}

fn at_most(what: &str, value: Option<f64>, bound: f64) {
    show(what, value, "at most", bound, value.is_some_and(|value| value <= bound));
}

fn show(what: &str, value: Option<f64>, which: &str, bound: f64, is_kept: bool) {
    let value = value.map_or("none".to_owned(), |value| format!("{value:.3}"));
    let mark = if is_kept { "  " } else { "! " };
    println!("{mark} {what:42} {value:>12}   {which} {bound}");
}
