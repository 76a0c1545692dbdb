//! `hydrometer replay`: the clients, or the exchanges, of a capture.
//!
//! In flow a capture and the services' ports, out flow a table, or JSON. Needs no root: the library that runs
//! in the kernel runs here. Invariant: memory does not grow with the capture; what is printed for each exchange
//! is printed while it is read, and a damaged capture gives all that came before the damage.

mod clients;
mod exchanges;

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use hydrometer_ebpf::abi::Counter;
use hydrometer_engine::{Exchange, Service};
use indicatif::{ProgressBar, ProgressStyle};

use self::{clients::Clients, exchanges::Exchanges};
use crate::{
    config::TrafficSettings,
    replay::{
        Reading, Replay,
        pcap::{Capture, Contents},
    },
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
    traffic: TrafficSettings,
    /// Print each exchange instead of each client
    #[arg(long)]
    exchanges: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Frames between two looks at the progress.
const STRIDE: u64 = 1 << 14;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table for people.
    Table,
    /// Clients as one JSON array, exchanges as one JSON object a line.
    Json,
}

pub(super) fn service(text: &str) -> Result<Service, &'static str> {
    crate::config::service(text)
        .ok_or("give a port, or an address and a port such as 10.0.0.5:8000 or [fd00::1]:8000")
}

/// Runs the command.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let traffic = args.traffic.clone().check()?;
    let name = || args.file.display().to_string();
    let mut capture = Capture::open(&args.file).with_context(name)?;
    let mut listing = if args.exchanges {
        Listing::Exchanges(Exchanges::new(args.output))
    } else {
        Listing::Clients(Clients::default())
    };
    let progress = progress(args);
    let mut reading = Reading::new(traffic, &args.services)?;
    let end = loop {
        match capture.next() {
            Ok(Some(frame)) => reading.take(&frame),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        reading.ended().into_iter().try_for_each(|exchange| listing.add(exchange))?;
        if capture.contents().frames.is_multiple_of(STRIDE) {
            progress.set_position(capture.offset());
        }
    };
    progress.finish_and_clear();
    reading.flush().into_iter().try_for_each(|exchange| listing.add(exchange))?;
    let listed = listing.finish(args.output)?;
    explain(reading.replay(), capture.contents(), listed);
    end.with_context(name)
}

/// What becomes of the exchanges.
enum Listing {
    Clients(Clients),
    Exchanges(Exchanges),
}

impl Listing {
    fn add(&mut self, exchange: Exchange) -> anyhow::Result<()> {
        match self {
            Self::Clients(clients) => clients.add(&exchange),
            Self::Exchanges(exchanges) => return exchanges.add(exchange),
        }
        Ok(())
    }

    /// Prints what has not been printed; returns how many exchanges there were.
    fn finish(self, output: Output) -> anyhow::Result<u64> {
        match self {
            Self::Clients(clients) => clients.print(output),
            Self::Exchanges(exchanges) => exchanges.finish(),
        }
    }
}

/// A bar on standard error, if that is a terminal; none where lines are printed to the same one meanwhile.
fn progress(args: &ReplayArgs) -> ProgressBar {
    if args.exchanges && io::stdout().is_terminal() { ProgressBar::hidden() } else { progress_of(&args.file) }
}

/// A bar on standard error, if that is a terminal, for the bytes of a file.
pub(super) fn progress_of(file: &Path) -> ProgressBar {
    let (bar, template) = match length(file) {
        Some(length) => {
            (ProgressBar::new(length), "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go")
        }
        None => (ProgressBar::no_length(), "{bytes}, {bytes_per_sec}"),
    };
    // A template that is wrong is left out: the bar then looks as indicatif draws it.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Bytes of the file; none where it is a pipe.
fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|file| file.len())
}

/// Says on standard error what was not followed, and what may be wrong when nothing was.
pub(super) fn explain(replay: &Replay, Contents { frames, shortened, unread }: Contents, exchanges: u64) {
    let counters = replay.counters();
    let watched = counters[Counter::IngressWatched as usize] + counters[Counter::EgressWatched as usize];
    if exchanges == 0 {
        eprintln!(
            "{frames} frames, {watched} of them of the given services, and no request among them; check --service"
        );
    }
    if shortened > 0 {
        eprintln!(
            "frames_shortened: {shortened}. Frames of which the capture does not have all bytes: sizes may be \
             derived, and requests missed; capture with `tcpdump -s 0`."
        );
    }
    if unread > 0 {
        eprintln!("frames_unread: {unread}. Frames of interfaces with a link type that is not read.");
    }
    for &counter in Counter::ALL.iter().filter(|counter| counter.is_loss()) {
        let count = counters[counter as usize];
        if count > 0 {
            eprintln!("{}: {count}. {}", counter.name(), counter.meaning());
        }
    }
}
