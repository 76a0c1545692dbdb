//! The promise: an engine that is saved and loaded goes on as if it had never stopped.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "of the labels nothing is needed here")]
mod traffic;

use std::{sync::LazyLock, time::Duration};

use hydrometer_engine::{
    Acknowledgement, ClientId, Context, Contract, Engine, EngineConfig, Exchange, ImpactConfig, Ipv6Prefix,
    LifecycleConfig, Limits, Mute, Nanos, Said, Selector, Target,
    anomaly::{Anomaly, AnomalyKind, Reach, Remark, State},
};
use proptest::prelude::*;

use traffic::Traffic;

const END: f64 = 30.0 * 3600.0;
/// When a mute ends.
const MUTED_UNTIL: f64 = 25.0 * 3600.0;
const SECOND: u64 = 1_000_000_000;

/// A day of benign clients and campaigns of all kinds, as it ended.
static EXCHANGES: LazyLock<Vec<Exchange>> = LazyLock::new(|| {
    let mut traffic = Traffic::new(3);
    traffic.end = END;
    traffic.benign(10);
    traffic.attacked();
    traffic.sort();
    traffic.exchanges.retain(|exchange| exchange.start.as_secs_f64() < END);
    traffic.exchanges
});

/// What an engine that never stops tells of them, and what it then knows.
static NEVER_STOPPED: LazyLock<(Vec<Anomaly>, Vec<u8>)> = LazyLock::new(|| play(&[]));

/// One client may ask very little, so that what is asked under contracts is saved, too; tokens have a price, one kind
/// is muted at first, and many are suspected, members of campaigns among them.
fn config() -> EngineConfig {
    let client = EXCHANGES[0].client;
    EngineConfig {
        context: Context {
            contracts: vec![Contract {
                name: "little".to_owned(),
                clients: vec![Selector::Client(client)],
                limits: Limits { requests_per_day: Some(3.0), ..Limits::default() },
                allows: Vec::new(),
                expires: None,
            }],
            mutes: vec![mute(AnomalyKind::SlowDrip, END)],
            ..Context::default()
        },
        false_alarms: 100.0,
        lifecycle: LifecycleConfig { close_after_s: 14_400.0, ..LifecycleConfig::default() },
        impact: ImpactConfig { currency: "USD".to_owned(), ..ImpactConfig::default() },
        ..EngineConfig::default()
    }
}

/// A mute of all anomalies of a kind.
fn mute(kind: AnomalyKind, until: f64) -> Mute {
    let everybody = Selector::parse("0.0.0.0/0", Ipv6Prefix::default()).unwrap();
    Mute { target: Target::Clients(everybody), kind: Some(kind), remark: remark(until) }
}

fn remark(until: f64) -> Remark {
    let until = Nanos::from_secs_f64(until);
    Remark { by: "ann".to_owned(), reason: "known".to_owned(), at: Nanos(0), until }
}

/// Feeds all exchanges, the time once a second; before each of `cuts` the engine is saved, and another one loaded.
fn play(cuts: &[usize]) -> (Vec<Anomaly>, Vec<u8>) {
    let mut engine = Engine::new(config());
    let mutes = vec![mute(AnomalyKind::TemplateSweep, MUTED_UNTIL)];
    let mut said = Said { mutes, acknowledgements: Vec::new() };
    engine.attend(said.clone());
    let (mut changes, mut second) = (Vec::new(), 0);
    for (at, exchange) in EXCHANGES.iter().enumerate() {
        let end = (exchange.start + exchange.duration).0 / SECOND;
        if std::mem::replace(&mut second, end) < end {
            changes.extend(engine.advance(Nanos(end * SECOND)));
            // Somebody takes up the first campaign.
            let first = changes.iter().find(|anomaly: &&Anomaly| !anomaly.members.is_empty());
            if let (true, Some(first)) = (said.acknowledgements.is_empty(), first) {
                said.acknowledgements =
                    vec![Acknowledgement { anomaly: first.id.clone(), remark: remark(END) }];
                engine.attend(said.clone());
            }
        }
        if cuts.contains(&at) {
            engine = Engine::load(config(), &engine.save().unwrap()).unwrap();
        }
        engine.observe(exchange);
    }
    changes.extend(engine.advance(Nanos((second + 1) * SECOND)));
    (changes, engine.save().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("HYDROMETER_FULL").is_some() { 64 } else { 6 }))]

    #[test]
    fn wherever_it_stops_it_tells_the_same_and_knows_the_same(
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
    ) {
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(EXCHANGES.len())).collect();
        let (changes, known) = play(&cuts);
        prop_assert_eq!(&changes, &NEVER_STOPPED.0);
        prop_assert!(known == NEVER_STOPPED.1, "what it knows differs");
    }
}

#[test]
fn the_traffic_of_this_test_leaves_something_of_every_sort_open() {
    let some = |what: fn(&Anomaly) -> bool| NEVER_STOPPED.0.iter().any(what);
    assert!(some(|anomaly| anomaly.kind == AnomalyKind::ContractExceeded));
    assert!(some(|anomaly| anomaly.members.is_empty()));
    assert!(some(|anomaly| !anomaly.members.is_empty()));
    assert!(some(|anomaly| anomaly.members.iter().any(|member| !member.anomalies.is_empty())));
    assert!(some(|anomaly| anomaly.campaign.is_some()));
    assert!(some(|anomaly| anomaly.acknowledged.is_some()));
    assert!(some(|anomaly| anomaly.muted.is_some() && anomaly.reach == Reach::Node));
    // It was found while it was muted.
    assert!(some(|anomaly| {
        anomaly.kind == AnomalyKind::TemplateSweep
            && anomaly.reach == Reach::Fleet
            && anomaly.first_seen.as_secs_f64() < MUTED_UNTIL
            && anomaly.raised.as_secs_f64() >= MUTED_UNTIL
    }));
    assert!(some(|anomaly| anomaly.state == State::Closed));
    assert!(some(|anomaly| anomaly.impact.cost.is_some_and(|cost| cost > 0.0)));
}

#[test]
fn what_a_contract_had_open_is_closed_when_the_contract_is_gone() {
    let mut engine = Engine::new(config());
    let first = &EXCHANGES[0];
    for second in 0..4 {
        engine.observe(&Exchange { start: first.start + Duration::from_secs(second), ..first.clone() });
    }
    let now = first.start + Duration::from_mins(1);
    let changes = engine.advance(now);
    let opened = changes.iter().find(|anomaly| anomaly.kind == AnomalyKind::ContractExceeded).unwrap();
    let mut engine = Engine::load(EngineConfig::default(), &engine.save().unwrap()).unwrap();
    let changes = engine.advance(now + Duration::from_secs(1));
    let closed = changes.iter().find(|anomaly| anomaly.id == opened.id).unwrap();
    assert_eq!(closed.state, State::Closed);
}

#[test]
fn clients_keep_their_place_in_the_line() {
    let mut config = EngineConfig { max_clients: 3, ..EngineConfig::default() };
    let exchange = |n: u8| Exchange {
        client: ClientId::V4([10, 0, 0, n].into()),
        start: Nanos(END as u64 * SECOND),
        ..EXCHANGES[0].clone()
    };
    let mut engine = Engine::new(config.clone());
    for n in [1, 2, 3, 1] {
        engine.observe(&exchange(n));
    }
    config.max_clients = 2;
    let mut engine = Engine::load(config, &engine.save().unwrap()).unwrap();
    engine.observe(&exchange(1));
    let known: Vec<ClientId> = engine.client_ids().collect();
    assert_eq!(known, [exchange(1).client, exchange(3).client], "who was not heard of for longest goes");
}
