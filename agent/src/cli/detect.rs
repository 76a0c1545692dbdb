//! `hydrometer detect`: the anomalies in recorded exchanges.
//!
//! In flow exchanges as `hydrometer replay --exchanges -o json` prints them, out flow the changes of anomalies, in
//! the order in which an agent would have found them: the engine learns of an exchange when it ended, and of the
//! time once a second, both as the recording has them. A line that is no exchange is passed over and told at the end.
//! Invariant: memory does not grow with the recording.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use hydrometer_engine::{
    Engine, EngineConfig, Exchange, ExchangeRecord, Nanos, Release,
    anomaly::{Anomaly, Reach, State},
};

use super::{
    anomalies::Printer,
    output::{ColorChoice, Format},
};
use crate::{config::ContextSettings, convert, ordered::Ordered};

/// Find the anomalies in recorded exchanges
#[derive(Args, Debug)]
pub struct DetectArgs {
    /// The exchanges, as `hydrometer replay --exchanges -o json` prints them, compressed if its name ends in .zst; `-`
    /// reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What to print: a line each, evidence below each line (wide), or one JSON object a line
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    color: ColorChoice,
    /// Also write alerts to a file: one JSON object (id, t, kind, score, clients) a line, when an anomaly opens and when a
    /// campaign grows
    #[arg(long, value_name = "FILE")]
    alerts: Option<PathBuf>,
    /// A new model: the port of its service, and when it appeared, in seconds as the recording has them; several with
    /// commas or by repeating
    #[arg(long, value_name = "PORT:SECONDS", value_delimiter = ',', value_parser = release)]
    releases: Vec<Release>,
    /// What the operator knows: contracts, own machines, releases, mutes and acknowledgements, as tables of TOML
    #[arg(long, value_name = "FILE")]
    contracts: Option<PathBuf>,
    /// Show anomalies that are muted, too
    #[arg(long)]
    muted: bool,
}

/// Between two looks at the clients.
const SECOND: Duration = Duration::from_secs(1);
/// Silence after which the rest of it is left out: by then everything is settled.
const SILENCE: Duration = Duration::from_hours(24);

/// Wrong lines that are told one by one.
const TOLD: usize = 5;

/// Runs the command.
pub fn run(args: &DetectArgs) -> anyhow::Result<()> {
    let name = args.file.display();
    let lines = open(&args.file).with_context(|| format!("cannot open {name}"))?;
    let (context, mut releases) =
        args.contracts.as_deref().map(ContextSettings::load).transpose()?.unwrap_or_default();
    releases.extend(&args.releases);
    let config = EngineConfig { releases, context, ..EngineConfig::default() };
    let mut recording = Recording {
        engine: Engine::new(config),
        ended: Ordered::default(),
        now: None,
        printer: Printer::new(args.output, args.color),
        alerts: args.alerts.as_deref().map(create).transpose()?,
        shows: if args.muted { Reach::Node } else { Reach::Fleet },
        muted: 0,
    };
    let mut wrong = Vec::new();
    let mut unread = 0_u64;
    for (number, line) in (1_u64..).zip(lines.lines()) {
        // What cannot be read on, such as broken compression, ends the recording.
        let is_over = line.is_err();
        match line.map_err(Into::into).and_then(|line| exchange(&line)) {
            Ok(Some(exchange)) => recording.take(exchange)?,
            Ok(None) => {}
            Err(error) => {
                unread += 1;
                if wrong.len() < TOLD {
                    wrong.push(format!("{name}, line {number}: {error}"));
                }
            }
        }
        if is_over {
            break;
        }
    }
    recording.finish()?;
    ensure!(unread == 0, "lines that are no exchanges: {unread}, passed over\n{}", wrong.join("\n"));
    Ok(())
}

fn release(text: &str) -> Result<Release, String> {
    let parts =
        text.split_once(':').and_then(|(port, at)| Some((port.parse().ok()?, at.parse::<f64>().ok()?)));
    let release = parts.filter(|(_, at_s)| *at_s >= 0.0 && at_s.is_finite());
    let release = release.map(|(port, at_s)| Release { port, at_s });
    release
        .ok_or_else(|| format!("{text:?} is no release: give the port and the second, such as 8003:117874"))
}

fn create(path: &Path) -> anyhow::Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(BufWriter::new(file))
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path)?;
    Ok(if path.extension().is_some_and(|extension| extension == "zst") {
        Box::new(BufReader::new(zstd::Decoder::new(file)?))
    } else {
        Box::new(BufReader::new(file))
    })
}

/// The exchange on a line; none on an empty one.
fn exchange(line: &str) -> anyhow::Result<Option<Exchange>> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let record: ExchangeRecord = serde_json::from_str(line)?;
    Ok(Some(record.try_into()?))
}

/// An anomaly that has opened or grown, as a line for those who score alerts.
fn alert(out: &mut impl Write, anomaly: &Anomaly) -> io::Result<()> {
    if anomaly.state == State::Closed {
        return Ok(());
    }
    let alone = anomaly.members.is_empty().then_some(anomaly.client);
    let clients = anomaly.members.iter().map(|member| member.client).chain(alone);
    let line = serde_json::json!({
        "id": anomaly.id,
        "t": anomaly.raised.as_secs_f64(),
        "kind": anomaly.kind.name(),
        "score": anomaly.score,
        "clients": clients.map(|client| client.to_string()).collect::<Vec<_>>(),
    });
    writeln!(out, "{line}")
}

/// A recording that is read.
struct Recording {
    engine: Engine,
    /// Exchanges by their end, until the recording has come there.
    ended: Ordered<Exchange>,
    /// The last second that the engine knows of.
    now: Option<Nanos>,
    printer: Printer,
    /// Where alerts go as well.
    alerts: Option<BufWriter<File>>,
    /// What is shown: all that goes so far, or further.
    shows: Reach,
    /// Anomalies that were not shown when they opened.
    muted: u64,
}

impl Recording {
    /// Takes the next exchange; they come by their start, or by their end.
    fn take(&mut self, exchange: Exchange) -> anyhow::Result<()> {
        let start = exchange.start;
        if let Some(first) = self.ended.push(start + exchange.duration, exchange) {
            self.observe(&first)?;
        }
        while let Some(ended) = self.ended.pop_until(start) {
            self.observe(&ended)?;
        }
        Ok(())
    }

    /// The recording is over.
    fn finish(mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.ended.pop() {
            self.observe(&ended)?;
        }
        if let Some(now) = self.now {
            self.advance(now + SECOND)?;
        }
        if let Some(mut alerts) = self.alerts {
            alerts.flush().context("cannot write the alerts")?;
        }
        for loss in self.engine.stats().losses.iter().filter(|loss| loss.count > 0) {
            eprintln!("{}: {}. {}", loss.stage, loss.count, loss.meaning);
        }
        if self.muted > 0 {
            eprintln!("anomalies that were muted, and are not shown without --muted: {}", self.muted);
        }
        self.printer.finish()
    }

    fn observe(&mut self, exchange: &Exchange) -> anyhow::Result<()> {
        let end = exchange.start + exchange.duration;
        let mut now = *self.now.get_or_insert(end);
        let settled = now + SILENCE;
        while now + SECOND <= end {
            now = if now < settled { now + SECOND } else { end };
            self.advance(now)?;
        }
        self.engine.observe(exchange);
        Ok(())
    }

    fn advance(&mut self, now: Nanos) -> anyhow::Result<()> {
        self.now = Some(now);
        for anomaly in self.engine.advance(now) {
            if let Some(alerts) = self.alerts.as_mut().filter(|_| anomaly.reach == Reach::Fleet) {
                alert(alerts, &anomaly).context("cannot write the alerts")?;
            }
            if anomaly.reach < self.shows {
                self.muted += u64::from(anomaly.state == State::Open);
                continue;
            }
            self.printer.print(&convert::anomaly(anomaly, ""))?;
        }
        Ok(())
    }
}
