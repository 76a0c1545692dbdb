//! `hydrometer detect`: the anomalies in recorded exchanges.
//!
//! In flow exchanges as `hydrometer replay --exchanges -o json` prints them, out flow the changes of anomalies, in
//! the order in which an agent would have found them: the engine learns of an exchange when it ended, and of the
//! time once a second, both as the recording has them. Invariant: memory does not grow with the recording.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use hydrometer_engine::{Engine, EngineConfig, Exchange, ExchangeRecord, Nanos};

use super::{
    anomalies::Printer,
    output::{ColorChoice, Format},
};
use crate::{convert, ordered::Ordered};

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
}

/// Between two looks at the clients.
const SECOND: Duration = Duration::from_secs(1);
/// Silence after which the rest of it is left out: by then everything is settled.
const SILENCE: Duration = Duration::from_hours(24);

/// Runs the command.
pub fn run(args: &DetectArgs) -> anyhow::Result<()> {
    let name = args.file.display();
    let lines = open(&args.file).with_context(|| format!("cannot open {name}"))?;
    let mut recording = Recording {
        engine: Engine::new(EngineConfig::default()),
        ended: Ordered::default(),
        now: None,
        printer: Printer::new(args.output, args.color),
    };
    let mut read = Ok(());
    for (number, line) in (1_u64..).zip(lines.lines()) {
        match line.map_err(Into::into).and_then(|line| exchange(&line)) {
            Ok(Some(exchange)) => recording.take(exchange)?,
            Ok(None) => {}
            Err(error) => {
                read = Err(error).with_context(|| format!("{name}, line {number}"));
                break;
            }
        }
    }
    recording.finish()?;
    read
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

/// A recording that is read.
struct Recording {
    engine: Engine,
    /// Exchanges by their end, until the recording has come there.
    ended: Ordered<Exchange>,
    /// The last second that the engine knows of.
    now: Option<Nanos>,
    printer: Printer,
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
        for loss in self.engine.stats().losses.iter().filter(|loss| loss.count > 0) {
            eprintln!("{}: {}. {}", loss.stage, loss.count, loss.meaning);
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
            self.printer.print(&convert::anomaly(anomaly, ""))?;
        }
        Ok(())
    }
}
