//! The figures to reach, beside those reached.

use hydrometer_engine::evaluation::Evaluation;

use crate::Run;

/// Prints one line a figure: what it is, its bound, and whether it keeps it.
pub(crate) fn print(evaluation: &Evaluation, run: &Run) {
    let figures = &evaluation.figures;
    // Of 18 campaigns 17 are to be found and 15 to be named; of a part, as large a share.
    let of_all = |count: f64| (count / 18.0 * figures.campaigns as f64).floor();
    at_least("campaigns found", Some(figures.found as f64), of_all(17.0));
    at_least("named by the right kind", Some(figures.named as f64), of_all(15.0));
    at_most("false alerts per 1,000 clients and day", figures.false_alerts_per_1000_clients_day, 1.0);
    at_least("precision", Some(figures.precision), 0.9);
    at_least("cluster F1", figures.cluster_f1, 0.9);
    at_most("alerts per found campaign", figures.alerts_per_found_campaign, 4.0);
    at_most("median delay, share of the campaign", figures.median_delay_share, 0.1);
    for (kind, bound) in [("flood", 60.0), ("bulk_extraction", 600.0), ("denial_of_wallet", 600.0)] {
        let campaigns = evaluation.per_campaign.iter().filter(|campaign| campaign.kind == kind);
        let delays = campaigns.map(|campaign| campaign.delay_s.unwrap_or(f64::INFINITY));
        if let Some(slowest) = delays.max_by(f64::total_cmp) {
            at_most(&format!("slowest {kind}, s"), Some(slowest), bound);
        }
    }
    at_least("exchanges per second", Some(run.exchanges as f64 / run.seconds), 500_000.0);
    println!("   {:42} {:10}", "clients tracked", run.clients);
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
