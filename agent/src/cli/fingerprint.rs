//! What a client's traffic looks like, and how unlike others' it is.
//!
//! In flow fingerprints, out flow lines of text or values of [`schema`].

use std::collections::BTreeMap;

use hydrometer_engine::{Fingerprint, fingerprint::Distribution};

use super::{
    chart,
    output::{Align, Grid, Paint, Tone},
    schema, units, words,
};
use crate::convert;

/// Other clients that a client is compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Others {
    /// Who.
    pub addresses: Vec<String>,
    /// Their fingerprint, taken together.
    pub fingerprint: Fingerprint,
}

/// The lines about a fingerprint, beside that of others where there are any.
pub fn render(of: &Fingerprint, others: Option<&Others>, paint: Paint) -> String {
    let mut columns = vec![
        ("FINGERPRINT", Align::Left),
        ("VALUES", Align::Right),
        ("5 %", Align::Right),
        ("MEDIAN", Align::Right),
        ("95 %", Align::Right),
    ];
    if others.is_some() {
        columns.extend([("OTHERS' MEDIAN", Align::Right), ("DISTANCE", Align::Right)]);
    }
    let mut grid = Grid::new(paint, &columns);
    for (which, name, _) in DISTRIBUTIONS {
        let at = |share| quantile(of, which, share);
        let total = units::count(of.histogram(which).total());
        let mut cells = vec![name.to_owned(), total, at(0.05), at(0.5), at(0.95)];
        if let Some(others) = others {
            cells.push(quantile(&others.fingerprint, which, 0.5));
            cells.push(units::or_absent(of.distance_of(&others.fingerprint, which), distance));
        }
        grid.row(cells.into_iter().map(|text| (Tone::Plain, text)));
    }
    let hours: Vec<f64> = of.hours().iter().map(|count| f64::from(*count)).collect();
    let hours = format!("asks by hour of the day, UTC  |{:<24}|\n", chart::sparkline(&hours));
    let habits = format!(
        "{} requests in progress while it asks; about {} connections, {} requests on each\n",
        units::or_absent(of.concurrency(), units::number),
        units::count(of.connections.count().round() as u64),
        units::or_absent(of.requests_per_connection(), units::number),
    );
    let mut text = grid.finish() + &hours + &habits;
    if let Some(others) = others {
        let apart = of.distance(&others.fingerprint);
        let line =
            format!("distance {} from {} (0 alike, 1 nothing in common)", distance(apart), others.names());
        text += &(paint.text(Tone::Strong, &line) + "\n");
    }
    text
}

impl Others {
    fn names(&self) -> String {
        match self.addresses.as_slice() {
            [one] => one.clone(),
            several => format!("{} together", several.join(", ")),
        }
    }
}

/// A fingerprint as the schema has it.
pub(super) fn schema(of: &Fingerprint) -> schema::Fingerprint {
    let from = convert::fingerprint(of);
    let distributions = DISTRIBUTIONS.into_iter().map(|(which, _, key)| {
        let histogram = convert::distribution(of, which);
        (key, schema::Histogram::from(&histogram))
    });
    schema::Fingerprint {
        first_seen: words::instant(from.first_seen.as_ref()),
        last_seen: words::instant(from.last_seen.as_ref()),
        requests: from.requests,
        request_bytes: from.request_bytes,
        answer_bytes: from.answer_bytes,
        aborted: from.aborted,
        concurrency: of.concurrency(),
        connections: from.connections,
        requests_per_connection: of.requests_per_connection(),
        hours: from.hours,
        distributions: distributions.collect(),
        services: from.services.iter().map(schema::Service::from).collect(),
        ja4: from.ja4,
    }
}

/// A comparison as the schema has it.
pub(super) fn compared(of: &Fingerprint, others: &Others) -> schema::Compared {
    let distances = DISTRIBUTIONS
        .into_iter()
        .filter_map(|(which, _, key)| Some((key, of.distance_of(&others.fingerprint, which)?)));
    schema::Compared {
        with: others.addresses.clone(),
        distance: of.distance(&others.fingerprint),
        distances: distances.collect::<BTreeMap<_, _>>(),
    }
}

/// Each with its name for people and its key in JSON, in the order of [`Distribution::ALL`].
const DISTRIBUTIONS: [(Distribution, &str, &str); Distribution::ALL.len()] = [
    (Distribution::Intervals, "time between requests", "interarrival"),
    (Distribution::RequestSizes, "request size", "request_sizes"),
    (Distribution::AnswerSizes, "answer size", "answer_sizes"),
    (Distribution::AnswerRatios, "answer over request", "answer_ratios"),
    (Distribution::RecordSizes, "server record", "record_sizes"),
    (Distribution::FirstBytes, "time to first byte", "times_to_first_byte"),
    (Distribution::Durations, "duration", "durations"),
    (Distribution::RelayGaps, "TLS over TCP round trip", "relay_gaps"),
];

/// Where the bucket of a quantile begins.
fn quantile(of: &Fingerprint, which: Distribution, share: f64) -> String {
    let histogram = convert::distribution(of, which);
    let bucket = of.histogram(which).quantile(share);
    bucket.map_or_else(|| units::ABSENT.to_owned(), |bucket| chart::label(&histogram, bucket) + "+")
}

fn distance(value: f64) -> String {
    format!("{value:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_distribution_has_its_name_in_order() {
        assert_eq!(DISTRIBUTIONS.map(|(which, _, _)| which), Distribution::ALL);
    }
}
