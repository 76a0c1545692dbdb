//! The promises of the engine as a whole: it names the offenders, leaves the others alone, and says
//! the same each time.

use std::{net::Ipv4Addr, time::Duration};

use hydrometer_engine::{
    Accuracy, ClientId, Ending, Engine, EngineConfig, Exchange, ExchangeRecord, Heads, LifecycleConfig,
    Nanos, Protocol, RoundTrips, Service,
    anomaly::{Anomaly, AnomalyKind, ComparedWith, State},
};
use proptest::prelude::*;

/// A moment in real life, so that nothing relies on time starting at 0.
const EPOCH: f64 = 1_790_000_000.0;

/// A small generator of repeatable numbers.
struct Dice(u64);

impl Dice {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        low + (high - low) * ((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }

    fn pause(&mut self, mean: f64) -> f64 {
        -mean * self.uniform(1e-9, 1.0).ln()
    }
}

fn client(n: u8) -> ClientId {
    ClientId::V4(Ipv4Addr::new(10, 0, 0, n))
}

fn ask(client: ClientId, at: f64, duration: f64, dice: &mut Dice) -> Exchange {
    Exchange {
        start: Nanos::from_secs_f64(EPOCH + at),
        client,
        client_port: 40_000,
        service: Service { address: None, port: 8443 },
        flow: 1,
        request_bytes: dice.uniform(700.0, 1200.0) as u64,
        answer_bytes: dice.uniform(900.0, 1400.0) as u64,
        time_to_first_byte: Some(Duration::from_millis(5)),
        time_to_first_token: None,
        duration: Duration::from_secs_f64(duration),
        records: 2,
        record_median: 600,
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

fn streamed(mut exchange: Exchange, record_bytes: f64, dice: &mut Dice) -> Exchange {
    exchange.records = dice.uniform(12.0, 40.0) as u32;
    exchange.record_median = (record_bytes * dice.uniform(0.98, 1.02)) as u32;
    exchange.answer_bytes = u64::from(exchange.records * exchange.record_median);
    exchange
}

/// Bursts of requests with pauses between them, half of them streamed.
fn bursty(client: ClientId, seconds: f64, seed: u64) -> Vec<Exchange> {
    let mut dice = Dice(seed);
    let (mut at, mut all) = (dice.uniform(0.0, 2.0), Vec::new());
    while at < seconds {
        for _ in 0..dice.uniform(1.0, 8.0) as u32 {
            let duration = dice.uniform(0.02, 0.6);
            let exchange = ask(client, at, duration, &mut dice);
            all.push(if dice.uniform(0.0, 1.0) < 0.5 {
                streamed(exchange, 243.0, &mut dice)
            } else {
                exchange
            });
            at += duration + dice.uniform(0.05, 0.6);
        }
        at += dice.pause(4.0);
    }
    all
}

/// A request every `interval` seconds, whatever the answers do.
fn metronome(client: ClientId, from: f64, seconds: f64, interval: f64) -> Vec<Exchange> {
    let mut dice = Dice(7);
    (0..(seconds / interval) as u32)
        .map(|n| {
            let at = from + f64::from(n) * interval + dice.uniform(0.0, 0.004);
            let duration = dice.uniform(0.02, 0.3);
            ask(client, at, duration, &mut dice)
        })
        .collect()
}

/// The next request `pause` seconds after each answer.
fn closed_loop(client: ClientId, seconds: f64, duration: (f64, f64), pause: f64) -> Vec<Exchange> {
    let mut dice = Dice(11);
    let (mut at, mut all) = (0.0, Vec::new());
    while at < seconds {
        let lasts = dice.uniform(duration.0, duration.1);
        all.push(ask(client, at, lasts, &mut dice));
        at += lasts + pause + dice.uniform(0.0, 0.002);
    }
    all
}

fn logit_client(client: ClientId, seconds: f64, record_bytes: f64) -> Vec<Exchange> {
    let mut dice = Dice(13);
    bursty(client, seconds, 99)
        .into_iter()
        .map(|exchange| streamed(exchange, record_bytes, &mut dice))
        .collect()
}

fn six_ordinary(seconds: f64) -> Vec<Exchange> {
    (1..=6).flat_map(|n| bursty(client(n), seconds, u64::from(n) * 1000)).collect()
}

/// Feeds exchanges as they end and advances once a second up to `seconds`.
fn run(engine: &mut Engine, mut exchanges: Vec<Exchange>, seconds: f64) -> Vec<Anomaly> {
    let end = |exchange: &Exchange| exchange.start + exchange.duration;
    exchanges.sort_by_key(end);
    let mut waiting = exchanges.into_iter().peekable();
    (0..=seconds as u32)
        .flat_map(|second| {
            let now = Nanos::from_secs_f64(EPOCH + f64::from(second));
            while let Some(exchange) = waiting.next_if(|exchange| end(exchange) <= now) {
                engine.observe(&exchange);
            }
            engine.advance(now)
        })
        .collect()
}

/// Anomalies close after ten minutes without the behaviour.
fn quick() -> EngineConfig {
    let lifecycle = LifecycleConfig { close_after_s: 600.0, ..LifecycleConfig::default() };
    EngineConfig { lifecycle, ..EngineConfig::default() }
}

fn judge(exchanges: Vec<Exchange>, seconds: f64) -> Vec<Anomaly> {
    run(&mut Engine::new(quick()), exchanges, seconds)
}

fn opened(anomalies: &[Anomaly]) -> Vec<(AnomalyKind, ClientId)> {
    anomalies.iter().filter(|anomaly| anomaly.state == State::Open).map(|a| (a.kind, a.client)).collect()
}

#[test]
fn the_two_offenders_are_named_in_time_and_the_ordinary_left_alone() {
    let (extractor, harvester) = (client(100), client(200));
    let mut all = six_ordinary(120.0);
    all.extend(metronome(extractor, 10.0, 110.0, 1.0));
    all.extend(logit_client(harvester, 120.0, 1742.0));
    let anomalies = judge(all, 120.0);
    let mut found = opened(&anomalies);
    found.sort();
    assert_eq!(found, [(AnomalyKind::LowAndSlow, extractor), (AnomalyKind::LogitHarvest, harvester)]);
    for anomaly in anomalies.iter().filter(|anomaly| anomaly.state == State::Open) {
        assert!(anomaly.raised.as_secs_f64() - EPOCH < 40.0, "{anomaly:?}");
        assert!(anomaly.evidence.summary.len() > 40 && !anomaly.evidence.series.is_empty(), "{anomaly:?}");
        assert!((0.0..=1.0).contains(&anomaly.score), "{anomaly:?}");
    }
}

#[test]
fn ordinary_clients_raise_nothing_for_an_hour() {
    assert_eq!(opened(&judge(six_ordinary(3600.0), 3600.0)), []);
}

#[test]
fn a_loop_that_waits_for_answers_is_no_metronome() {
    let cases = [
        ("varied answers", closed_loop(client(50), 300.0, (0.5, 3.0), 0.01)),
        ("even answers", closed_loop(client(50), 300.0, (0.99, 1.01), 0.01)),
        ("even answers on a long path", closed_loop(client(50), 300.0, (0.3, 0.305), 0.25)),
        ("short answers", closed_loop(client(50), 60.0, (0.02, 0.03), 0.001)),
    ];
    for (name, exchanges) in cases {
        let found = opened(&judge(exchanges, 300.0));
        assert!(!found.contains(&(AnomalyKind::LowAndSlow, client(50))), "{name}: {found:?}");
    }
}

#[test]
fn a_metronome_is_found_whatever_its_answers_do() {
    let mut dice = Dice(3);
    let overlapping: Vec<Exchange> = (0..60)
        .map(|n| ask(client(50), f64::from(n) * 2.0, 1.0 + dice.uniform(0.0, 8.0), &mut Dice(n as u64)))
        .collect();
    let cases = [
        ("every second", metronome(client(50), 0.0, 60.0, 1.0)),
        ("every 40 s", metronome(client(50), 0.0, 600.0, 40.0)),
        ("overlapping answers", overlapping),
        ("asleep between answers", closed_loop(client(50), 60.0, (0.03, 0.05), 1.0)),
    ];
    for (name, exchanges) in cases {
        assert_eq!(opened(&judge(exchanges, 600.0)), [(AnomalyKind::LowAndSlow, client(50))], "{name}");
    }
}

#[test]
fn a_health_probe_is_no_extractor() {
    let probe = metronome(client(50), 0.0, 600.0, 10.0)
        .into_iter()
        .map(|exchange| Exchange { request_bytes: 423, answer_bytes: 605, ..exchange })
        .collect();
    assert_eq!(opened(&judge(probe, 600.0)), []);
}

#[test]
fn log_probabilities_are_found_before_and_after_the_norm_is_learnt() {
    for record_bytes in [700.0, 1742.0, 3900.0] {
        let harvester = client(200);
        let cold = judge(logit_client(harvester, 60.0, record_bytes), 60.0);
        assert_eq!(opened(&cold), [(AnomalyKind::LogitHarvest, harvester)], "{record_bytes}");
        assert_eq!(cold[0].evidence.features[0].compared_with, ComparedWith::Limit);

        let mut engine = Engine::new(EngineConfig::default());
        run(&mut engine, six_ordinary(60.0), 60.0);
        let mut all = logit_client(harvester, 60.0, record_bytes);
        for exchange in &mut all {
            exchange.start = exchange.start + Duration::from_mins(1);
        }
        let warm = run(&mut engine, all, 120.0);
        assert_eq!(opened(&warm), [(AnomalyKind::LogitHarvest, harvester)], "{record_bytes}");
        let feature = &warm[0].evidence.features[0];
        assert_eq!(feature.compared_with, ComparedWith::Service);
        assert!((235.0..250.0).contains(&feature.baseline) && feature.deviation > 10.0, "{feature:?}");
    }
}

#[test]
fn whole_answers_in_large_records_are_not_log_probabilities() {
    let mut all = six_ordinary(120.0);
    let whole = |exchange| Exchange { records: 22, record_median: 4096, answer_bytes: 88_000, ..exchange };
    all.extend(bursty(client(60), 120.0, 5).into_iter().map(whole));
    assert_eq!(opened(&judge(all, 120.0)), []);
}

#[test]
fn a_service_with_large_records_is_learnt_as_it_is() {
    let all: Vec<Exchange> = (1..=6)
        .flat_map(|n| {
            let mut dice = Dice(u64::from(n));
            bursty(client(n), 1500.0, u64::from(n))
                .into_iter()
                .map(move |exchange| streamed(exchange, 900.0, &mut dice))
        })
        .collect();
    let mut engine = Engine::new(quick());
    run(&mut engine, all, 1500.0);
    assert_eq!(engine.open_anomalies(), []);
}

#[test]
fn one_request_sent_again_and_again_is_a_flood_within_a_minute() {
    let mut dice = Dice(17);
    let mut at = 300.0;
    let flood: Vec<Exchange> = std::iter::from_fn(|| {
        at += dice.pause(0.025);
        (at < 360.0).then(|| Exchange {
            request_bytes: 405,
            answer_bytes: 668,
            ..ask(client(150), at, 0.05, &mut dice)
        })
    })
    .collect();
    let mut all = six_ordinary(400.0);
    all.extend(flood);
    let anomalies = judge(all, 400.0);
    assert_eq!(opened(&anomalies), [(AnomalyKind::Flood, client(150))]);
    assert!(anomalies[0].raised.as_secs_f64() - EPOCH < 360.0, "{:?}", anomalies[0]);
}

/// So many requests within a minute; all of one size, or of all sizes.
fn minute(client: ClientId, at: f64, count: u32, request_bytes: Option<u64>) -> Vec<Exchange> {
    let mut dice = Dice(at as u64 + u64::from(count));
    (0..count)
        .map(|_| {
            let exchange = ask(client, at + dice.uniform(0.0, 60.0), 0.05, &mut dice);
            match request_bytes {
                Some(request_bytes) => Exchange { request_bytes, answer_bytes: 668, ..exchange },
                None => exchange,
            }
        })
        .collect()
}

#[test]
fn what_a_client_did_at_this_time_of_two_earlier_days_is_no_flood_and_the_same_of_a_newcomer_is() {
    const DAY: f64 = 86_400.0;
    let (nightly, newcomer) = (client(200), client(201));
    let mut all = Vec::new();
    // Two days on which so many requests in a minute are nothing unusual, and one on which they are.
    for (at, usual) in [(2.0 * 3600.0, 300), (DAY + 2.0 * 3600.0, 300), (2.0 * DAY + 2.2 * 3600.0, 20)] {
        (1..=60).for_each(|n| all.extend(minute(client(n), at, usual, None)));
        all.extend(minute(nightly, at + 600.0, 200, Some(405)));
    }
    all.extend(minute(newcomer, 2.0 * DAY + 2.2 * 3600.0 + 300.0, 200, Some(405)));
    let floods: Vec<ClientId> = judge(all, 2.0 * DAY + 3.0 * 3600.0)
        .into_iter()
        .filter(|anomaly| anomaly.kind == AnomalyKind::Flood && anomaly.state == State::Open)
        .map(|anomaly| anomaly.client)
        .collect();
    assert_eq!(floods, [newcomer]);
}

#[test]
fn an_anomaly_opens_once_and_closes_after_the_behaviour_stops() {
    let anomalies = judge(metronome(client(50), 0.0, 120.0, 1.0), 1000.0);
    let states: Vec<State> = anomalies.iter().map(|anomaly| anomaly.state).collect();
    let (first, middle, last) = (states[0], &states[1..states.len() - 1], states[states.len() - 1]);
    assert_eq!((first, last), (State::Open, State::Closed));
    assert!(!middle.is_empty() && middle.iter().all(|state| *state == State::Updated), "{states:?}");
    assert!(anomalies.iter().all(|anomaly| anomaly.id == anomalies[0].id));
    let revisions: Vec<u32> = anomalies.iter().map(|anomaly| anomaly.revision).collect();
    assert!(revisions.windows(2).all(|pair| pair[1] == pair[0] + 1) && revisions[0] == 1, "{revisions:?}");
    let closed = &anomalies[anomalies.len() - 1];
    assert!((closed.last_seen.as_secs_f64() - EPOCH - 119.0).abs() < 0.1, "{closed:?}");
}

#[test]
fn the_same_input_gives_the_same_output() {
    let mix = || {
        let mut all = six_ordinary(300.0);
        all.extend(metronome(client(100), 20.0, 200.0, 1.0));
        all.extend(logit_client(client(200), 300.0, 700.0));
        all
    };
    assert_eq!(judge(mix(), 900.0), judge(mix(), 900.0));
}

#[test]
fn forgetting_a_client_closes_its_anomaly_and_is_counted() {
    let mut engine = Engine::new(EngineConfig { max_clients: 3, ..EngineConfig::default() });
    run(&mut engine, metronome(client(50), 0.0, 30.0, 1.0), 30.0);
    assert_eq!(engine.open_anomalies().len(), 1);
    for n in 1..=3 {
        engine.observe(&ask(client(n), 30.0, 0.1, &mut Dice(1)));
    }
    let changes = engine.advance(Nanos::from_secs_f64(EPOCH + 31.0));
    assert_eq!((changes.len(), changes[0].state), (1, State::Closed));
    assert_eq!((engine.stats().clients, engine.stats().open_anomalies), (3, 0));
    let forgotten = engine.stats().losses.into_iter().find(|loss| loss.stage == "engine_clients_forgotten");
    assert_eq!(forgotten.map(|loss| loss.count), Some(1));
}

#[test]
fn late_exchanges_count_and_absurd_ones_are_dropped() {
    let mut engine = Engine::new(EngineConfig::default());
    let now = Nanos::from_secs_f64(EPOCH + 7200.0);
    engine.advance(now);
    for at in [0.0, 7199.0, 7200.0 + 7200.0, -100_000.0] {
        engine.observe(&ask(client(1), at, 0.5, &mut Dice(1)));
    }
    let view = engine.client(&client(1), now).unwrap();
    assert_eq!((view.fingerprint.totals.requests, view.windows[2].requests, view.recent.len()), (2, 1, 1));
    let counts: Vec<(&str, u64)> =
        engine.stats().losses.iter().map(|loss| (loss.stage, loss.count)).take(2).collect();
    assert_eq!(counts, [("engine_late", 1), ("engine_absurd_time", 2)]);
}

#[test]
fn a_recording_that_starts_at_zero_is_read_and_judged() {
    let text = include_str!("fixtures/logit_and_cadence.jsonl");
    let mut engine = Engine::new(EngineConfig::default());
    let mut exchanges: Vec<Exchange> = text
        .lines()
        .map(|line| Exchange::try_from(serde_json::from_str::<ExchangeRecord>(line).unwrap()).unwrap())
        .collect();
    exchanges.sort_by_key(|exchange| exchange.start + exchange.duration);
    let total = exchanges.len() as u64;
    let mut found = Vec::new();
    let mut waiting = exchanges.into_iter().peekable();
    for second in 0..=100_u64 {
        let now = Nanos(second * 1_000_000_000);
        while let Some(exchange) = waiting.next_if(|exchange| exchange.start + exchange.duration <= now) {
            engine.observe(&exchange);
        }
        found.extend(opened(&engine.advance(now)));
    }
    found.sort();
    assert_eq!(engine.stats().exchanges, total);
    assert_eq!(
        found,
        [
            (AnomalyKind::LowAndSlow, "198.51.100.9".parse().unwrap()),
            (AnomalyKind::LogitHarvest, "198.51.100.66".parse().unwrap()),
        ]
    );
}

fn arbitrary_exchange() -> impl Strategy<Value = Exchange> {
    let time = prop_oneof![any::<u64>(), 1_790_000_000_000_000_000..1_790_000_900_000_000_000_u64];
    let size = prop_oneof![any::<u64>(), 0..5000_u64];
    (time, 0..5_u8, size, any::<u64>(), any::<u32>(), 0..5000_u32, any::<u16>()).prop_map(
        |(start, who, bytes, duration, records, record_median, port)| Exchange {
            start: Nanos(start),
            request_bytes: bytes,
            answer_bytes: bytes.wrapping_mul(7),
            duration: Duration::from_nanos(duration >> (records % 64)),
            records,
            record_median,
            service: Service { address: None, port },
            ja4: Some("x".repeat(port as usize % 100)),
            ..ask(client(who), 0.0, 0.0, &mut Dice(1))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_exchange_and_no_time_jump_upsets_the_engine(
        steps in prop::collection::vec((prop::collection::vec(arbitrary_exchange(), 0..20), any::<u64>(), any::<bool>()), 1..20)
    ) {
        let mut engine = Engine::new(EngineConfig { max_clients: 3, ..EngineConfig::default() });
        let mut observed = 0;
        for (second, (exchanges, jump, jumps)) in steps.into_iter().enumerate() {
            for exchange in exchanges {
                engine.observe(&exchange);
                observed += 1;
            }
            let now = if jumps { Nanos(jump) } else { Nanos(1_790_000_000_000_000_000 + second as u64 * 1_000_000_000) };
            for anomaly in engine.advance(now) {
                prop_assert!(anomaly.score.is_finite() && anomaly.evidence.features.iter().all(|f| f.deviation.is_finite()));
            }
            for id in engine.client_ids().collect::<Vec<_>>() {
                prop_assert!(engine.client(&id, now).is_some_and(|view| view.recent.len() <= 16));
            }
        }
        let stats = engine.stats();
        let dropped = stats.losses.iter().find(|loss| loss.stage == "engine_absurd_time").map_or(0, |loss| loss.count);
        prop_assert_eq!(stats.exchanges + dropped, observed);
        prop_assert!(stats.clients <= 3);
    }
}
