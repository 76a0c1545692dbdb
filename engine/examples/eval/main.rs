//! What the engine finds in labelled traffic, and what it costs.
//!
//! In flow recorded exchanges and their labels; out flow its figures beside the ones to reach: for the whole recording,
//! for halves of the clients and of the campaigns, and for parts of its days. The engine gets each exchange when it
//! ended, once, and the time of the recording; it never sees a label.

mod generated;
mod split;
mod table;
mod target;
#[path = "../../tests/traffic/mod.rs"]
mod traffic;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, BufWriter, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Parser;
use hydrometer_engine::{
    Engine, EngineConfig, Exchange, ExchangeRecord, Nanos, Release,
    anomaly::{Anomaly, State},
    evaluation::{Alert, Evaluation, Labels},
};

use crate::split::{Halves, Split};

/// Judge the engine by labelled traffic.
#[derive(Parser)]
struct Arguments {
    /// Folder with dev.jsonl.zst and dev.labels.json
    #[arg(default_value = "../shared/eval")]
    data: PathBuf,
    /// Where alerts and labels of each part are left, as `score.py` reads them
    #[arg(long, default_value = "target/eval")]
    out: PathBuf,
    /// The whole recording only
    #[arg(long)]
    whole: bool,
    /// Also traffic generated from so many seeds, and its campaigns among the recording's benign clients
    #[arg(long, default_value_t = 0)]
    seeds: u64,
    /// The first of those seeds
    #[arg(long, default_value_t = 0)]
    from_seed: u64,
    /// Generated traffic only
    #[arg(long)]
    generated: bool,
    /// Only what is found of each kind without the rule that was made for it, in so many generated places
    #[arg(long, default_value_t = 0)]
    without: u64,
    /// False alarms that may be raised for 1,000 clients in a day
    #[arg(long, default_value_t = EngineConfig::default().false_alarms)]
    false_alarms: f64,
    /// Show each campaign, and each false alert
    #[arg(long)]
    explain: bool,
}

impl Arguments {
    /// Settings as they come but for the budget, and what an operator would have announced.
    fn with(&self, releases: Vec<Release>) -> EngineConfig {
        EngineConfig { releases, false_alarms: self.false_alarms, ..EngineConfig::default() }
    }

    fn seeds(&self) -> Range<u64> {
        self.from_seed..self.from_seed + self.seeds
    }
}

/// One pass of the engine over some exchanges.
struct Run {
    alerts: Vec<Anomaly>,
    seconds: f64,
    clients: usize,
    exchanges: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    fs::create_dir_all(&arguments.out)?;
    if arguments.without > 0 {
        return generated::leave_one_out(&arguments);
    }
    if arguments.generated {
        return generated::judge(&arguments);
    }
    let exchanges = read(&arguments.data.join("dev.jsonl.zst"))?;
    let halves = Halves::read(&arguments.data.join("dev.labels.json"))?;
    println!("{} exchanges of {} clients", exchanges.len(), halves.clients());
    let splits = if arguments.whole { vec![Split::WHOLE] } else { Split::ALL.to_vec() };
    for split in splits {
        let part: Vec<&Exchange> = exchanges.iter().filter(|exchange| split.has(exchange, &halves)).collect();
        let run = run(&part, arguments.with(halves.labels().releases()));
        show(&arguments, split.name, &halves.of(&split), &run)?;
    }
    if arguments.seeds > 0 {
        generated::judge(&arguments)?;
        generated::judge_among(&arguments, &exchanges, &halves)?;
    }
    Ok(())
}

/// Judges a run and prints what came of it.
fn show(arguments: &Arguments, name: &str, truth: &Labels, run: &Run) -> Result<Evaluation> {
    let evaluation = judged(arguments, name, truth, run)?;
    println!("\n== {name}");
    if arguments.explain {
        explain(&evaluation, &run.alerts, truth);
    }
    target::print(&evaluation, run);
    Ok(evaluation)
}

/// All exchanges, in the order in which they ended.
fn read(path: &Path) -> Result<Vec<Exchange>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut lines = BufReader::new(zstd::Decoder::new(file)?);
    let mut line = String::new();
    let mut exchanges = Vec::new();
    while lines.read_line(&mut line)? > 0 {
        let record: ExchangeRecord = serde_json::from_str(&line)?;
        exchanges.push(Exchange::try_from(record)?);
        line.clear();
    }
    exchanges.sort_by_key(|exchange| exchange.start + exchange.duration);
    Ok(exchanges)
}

/// Feeds exchanges as they ended, and moves the time on once a second.
fn run(exchanges: &[&Exchange], config: EngineConfig) -> Run {
    let began = cpu_seconds();
    let mut engine = Engine::new(config);
    let mut alerts = Vec::new();
    let mut second = exchanges.first().map_or(0, |first| first.start.0 / 1_000_000_000);
    for exchange in exchanges {
        let end = (exchange.start + exchange.duration).0 / 1_000_000_000;
        while second <= end {
            alerts.extend(engine.advance(Nanos(second * 1_000_000_000)));
            second += 1;
        }
        engine.observe(exchange);
    }
    alerts.extend(engine.advance(Nanos(second * 1_000_000_000)));
    let seconds = cpu_seconds() - began;
    alerts.retain(|alert| alert.state != State::Closed);
    Run { alerts, seconds, clients: engine.stats().clients, exchanges: exchanges.len() }
}

/// Seconds that this one thread has spent on a core: other programs' load does not count.
fn cpu_seconds() -> f64 {
    let figures = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    figures.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or_default() / 1e9
}

/// What a run is worth. Its alerts and their labels are left in files.
fn judged(arguments: &Arguments, name: &str, truth: &Labels, run: &Run) -> Result<Evaluation> {
    let name = name.replace(' ', "-");
    fs::write(arguments.out.join(format!("{name}.labels.json")), serde_json::to_string(truth)?)?;
    let mut out = BufWriter::new(File::create(arguments.out.join(format!("{name}.alerts.jsonl")))?);
    let alerts: Vec<Alert> = run.alerts.iter().filter_map(Alert::of).collect();
    for alert in &alerts {
        writeln!(out, "{}", serde_json::to_string(alert)?)?;
    }
    out.flush()?;
    Ok(Evaluation::of(truth, &alerts.into_iter().collect()))
}

fn explain(evaluation: &Evaluation, alerts: &[Anomaly], truth: &Labels) {
    for campaign in &evaluation.per_campaign {
        println!("{campaign:?}");
    }
    for alert in alerts.iter().filter(|alert| alert.state == State::Open) {
        println!(
            "{:.0} {} {} ({}): {}",
            alert.raised.as_secs_f64(),
            alert.kind,
            alert.client,
            truth.benign.get(&alert.client.to_string()).map_or("campaign", String::as_str),
            alert.evidence.summary
        );
    }
}
