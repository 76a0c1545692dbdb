//! The exchanges of a capture by their start: lines of a table, or of JSON.
//!
//! What one exchange alone does not tell is told by all that were read before its line is printed.

use std::{
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    time::Duration,
};

use anyhow::Context as _;
use hydrometer_engine::{AnswerKind, AnswerLengths, Ending, Exchange, ExchangeRecord};

use super::Output;
use crate::{
    cli::{output::Lines, units, words},
    ordered::Ordered,
    recent::Recent,
    replay::MAX_FLOWS,
};

/// Prints exchanges while they come.
pub(super) struct Exchanges {
    output: Output,
    /// Those that ended before an earlier one may have.
    waiting: Ordered<Exchange>,
    /// By [`answers`].
    lengths: Recent<AnswerLengths>,
    lines: Lines,
    count: u64,
}

impl Exchanges {
    pub(super) fn new(output: Output) -> Self {
        let lengths = Recent::new(MAX_FLOWS);
        Self { output, waiting: Ordered::default(), lengths, lines: Lines::default(), count: 0 }
    }

    pub(super) fn add(&mut self, exchange: Exchange) -> anyhow::Result<()> {
        if let Some(answers) = answers(&exchange) {
            self.lengths.get_or_default(answers).add(&exchange);
        }
        match self.waiting.push(exchange.start, exchange) {
            Some(first) => self.print(first),
            None => Ok(()),
        }
    }

    /// Prints the rest; returns how many there were.
    pub(super) fn finish(mut self) -> anyhow::Result<u64> {
        while let Some(exchange) = self.waiting.pop() {
            self.print(exchange)?;
        }
        self.lines.finish()?;
        Ok(self.count)
    }

    fn print(&mut self, mut exchange: Exchange) -> anyhow::Result<()> {
        let lengths = answers(&exchange).and_then(|answers| self.lengths.get(answers));
        exchange.truncated = lengths.and_then(|lengths| lengths.is_truncated(&exchange));
        if self.count == 0 && self.output == Output::Table {
            self.lines.print(&row(TITLES.map(str::to_owned)))?;
        }
        self.count += 1;
        self.lines.print(&match self.output {
            Output::Table => row(cells(&exchange)),
            Output::Json => {
                serde_json::to_string(&ExchangeRecord::from(&exchange)).context("cannot write JSON")?
            }
        })
    }
}

/// A key for the answers whose lengths can be compared with that of this one.
fn answers(exchange: &Exchange) -> Option<u64> {
    let kind = AnswerKind::of(exchange)?;
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    Some(hasher.hash_one((exchange.client, exchange.service, kind)))
}

const TITLES: [&str; 13] = [
    "START", "CLIENT", "PORT", "ASKED", "ANSWERED", "TTFB", "TTFT", "DURATION", "RECORDS", "MEDIAN",
    "PROTOCOL", "END", "ACCURACY",
];

fn cells(exchange: &Exchange) -> [String; TITLES.len()] {
    let millis = |time: Option<Duration>| {
        time.map_or_else(|| "-".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3))
    };
    [
        format!("{:.6}", exchange.start.as_secs_f64()),
        exchange.client.to_string(),
        exchange.client_port.to_string(),
        units::bytes(exchange.request_bytes as f64),
        units::bytes(exchange.answer_bytes as f64),
        millis(exchange.time_to_first_byte),
        millis(exchange.time_to_first_token),
        millis(Some(exchange.duration)),
        exchange.records.to_string(),
        exchange.record_median.to_string(),
        format!("{:?}", exchange.protocol).to_lowercase(),
        words::end(exchange.ending == Ending::Aborted, exchange.truncated).to_owned(),
        words::believed(format!("{:?}", exchange.accuracy).to_lowercase(), exchange.confidence),
    ]
}

/// A line; rows appear one by one, so the columns have fixed widths: those of their longest usual value.
fn row(cells: [String; TITLES.len()]) -> String {
    let [
        start,
        client,
        port,
        asked,
        answered,
        ttfb,
        ttft,
        duration,
        records,
        median,
        protocol,
        end,
        accuracy,
    ] = cells;
    format!(
        "{start:<17}  {client:<20}  {port:>5}  {asked:>9}  {answered:>9}  {ttfb:>10}  {ttft:>10}  {duration:>11}  \
         {records:>7}  {median:>6}  {protocol:<8}  {end:<9}  {accuracy}"
    )
}
