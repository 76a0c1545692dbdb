//! The clients of a capture: a table, or one JSON array.

use std::collections::BTreeMap;

use anyhow::Context as _;
use hydrometer_engine::{Accuracy, ClientId, Ending, Exchange};
use serde::Serialize;

use super::Output;
use crate::{
    cli::{
        output::{self, Align, Grid, Paint, Tone},
        units,
    },
    recent::Recent,
    replay::MAX_FLOWS,
};

/// What a capture says about one client.
#[derive(Debug, Default, Serialize)]
struct Summary {
    client: String,
    flows: u64,
    requests: u64,
    aborted: u64,
    req_bytes: u64,
    resp_bytes: u64,
    first: f64,
    last: f64,
    accuracy: Accuracy,
}

/// All clients so far.
pub(super) struct Clients {
    summaries: BTreeMap<ClientId, Summary>,
    /// Flows that are counted; one that comes back after as many others counts again.
    flows: Recent<()>,
}

impl Default for Clients {
    fn default() -> Self {
        Self { summaries: BTreeMap::new(), flows: Recent::new(MAX_FLOWS) }
    }
}

impl Clients {
    pub(super) fn add(&mut self, exchange: &Exchange) {
        let start = exchange.start.as_secs_f64();
        let summary = self.summaries.entry(exchange.client).or_insert_with(|| {
            let accuracy = Accuracy::Exact;
            Summary { client: exchange.client.to_string(), first: start, accuracy, ..Summary::default() }
        });
        if self.flows.get(exchange.flow).is_none() {
            self.flows.insert(exchange.flow, ());
            summary.flows += 1;
        }
        summary.requests += 1;
        summary.aborted += u64::from(exchange.ending == Ending::Aborted);
        summary.req_bytes += exchange.request_bytes;
        summary.resp_bytes += exchange.answer_bytes;
        summary.first = summary.first.min(start);
        summary.last = summary.last.max((exchange.start + exchange.duration).as_secs_f64());
        summary.accuracy = summary.accuracy.max(exchange.accuracy);
    }

    /// Prints them; returns how many exchanges they had.
    pub(super) fn print(self, output: Output) -> anyhow::Result<u64> {
        let summaries: Vec<_> = self.summaries.into_values().collect();
        output::print(&match output {
            Output::Table => table(&summaries),
            Output::Json => serde_json::to_string_pretty(&summaries).context("cannot write JSON")? + "\n",
        })?;
        Ok(summaries.iter().map(|summary| summary.requests).sum())
    }
}

fn table(summaries: &[Summary]) -> String {
    use Align::{Left, Right};
    let columns = [
        ("CLIENT", Left),
        ("FLOWS", Right),
        ("REQUESTS", Right),
        ("ABORTED", Right),
        ("ASKED", Right),
        ("ANSWERED", Right),
        ("SPAN", Right),
        ("ACCURACY", Left),
    ];
    let mut grid = Grid::new(Paint::PLAIN, &columns);
    for summary in summaries {
        grid.row(
            [
                summary.client.clone(),
                summary.flows.to_string(),
                summary.requests.to_string(),
                summary.aborted.to_string(),
                units::bytes(summary.req_bytes as f64),
                units::bytes(summary.resp_bytes as f64),
                format!("{:.1} s", summary.last - summary.first),
                format!("{:?}", summary.accuracy).to_lowercase(),
            ]
            .map(|cell| (Tone::Plain, cell)),
        );
    }
    grid.finish()
}
