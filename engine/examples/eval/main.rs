//! What the engine finds in labelled traffic, and what it costs.
//!
//! In flow recorded exchanges and their labels; out flow alerts for `score.py`, and its figures beside the ones to
//! reach: for the whole recording, for halves of the clients and of the campaigns, and for parts of its days. The
//! engine gets each exchange when it ended, once, and the time of the recording; it never sees a label.

mod split;
mod target;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hydrometer_engine::{
    Engine, EngineConfig, Exchange, ExchangeRecord, Nanos,
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
        let run = run(&part);
        let figures = score(&arguments, &split, &labels, &run.alerts)?;
        println!("\n== {}", split.name);
        if arguments.explain {
            explain(&figures, &run.alerts, &labels);
        }
        target::print(&figures, &run);
    }
    Ok(())
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
fn run(exchanges: &[&Exchange]) -> Run {
    let began = Instant::now();
    let mut engine = Engine::new(EngineConfig::default());
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
    let seconds = began.elapsed().as_secs_f64();
    alerts.retain(|alert| alert.state == State::Open);
    Run { alerts, seconds, clients: engine.stats().clients, exchanges: exchanges.len() }
}

/// What `score.py` says.
fn score(arguments: &Arguments, split: &Split, labels: &Labels, alerts: &[Anomaly]) -> Result<Value> {
    let name = split.name.replace(' ', "-");
    let labels_path = arguments.out.join(format!("{name}.labels.json"));
    let alerts_path = arguments.out.join(format!("{name}.alerts.jsonl"));
    fs::write(&labels_path, labels.of(split).to_string())?;
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
        "clients": [alert.client.to_string()],
    })
}

fn explain(figures: &Value, alerts: &[Anomaly], labels: &Labels) {
    for campaign in figures["per_campaign"].as_array().into_iter().flatten() {
        println!("{campaign}");
    }
    for alert in alerts {
        let client = alert.client.to_string();
        if let Some(role) = labels.role(&client) {
            println!(
                "false: {:.0} {} {client} ({role}): {}",
                alert.raised.as_secs_f64(),
                alert.kind,
                alert.evidence.summary
            );
        }
    }
}
