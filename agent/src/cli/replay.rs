//! `hydrometer replay`: the clients, or the exchanges, of a capture.
//!
//! In flow a capture file and the services' ports, out flow a table, or JSON. Needs no root: the
//! library that runs in the kernel runs here.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use hydrometer_ebpf::abi::{Counter, ExchangeEvent};
use hydrometer_engine::{Accuracy, ClientId, Ending, Exchange, ExchangeRecord, Nanos, Service};
use serde::Serialize;

use super::{
    output::{self, Align, Grid, Paint, Tone},
    units,
};
use crate::{
    config::ClientSettings,
    hello::Hellos,
    replay::{Replay, pcap},
    traffic::Traffic,
    wire,
};

/// Show the clients of a capture
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// The capture, pcap or pcapng; `-` reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Port, or address and port, of a service; several with commas or by repeating
    #[arg(long = "service", required = true, value_delimiter = ',', value_parser = service)]
    services: Vec<Service>,
    #[command(flatten)]
    clients: ClientSettings,
    /// Print each exchange instead of each client
    #[arg(long)]
    exchanges: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Flows whose fingerprint is remembered.
const MAX_FLOWS: usize = 1 << 20;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table for people.
    Table,
    /// Clients as one JSON array, exchanges as one JSON object a line.
    Json,
}

/// What a capture says about one client.
#[derive(Debug, Default, Serialize)]
struct Summary {
    client: String,
    flows: usize,
    requests: u64,
    aborted: u64,
    req_bytes: u64,
    resp_bytes: u64,
    first: f64,
    last: f64,
    accuracy: Accuracy,
}

fn service(text: &str) -> Result<Service, &'static str> {
    crate::config::service(text)
        .ok_or("give a port, or an address and a port such as 10.0.0.5:8000 or [fd00::1]:8000")
}

/// Runs the command.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let traffic = Traffic { ipv6_prefix: args.clients.check()? };
    let (exchanges, result) = exchanges(&args.file, &args.services, traffic);
    output::print(&match (args.exchanges, args.output) {
        (true, Output::Json) => exchange_lines(&exchanges)?,
        (true, Output::Table) => exchange_table(&exchanges),
        (false, Output::Json) => {
            serde_json::to_string_pretty(&summaries(&exchanges)).context("cannot write JSON")? + "\n"
        }
        (false, Output::Table) => client_table(&summaries(&exchanges)),
    })?;
    result
}

/// All exchanges by start, and how reading ended: a damaged file still gives what came before.
fn exchanges(file: &Path, services: &[Service], traffic: Traffic) -> (Vec<Exchange>, anyhow::Result<()>) {
    let replay = Replay::of(traffic, services);
    let mut hellos = Hellos::new(MAX_FLOWS);
    let mut exchanges = Vec::new();
    let mut add = |events: Vec<ExchangeEvent>| {
        for (event, bytes) in replay.hellos() {
            hellos.take(&event, &bytes);
        }
        for event in events {
            let mut exchange = wire::exchange(&event, Nanos(0), traffic.ipv6_prefix);
            hellos.identify(&mut exchange);
            exchanges.push(exchange);
        }
    };
    let read = pcap::read(file, |packet| {
        replay.captured(packet);
        add(replay.drain());
    });
    add(replay.flush());
    exchanges.sort_by_key(|exchange| exchange.start);
    explain(&replay, read.as_ref().ok().copied(), exchanges.len());
    (exchanges, read.map(|_| ()).map_err(Into::into))
}

/// Says on standard error what was not followed, and what may be wrong when nothing was.
fn explain(replay: &Replay, frames: Option<u64>, exchanges: usize) {
    let counters = replay.counters();
    let watched = counters[Counter::IngressWatched as usize] + counters[Counter::EgressWatched as usize];
    if let Some(frames) = frames
        && exchanges == 0
    {
        eprintln!(
            "{frames} frames, {watched} of them of the given services, and no request among them; check --service"
        );
    }
    for &counter in Counter::ALL.iter().filter(|counter| counter.is_loss()) {
        let count = counters[counter as usize];
        if count > 0 {
            eprintln!("{}: {count}. {}", counter.name(), counter.meaning());
        }
    }
}

fn exchange_lines(exchanges: &[Exchange]) -> anyhow::Result<String> {
    let mut lines = String::new();
    for exchange in exchanges {
        lines += &serde_json::to_string(&ExchangeRecord::from(exchange)).context("cannot write JSON")?;
        lines.push('\n');
    }
    Ok(lines)
}

fn summaries(exchanges: &[Exchange]) -> Vec<Summary> {
    let mut clients = BTreeMap::<ClientId, (Summary, HashSet<u64>)>::new();
    for exchange in exchanges {
        let (summary, flows) = clients.entry(exchange.client).or_insert_with(|| {
            let first = exchange.start.as_secs_f64();
            let accuracy = Accuracy::Exact;
            (
                Summary { client: exchange.client.to_string(), first, accuracy, ..Summary::default() },
                HashSet::new(),
            )
        });
        flows.insert(exchange.flow);
        summary.flows = flows.len();
        summary.requests += 1;
        summary.aborted += u64::from(exchange.ending == Ending::Aborted);
        summary.req_bytes += exchange.request_bytes;
        summary.resp_bytes += exchange.answer_bytes;
        summary.last = summary.last.max((exchange.start + exchange.duration).as_secs_f64());
        summary.accuracy = summary.accuracy.max(exchange.accuracy);
    }
    clients.into_values().map(|(summary, _)| summary).collect()
}

fn client_table(summaries: &[Summary]) -> String {
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

fn exchange_table(exchanges: &[Exchange]) -> String {
    use Align::{Left, Right};
    let columns = [
        ("START", Left),
        ("CLIENT", Left),
        ("PORT", Right),
        ("ASKED", Right),
        ("ANSWERED", Right),
        ("TTFB", Right),
        ("TTFT", Right),
        ("DURATION", Right),
        ("RECORDS", Right),
        ("MEDIAN", Right),
        ("PROTOCOL", Left),
        ("ACCURACY", Left),
    ];
    let millis = |time: Option<Duration>| {
        time.map_or_else(|| "-".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3))
    };
    let mut grid = Grid::new(Paint::PLAIN, &columns);
    for exchange in exchanges {
        grid.row(
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
                format!("{:?}", exchange.accuracy).to_lowercase(),
            ]
            .map(|cell| (Tone::Plain, cell)),
        );
    }
    grid.finish()
}
