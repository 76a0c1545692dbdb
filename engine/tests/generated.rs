//! The promise of the detectors: campaigns of all kinds are found, named and told apart from benign clients that look
//! like them, in traffic that is generated anew from each seed.

mod traffic;

use std::collections::BTreeSet;

use hydrometer_engine::{
    Engine, EngineConfig, Exchange, Nanos,
    anomaly::State,
    evaluation::{Alert, Alerts, Evaluation},
};

use traffic::Traffic;

const BENIGN: usize = 150;

#[test]
fn campaigns_of_all_kinds_are_found_and_named_among_clients_that_look_like_them() {
    let seeds = if std::env::var_os("HYDROMETER_FULL").is_some() { 0..8 } else { 0..2 };
    let (mut wrong, mut client_days) = (0.0, 0.0);
    for seed in seeds {
        let mut traffic = place(seed);
        traffic.attacked();
        let alerts = alerts(&mut traffic);
        let labels = traffic.labels();
        let evaluation = Evaluation::of(&labels, &alerts);
        println!("seed {seed}: {evaluation:?}");
        let figures = evaluation.figures;
        let (all, f1) = (figures.campaigns as f64, figures.cluster_f1.unwrap_or_default());
        // What is asked of the recording, of which these are 17 of 18, 15 of 18, 0.9 and 0.9, less a tenth.
        assert!(figures.found as f64 >= 0.85 * all, "seed {seed}: {:?}", evaluation.per_campaign);
        assert!(figures.named as f64 >= 0.75 * all, "seed {seed}: {:?}", evaluation.per_campaign);
        assert!(figures.precision >= 0.81, "seed {seed}: {:?}", figures.false_by_role);
        assert!(f1 >= 0.81, "seed {seed}: {f1}");
        wrong += evaluation.claims.iter().filter(|claim| !claim.is_true).count() as f64;
        client_days += labels.benign.len() as f64 / 1000.0 * labels.days;
    }
    assert!(wrong / client_days <= 1.1, "{:.2} false alerts per 1,000 clients and day", wrong / client_days);
}

#[test]
fn clients_that_only_look_like_campaigns_raise_next_to_nothing() {
    let alerts = alerts(&mut place(100));
    assert!(alerts.in_order().len() <= 1, "{alerts:?}");
}

/// A place without campaigns.
fn place(seed: u64) -> Traffic {
    let mut traffic = Traffic::new(seed);
    traffic.benign(BENIGN);
    traffic.lookalikes();
    traffic
}

/// Feeds exchanges as they end and the time once a second.
fn alerts(traffic: &mut Traffic) -> Alerts {
    let end = |exchange: &Exchange| exchange.start + exchange.duration;
    traffic.sort();
    let releases = vec![traffic.release];
    let mut engine = Engine::new(EngineConfig { releases, ..EngineConfig::default() });
    let (mut alerts, mut open) = (Alerts::default(), BTreeSet::new());
    let mut second = 0;
    for exchange in &traffic.exchanges {
        while second <= end(exchange).0 / 1_000_000_000 {
            let changes = engine.advance(Nanos(second * 1_000_000_000));
            for anomaly in changes.iter().filter(|anomaly| anomaly.members.is_empty()) {
                let key = (anomaly.client, anomaly.kind);
                match anomaly.state {
                    State::Open => assert!(open.insert(key), "open twice: {anomaly:?}"),
                    State::Updated => assert!(open.contains(&key), "updated and not open: {anomaly:?}"),
                    State::Closed => assert!(open.remove(&key), "closed and not open: {anomaly:?}"),
                }
            }
            alerts.extend(changes.iter().filter_map(Alert::of));
            second += 1;
        }
        engine.observe(exchange);
    }
    alerts
}
