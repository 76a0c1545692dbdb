//! The promise of the detectors: campaigns of all kinds are found, named and told apart from benign clients that look
//! like them, in traffic that is generated anew from each seed. The judge is the rule of `score.py`.

mod traffic;

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_engine::{
    Engine, EngineConfig, Exchange, Nanos,
    anomaly::{Anomaly, State},
};
use serde_json::Value;

use traffic::Traffic;

const HOUR: f64 = 3600.0;
const BENIGN: usize = 150;

/// An alert as it stands at the end.
struct Alert {
    raised: f64,
    kind: &'static str,
    clients: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Score {
    found: Vec<String>,
    named: usize,
    missed: Vec<String>,
    wrong: Vec<String>,
    alerts: usize,
    /// Of the campaigns with several clients.
    f1: Vec<f64>,
}

#[test]
fn campaigns_of_all_kinds_are_found_and_named_among_clients_that_look_like_them() {
    let seeds = if std::env::var_os("HYDROMETER_FULL").is_some() { 0..8 } else { 0..2 };
    let (mut wrong, mut client_days) = (0.0, 0.0);
    for seed in seeds {
        let mut traffic = place(seed);
        traffic.attacked();
        let alerts = alerts(&mut traffic);
        let score = score(&traffic.campaigns, &alerts);
        println!("seed {seed}: {score:?}");
        let (all, alerts) = (traffic.campaigns.len() as f64, score.alerts as f64);
        let f1 = score.f1.iter().sum::<f64>() / score.f1.len() as f64;
        // What is asked of the recording, of which these are 17 of 18, 15 of 18, 0.9 and 0.9, less a tenth.
        assert!(score.found.len() as f64 >= 0.85 * all, "seed {seed}: missed {:?}", score.missed);
        assert!(score.named as f64 >= 0.75 * all, "seed {seed}: {} named", score.named);
        assert!(score.wrong.len() as f64 <= 0.19 * alerts, "seed {seed}: {:?}", score.wrong);
        assert!(f1 >= 0.81, "seed {seed}: {f1}");
        wrong += score.wrong.len() as f64;
        client_days += traffic.benign.len() as f64 / 1000.0 * traffic.days();
    }
    assert!(wrong / client_days <= 1.1, "{:.2} false alerts per 1,000 clients and day", wrong / client_days);
}

#[test]
fn clients_that_only_look_like_campaigns_raise_next_to_nothing() {
    let alerts: Vec<String> = alerts(&mut place(100)).iter().map(describe).collect();
    assert!(alerts.len() <= 1, "{alerts:?}");
}

/// A place without campaigns.
fn place(seed: u64) -> Traffic {
    let mut traffic = Traffic::new(seed);
    traffic.benign(BENIGN);
    traffic.lookalikes();
    traffic
}

/// Feeds exchanges as they end and the time once a second.
fn alerts(traffic: &mut Traffic) -> Vec<Alert> {
    let end = |exchange: &Exchange| exchange.start + exchange.duration;
    traffic.sort();
    let releases = vec![traffic.release];
    let mut engine = Engine::new(EngineConfig { releases, ..EngineConfig::default() });
    let (mut alerts, mut open) = (BTreeMap::new(), BTreeSet::new());
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
            for anomaly in changes.iter().filter(|anomaly| anomaly.state != State::Closed) {
                alerts.insert(anomaly.id.clone(), alert(anomaly));
            }
            second += 1;
        }
        engine.observe(exchange);
    }
    alerts.into_values().collect()
}

fn alert(anomaly: &Anomaly) -> Alert {
    let alone = anomaly.members.is_empty().then_some(anomaly.client);
    let clients = anomaly.members.iter().map(|member| member.client).chain(alone);
    Alert {
        raised: anomaly.raised.as_secs_f64(),
        kind: anomaly.kind.name(),
        clients: clients.map(|client| client.to_string()).collect(),
    }
}

fn describe(alert: &Alert) -> String {
    format!("{} {:?}", alert.kind, alert.clients)
}

fn score(campaigns: &[Value], alerts: &[Alert]) -> Score {
    let mut score = Score { alerts: alerts.len(), ..Score::default() };
    let mut matched = BTreeSet::new();
    for campaign in campaigns {
        let (start, end) =
            (campaign["start"].as_f64().unwrap_or_default(), campaign["end"].as_f64().unwrap_or_default());
        let members: BTreeSet<String> = campaign["clients"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let hits: Vec<usize> = (0..alerts.len())
            .filter(|at| {
                let common = alerts[*at].clients.intersection(&members).count();
                (start..=end + HOUR).contains(&alerts[*at].raised) && common * 2 >= alerts[*at].clients.len()
            })
            .collect();
        let got: BTreeSet<&String> = hits.iter().flat_map(|at| &alerts[*at].clients).collect();
        let common = got.iter().filter(|client| members.contains(**client)).count();
        if members.len() > 1 {
            score.f1.push(2.0 * common as f64 / (got.len() + members.len()) as f64);
        }
        let name = format!("{} {}", campaign["id"], campaign["kind"]);
        score.named += usize::from(hits.iter().any(|at| campaign["kind"] == alerts[*at].kind));
        if hits.is_empty() {
            score.missed.push(name);
        } else {
            score.found.push(name);
        }
        matched.extend(hits);
    }
    let wrong = alerts.iter().enumerate().filter(|(at, _)| !matched.contains(at));
    score.wrong = wrong.map(|(_, alert)| describe(alert)).collect();
    score
}
