//! What an exchange costs the engine, all detectors and campaigns included, and what a client takes in memory. The yardstick is a
//! table of clients that counts their requests and bytes: the least that anything must do which tells clients apart.
//!
//! The cost of an exchange must not grow with the number of records. With the number of clients it grows as the yardstick's
//! does, by what no longer fits the processor's caches.

use std::{collections::HashMap, fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hydrometer_engine::{
    Accuracy, ClientId, Ending, Engine, EngineConfig, Exchange, Heads, Identity, Nanos, Protocol, RoundTrips,
    Service,
};

/// Exchanges a second on one core that have to be reached.
const LEAST: f64 = 500_000.0;
/// With four times as many records each may cost so many times as much: noise of the machine.
const MOST_GROWTH: f64 = 1.25;
/// Bytes that a client may take.
const MOST_BYTES: f64 = 4096.0;
/// Between two questions of a client.
const PAUSE: Duration = Duration::from_mins(1);
/// Questions of each client where there are many.
const FEW: u64 = 12;

struct Case {
    clients: u32,
    /// Of each client.
    exchanges: u64,
}

struct Cost {
    /// Processor time of an exchange, nanoseconds.
    engine: f64,
    yardstick: f64,
    bytes_per_client: f64,
}

/// Measures, prints and judges.
pub(crate) fn run() -> Result<()> {
    println!("engine: clients x exchanges   exchanges/s   to the yardstick   bytes a client");
    let once = measure(&Case { clients: 1_000, exchanges: 1_000 })?;
    let four = measure(&Case { clients: 1_000, exchanges: 4_000 })?;
    let busy = measure(&Case { clients: 20_000, exchanges: 300 })?;
    let many = measure(&Case { clients: 100_000, exchanges: FEW })?;
    for (cost, which) in [(busy, "that have asked much"), (many, "that have asked little")] {
        ensure!(
            cost.bytes_per_client <= MOST_BYTES,
            "clients {which} take {:.0} bytes each, more than {MOST_BYTES:.0}",
            cost.bytes_per_client
        );
    }
    let growth = four.engine / once.engine;
    println!("engine: four times the records cost {growth:.2}x each");
    ensure!(growth <= MOST_GROWTH, "an exchange costs {growth:.2}x when there are four times as many");
    let rate = 1e9 / once.engine;
    ensure!(rate >= LEAST, "the engine takes {rate:.0} exchanges a second, fewer than {LEAST:.0}");
    Ok(())
}

fn measure(case: &Case) -> Result<Cost> {
    let total = u64::from(case.clients) * case.exchanges;
    let begun = cpu()?;
    let mut counts: HashMap<ClientId, (u64, u64)> = HashMap::new();
    play(case, |exchange, _| {
        let count = counts.entry(exchange.client).or_default();
        *count = (count.0 + 1, count.1 + exchange.request_bytes + exchange.answer_bytes);
    });
    ensure!(counts.values().map(|count| count.0).sum::<u64>() == total, "the yardstick lost exchanges");
    drop(counts);
    let yardstick = cpu()?.saturating_sub(begun);

    let (held, begun) = (resident()?, cpu()?);
    let config = EngineConfig { max_clients: case.clients as usize, ..EngineConfig::default() };
    let mut engine = Engine::new(config.clone());
    let mut told = None;
    play(case, |exchange, now| {
        if told.replace(now) != Some(now) {
            engine.advance(now);
        }
        engine.observe(exchange);
    });
    let engine_time = cpu()?.saturating_sub(begun);
    let grown = resident()?.saturating_sub(held);
    let stats = engine.stats();
    ensure!(
        stats.exchanges == total && stats.clients == case.clients as usize,
        "the engine knows {} exchanges of {} clients",
        stats.exchanges,
        stats.clients
    );
    let cost = Cost {
        engine: engine_time.as_nanos() as f64 / total as f64,
        yardstick: yardstick.as_nanos() as f64 / total as f64,
        bytes_per_client: grown as f64 / f64::from(case.clients),
    };
    let saving = saving(&engine, config)?;
    println!(
        "{:>17} x {:<9} {:>13.0} {:>16.1}x {:>16.0}   {saving}",
        case.clients,
        case.exchanges,
        1e9 / cost.engine,
        cost.engine / cost.yardstick,
        cost.bytes_per_client
    );
    Ok(cost)
}

/// What it takes to save the engine and to load it again.
fn saving(engine: &Engine, config: EngineConfig) -> Result<String> {
    let clients = engine.stats().clients;
    let begun = cpu()?;
    let saved = engine.save().context("cannot save the engine")?;
    let save = cpu()?.saturating_sub(begun);
    let begun = cpu()?;
    let loaded = Engine::load(config, &saved).context("cannot load the engine")?;
    let load = cpu()?.saturating_sub(begun);
    ensure!(loaded.stats().clients == clients, "{} clients were loaded", loaded.stats().clients);
    let each = |total: f64| total / clients as f64;
    let [save, load] = [save, load].map(|time| each(time.as_secs_f64() * 1e6));
    Ok(format!(
        "{:.0} bytes a client saved in {save:.1} us, loaded in {load:.1} us",
        each(saved.len() as f64)
    ))
}

/// Every client asks once a minute, in an order of no pattern; the second in which an exchange ends is told with it.
fn play(case: &Case, mut take: impl FnMut(&Exchange, Nanos)) {
    let total = u64::from(case.clients) * case.exchanges;
    let step = PAUSE.as_nanos() as u64 / u64::from(case.clients);
    let mut exchange = exchange();
    for n in 0..total {
        let dice = mix(n);
        let client = ((n % u64::from(case.clients)) * 7919 % u64::from(case.clients)) as u32;
        let own = mix(u64::from(client) << 32);
        exchange.start = Nanos(1_790_000_000_000_000_000 + n * step + dice % PAUSE.as_nanos() as u64 / 2);
        exchange.client = ClientId::V4(Ipv4Addr::from_bits(0x0a00_0000 + client));
        exchange.flow = u64::from(client);
        // Each client has sizes of its own, over five octaves, and varies them by half.
        let scale = 1 << (own % 5);
        exchange.request_bytes = scale * (200 + own % 200 + dice % 100);
        exchange.records = (20 + (own >> 8) % 400 + (dice >> 8) % 100) as u32;
        exchange.record_median = 230 + (own >> 16) as u32 % 30;
        exchange.answer_bytes = 700 + u64::from(exchange.records) * u64::from(exchange.record_median);
        exchange.duration = Duration::from_millis(u64::from(exchange.records) * 12);
        let stack = &mut exchange.ja4;
        *stack = stack.take().map(|mut ja4| {
            ja4.truncate(STACK.len());
            ja4.push(char::from(b'a' + (own >> 24) as u8 % 8));
            ja4
        });
        take(
            &exchange,
            Nanos((1_790_000_000 + (n * step + PAUSE.as_nanos() as u64) / 1_000_000_000) * 1_000_000_000),
        );
    }
}

const STACK: &str = "t13d1812h1_85036bcba153_375ca2c5e16";

fn exchange() -> Exchange {
    Exchange {
        start: Nanos(0),
        client: ClientId::V4(Ipv4Addr::UNSPECIFIED),
        identity: Identity::Direct,
        client_port: 40_000,
        service: Service { address: None, port: 8443 },
        flow: 0,
        request_bytes: 0,
        answer_bytes: 0,
        time_to_first_byte: Some(Duration::from_millis(40)),
        time_to_first_token: Some(Duration::from_millis(60)),
        duration: Duration::ZERO,
        records: 0,
        record_median: 0,
        protocol: Protocol::Tls,
        accuracy: Accuracy::Derived,
        confidence: None,
        ending: Ending::Complete,
        ja4: Some(STACK.to_owned()),
        truncated: None,
        heads: Heads::default(),
        round_trips: RoundTrips::default(),
    }
}

/// A number that looks like chance (SplitMix64).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What this thread has spent on a core: other programs' load does not count.
fn cpu() -> Result<Duration> {
    let figures =
        fs::read_to_string("/proc/thread-self/schedstat").context("cannot read the processor time")?;
    let nanos = figures.split(' ').next().and_then(|nanos| nanos.parse().ok());
    nanos.map(Duration::from_nanos).context("cannot understand /proc/thread-self/schedstat")
}

/// Bytes of this process in memory.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read the memory in use")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).context("cannot understand /proc/self/status")
}
