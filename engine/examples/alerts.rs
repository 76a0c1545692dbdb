//! Runs recorded exchanges through the engine and prints what it raises, to judge the detectors.
//!
//! Reads the lines of `hydrometer replay --exchanges -o json` from standard input, sorted by start,
//! and prints one JSON object for each anomaly that opens: `t` (seconds), `id`, `kind`, `score`,
//! `clients` and `summary`. The time advances once a second, and an exchange is known when it ends.
//!
//! ```text
//! zstdcat exchanges.jsonl.zst | cargo run --release -p hydrometer-engine --example alerts
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error,
    io::{self, BufRead, Write},
    time::Duration,
};

use hydrometer_engine::{Engine, EngineConfig, Exchange, ExchangeRecord, Nanos, anomaly::State};

const TICK: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let mut engine = Engine::new(EngineConfig::default());
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut in_progress: BTreeMap<Nanos, VecDeque<Exchange>> = BTreeMap::new();
    let mut now: Option<Nanos> = None;
    for line in io::stdin().lock().lines() {
        let exchange = Exchange::try_from(serde_json::from_str::<ExchangeRecord>(&line?)?)?;
        let mut tick = now.unwrap_or(exchange.start);
        while tick + TICK <= exchange.start {
            tick = tick + TICK;
            step(&mut engine, &mut in_progress, tick, &mut out)?;
        }
        now = Some(tick);
        in_progress.entry(exchange.start + exchange.duration).or_default().push_back(exchange);
    }
    if let (Some(now), Some((last, _))) = (now, in_progress.last_key_value()) {
        let last = *last;
        step(&mut engine, &mut in_progress, last.max(now) + TICK, &mut out)?;
    }
    eprintln!("{:?}", engine.stats());
    Ok(())
}

/// Lets the time reach `now`.
fn step(
    engine: &mut Engine,
    in_progress: &mut BTreeMap<Nanos, VecDeque<Exchange>>,
    now: Nanos,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let later = in_progress.split_off(&(now + Duration::from_nanos(1)));
    for exchange in std::mem::replace(in_progress, later).into_values().flatten() {
        engine.observe(&exchange);
    }
    for anomaly in engine.advance(now).into_iter().filter(|anomaly| anomaly.state == State::Open) {
        let line = serde_json::json!({
            "t": anomaly.raised.as_secs_f64(),
            "id": anomaly.id,
            "kind": anomaly.kind.name(),
            "score": anomaly.score,
            "clients": [anomaly.client.to_string()],
            "summary": anomaly.evidence.summary,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}
