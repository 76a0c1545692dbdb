//! What the engine finds in labelled traffic, and what it costs.
//!
//! In flow recorded exchanges and their labels; out flow alerts for `score.py`, and its figures beside the ones to
//! reach: for the whole recording, for halves of the clients and of the campaigns, and for parts of its days. The
//! engine gets each exchange when it ended, once, and the time of the recording; it never sees a label.

mod generated;
mod split;
mod table;
mod target;
#[path = "../../tests/traffic/mod.rs"]
mod traffic;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hydrometer_engine::{
    ClientId, Engine, EngineConfig, Exchange, ExchangeRecord, Nanos, Release,
    anomaly::{Anomaly, State},
};
use serde_json::{Value, json};

use crate::split::{Labels, Split};

/// Judge the engine by labelled traffic.
#[derive(Parser)]
struct Arguments {
    /// Folder with dev.jsonl.zst, dev.labels.json and score.py
    #[arg(default_value = "../shared/eval")]
    data: PathBuf,
    /// Where alerts and labels of each part are left
    #[arg(long, default_value = "target/eval")]
    out: PathBuf,
    /// The whole recording only
    #[arg(long)]
    whole: bool,
    /// Also traffic generated from so many seeds, and its campaigns among the recording's benign clients
    #[arg(long, default_value_t = 0)]
    seeds: u64,
    /// Also what is found of each kind without the rule that was made for it, for so many of the seeds
    #[arg(long, default_value_t = 0)]
    without: u64,
    /// Show each campaign, and each false alert
    #[arg(long)]
    explain: bool,
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
    let exchanges = read(&arguments.data.join("dev.jsonl.zst"))?;
    let labels = Labels::read(&arguments.data.join("dev.labels.json"))?;
    println!("{} exchanges of {} clients", exchanges.len(), labels.clients());
    let splits = if arguments.whole { vec![Split::WHOLE] } else { Split::ALL.to_vec() };
    for split in splits {
        let part: Vec<&Exchange> = exchanges.iter().filter(|exchange| split.has(exchange, &labels)).collect();
        let run = run(&part, with(labels.releases()));
        show(&arguments, split.name, &labels.of(&split), &run)?;
    }
    if arguments.seeds > 0 {
        generated::judge(&arguments, arguments.seeds)?;
        generated::judge_among(&arguments, arguments.seeds, &exchanges, &labels)?;
    }
    Ok(())
}

/// Scores a run and prints what came of it.
fn show(arguments: &Arguments, name: &str, truth: &Value, run: &Run) -> Result<Value> {
    let figures = score(arguments, name, truth, &run.alerts)?;
    println!("\n== {name}");
    if arguments.explain {
        explain(&figures, &run.alerts, truth);
    }
    target::print(&figures, run);
    Ok(figures)
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

/// Settings as they come, and what an operator would have announced.
fn with(releases: Vec<Release>) -> EngineConfig {
    EngineConfig { releases, ..EngineConfig::default() }
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

/// What `score.py` says.
fn score(arguments: &Arguments, name: &str, truth: &Value, alerts: &[Anomaly]) -> Result<Value> {
    let name = name.replace(' ', "-");
    let labels_path = arguments.out.join(format!("{name}.labels.json"));
    let alerts_path = arguments.out.join(format!("{name}.alerts.jsonl"));
    fs::write(&labels_path, truth.to_string())?;
    let mut out = BufWriter::new(File::create(&alerts_path)?);
    for alert in alerts {
        writeln!(out, "{}", line(alert))?;
    }
    out.flush()?;
    drop(out);
    let scorer = Command::new("python3")
        .arg(arguments.data.join("score.py"))
        .args([&labels_path, &alerts_path])
        .arg("--json")
        .output()
        .context("cannot run python3")?;
    ensure!(scorer.status.success(), "score.py: {}", String::from_utf8_lossy(&scorer.stderr));
    Ok(serde_json::from_slice(&scorer.stdout)?)
}

fn line(alert: &Anomaly) -> Value {
    json!({
        "id": alert.id,
        "t": alert.raised.as_secs_f64(),
        "kind": alert.kind.name(),
        "score": alert.score,
        "clients": clients(alert).map(|client| client.to_string()).collect::<Vec<_>>(),
    })
}

/// Whether most of those it accuses are not benign.
fn is_true(alert: &Anomaly, truth: &Value) -> bool {
    let accused = clients(alert).count();
    clients(alert).filter(|client| role(truth, *client).is_none()).count() * 2 >= accused
}

/// The role of a benign client.
fn role(truth: &Value, client: ClientId) -> Option<&str> {
    truth["benign"][client.to_string()].as_str()
}

/// The members of a campaign, or the one client.
fn clients(alert: &Anomaly) -> impl Iterator<Item = ClientId> + '_ {
    let alone = alert.members.is_empty().then_some(alert.client);
    alert.members.iter().map(|member| member.client).chain(alone)
}

fn explain(figures: &Value, alerts: &[Anomaly], truth: &Value) {
    for campaign in figures["per_campaign"].as_array().into_iter().flatten() {
        println!("{campaign}");
    }
    for alert in alerts.iter().filter(|alert| alert.state == State::Open) {
        let what = if is_true(alert, truth) { "true" } else { "false" };
        let role = role(truth, alert.client).unwrap_or("campaign");
        println!(
            "{what}: {:.0} {} {} ({role}): {}",
            alert.raised.as_secs_f64(),
            alert.kind,
            alert.client,
            alert.evidence.summary
        );
    }
}
