//! What a person needs to judge an anomaly, on one page each: everything that is known of it when the recording ends.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::ensure;
use hydrometer_proto::v1::{Anomaly, Series};

use crate::cli::{
    anomalies, chart,
    output::{self, Format, Paint, Tone},
    schema, units, words,
};

/// Members of a campaign that are named with their reasons.
const MEMBERS: usize = 10;

/// Anomalies as they stand.
pub(super) struct Explanations {
    /// The one that is asked for; all, if none is.
    only: Option<String>,
    newest: BTreeMap<String, Anomaly>,
}

impl Explanations {
    pub(super) fn of(only: Option<String>) -> Self {
        Self { only, newest: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, anomaly: Anomaly) {
        if self.only.as_ref().is_none_or(|only| *only == anomaly.id) {
            self.newest.insert(anomaly.id.clone(), anomaly);
        }
    }

    /// Prints them by when they were raised.
    pub(super) fn print(self, output: Format, paint: Paint) -> anyhow::Result<()> {
        if let Some(only) = self.only {
            ensure!(!self.newest.is_empty(), "no anomaly has the id {only}; without an id all are explained");
        }
        let mut all: Vec<Anomaly> = self.newest.into_values().collect();
        all.sort_by_key(|anomaly| words::instant(anomaly.raised.as_ref()));
        if output == Format::Json {
            return all
                .iter()
                .try_for_each(|anomaly| output::print_json_line(&schema::Anomaly::from(anomaly)));
        }
        if all.is_empty() {
            return output::print("no anomalies\n");
        }
        all.iter().try_for_each(|anomaly| output::print(&explanation(anomaly, paint)))
    }
}

fn explanation(anomaly: &Anomaly, paint: Paint) -> String {
    let mut text =
        anomalies::header(paint) + &anomalies::line(anomaly, paint) + &anomalies::evidence(anomaly, paint);
    for series in anomaly.evidence.iter().flat_map(|evidence| &evidence.series) {
        text.push_str(&paint.text(Tone::Plain, &drawn(series)));
        text.push('\n');
    }
    for member in anomaly.members.iter().take(MEMBERS) {
        text.push_str(&paint.text(Tone::Plain, &format!("    member {}: {}", member.client, member.reason)));
        text.push('\n');
    }
    if let Some(more) = anomaly.members.len().checked_sub(MEMBERS + 1) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    and {} more members", more + 1);
    }
    text.push('\n');
    text
}

/// A series as a line: what, from when, its values as bars, and how large the largest is.
fn drawn(series: &Series) -> String {
    let largest = series.values.iter().copied().fold(0.0, f64::max);
    let step = std::time::Duration::try_from_secs_f64(series.step_seconds).unwrap_or_default();
    format!(
        "    {}, {} values every {} from {}, up to {}: {}",
        series.feature,
        series.values.len(),
        units::duration(step),
        units::instant(words::instant(series.start.as_ref())),
        units::with_unit(largest, &series.unit),
        chart::sparkline(&series.values),
    )
}
