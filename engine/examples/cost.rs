//! What the engine costs, as ratios measured in one run: `observe` and `advance` with 100,000 known
//! clients against 1,000, with the same traffic, and the share of a second that both take.
//!
//! ```text
//! cargo run --release -p hydrometer-engine --example cost
//! ```

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use hydrometer_engine::{
    Accuracy, ClientId, Ending, Engine, EngineConfig, Exchange, Heads, Nanos, Protocol, RoundTrips, Service,
};

const EXCHANGES_A_SECOND: u32 = 1000;
const SECONDS: u32 = 60;

fn main() {
    let few = measure(1_000);
    let many = measure(100_000);
    println!("per second of traffic   1,000 clients   100,000 clients   ratio");
    for (name, few, many) in [("observe", few.0, many.0), ("advance", few.1, many.1)] {
        println!(
            "{name:<22} {:>13.2} % {:>15.2} % {:>6.2}x",
            few * 100.0,
            many * 100.0,
            many / few.max(f64::MIN_POSITIVE)
        );
    }
}

/// Shares of a second that a second's exchanges take in `observe`, and one `advance` takes.
fn measure(clients: u32) -> (f64, f64) {
    let mut engine = Engine::new(EngineConfig::default());
    for n in 0..clients {
        engine.observe(&exchange(n, 0.0));
    }
    engine.advance(at(1.0));
    let (mut observing, mut advancing) = (Duration::ZERO, Duration::ZERO);
    for second in 1..=SECONDS {
        let begun = Instant::now();
        for n in 0..EXCHANGES_A_SECOND {
            // A stride that visits clients in no order, and the same ones in both measurements.
            engine.observe(&exchange((n * 7919) % 1000, f64::from(second) + f64::from(n) / 1e3));
        }
        observing += begun.elapsed();
        let begun = Instant::now();
        engine.advance(at(f64::from(second) + 1.0));
        advancing += begun.elapsed();
    }
    (observing.as_secs_f64() / f64::from(SECONDS), advancing.as_secs_f64() / f64::from(SECONDS))
}

fn at(seconds: f64) -> Nanos {
    Nanos::from_secs_f64(1_790_000_000.0 + seconds)
}

fn exchange(client: u32, seconds: f64) -> Exchange {
    Exchange {
        start: at(seconds),
        client: ClientId::V4(Ipv4Addr::from_bits(0x0a00_0000 + client)),
        client_port: 40_000,
        service: Service { address: None, port: 8443 },
        flow: u64::from(client),
        request_bytes: 900 + u64::from(client % 500),
        answer_bytes: 5_000,
        time_to_first_byte: Some(Duration::from_millis(5)),
        time_to_first_token: Some(Duration::from_millis(9)),
        duration: Duration::from_millis(400),
        records: 20,
        record_median: 240 + client % 8,
        protocol: Protocol::Tls,
        accuracy: Accuracy::Derived,
        confidence: None,
        ending: Ending::Complete,
        ja4: None,
        truncated: None,
        heads: Heads::default(),
        round_trips: RoundTrips::default(),
        identity: hydrometer_engine::Identity::Direct,
    }
}
