//! The promise: what is found does not depend on the order in which exchanges come within the second in which they ended.

#[allow(dead_code, reason = "of the labels nothing is needed here")]
mod traffic;

use hydrometer_engine::{Engine, EngineConfig, Exchange, Nanos};

use traffic::Traffic;

const END: f64 = 34.0 * 3600.0;
const SECOND: u64 = 1_000_000_000;

/// What an analyst would see of an anomaly.
type Found = (String, &'static str, u64, usize);

#[test]
fn anomalies_do_not_depend_on_the_order_of_exchanges_within_a_second() {
    let seeds = if std::env::var_os("HYDROMETER_FULL").is_some() { 0..6 } else { 0..1 };
    for seed in seeds {
        let mut traffic = Traffic::new(seed);
        traffic.end = END;
        traffic.benign(10);
        traffic.attacked();
        let mut exchanges = traffic.exchanges;
        exchanges.retain(|exchange| exchange.start.as_secs_f64() < END);
        exchanges.sort_by_key(end);
        let in_order = found(&exchanges);
        assert!(!in_order.is_empty());
        exchanges.sort_by_key(|exchange| (end(exchange).0 / SECOND, mix(exchange.start.0 ^ seed)));
        assert_eq!(found(&exchanges), in_order, "seed {seed}");
    }
}

/// Feeds exchanges second by second of their end, and the time behind each second that has any, as an agent drains them.
fn found(exchanges: &[Exchange]) -> Vec<Found> {
    let mut engine = Engine::new(EngineConfig::default());
    let mut found = Vec::new();
    for second in exchanges.chunk_by(|a, b| end(a).0 / SECOND == end(b).0 / SECOND) {
        for exchange in second {
            engine.observe(exchange);
        }
        let now = second.first().map_or(0, |first| end(first).0 / SECOND + 1);
        let changes = engine.advance(Nanos(now * SECOND));
        found.extend(
            changes
                .into_iter()
                .map(|anomaly| (anomaly.id, anomaly.kind.name(), anomaly.raised.0, anomaly.members.len())),
        );
    }
    found
}

fn end(exchange: &Exchange) -> Nanos {
    exchange.start + exchange.duration
}

/// A number that looks like chance.
fn mix(seed: u64) -> u64 {
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}
