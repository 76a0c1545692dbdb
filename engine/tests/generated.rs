//! The promise of the detectors: campaigns of all nine kinds are found, named and told apart from benign clients that look
//! like them, in traffic that is generated anew from each seed. The judge is the rule of `score.py`.

mod traffic;

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_engine::{
    Engine, EngineConfig, Exchange, Nanos, Release,
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
    /// Of the campaigns with several clients.
    f1: Vec<f64>,
}

#[test]
fn campaigns_of_all_kinds_are_found_and_named_among_clients_that_look_like_them() {
    let seeds = if std::env::var_os("HYDROMETER_FULL").is_some() { 0..6 } else { 0..1 };
    for seed in seeds {
        let mut traffic = Traffic::new(seed);
        traffic.benign(BENIGN, END);
        traffic.attacked(RELEASE, END);
        let score = score(&traffic.campaigns, &alerts(traffic.exchanges));
        println!("seed {seed}: {score:?}");
        let f1 = score.f1.iter().sum::<f64>() / score.f1.len() as f64;
        assert!(score.found.len() >= 17 && score.named >= 15, "seed {seed}: missed {:?}", score.missed);
        assert!(score.wrong.len() <= 1, "seed {seed}: {:?}", score.wrong);
        assert!(f1 >= 0.9, "seed {seed}: {f1}");
    }
}

#[test]
fn clients_that_only_look_like_campaigns_raise_nothing() {
    let mut traffic = Traffic::new(100);
    traffic.benign(BENIGN, END);
    let alerts: Vec<String> = alerts(traffic.exchanges).iter().map(describe).collect();
    assert!(alerts.len() <= 1, "{alerts:?}");
}

/// Feeds exchanges as they end and the time once a second.
fn alerts(mut exchanges: Vec<Exchange>) -> Vec<Alert> {
    let end = |exchange: &Exchange| exchange.start + exchange.duration;
    exchanges.sort_by_key(end);
    let releases = vec![Release { port: RELEASE.0, at_s: RELEASE.1 }];
    let mut engine = Engine::new(EngineConfig { releases, ..EngineConfig::default() });
    let mut alerts = BTreeMap::new();
    let mut second = 0;
    for exchange in &exchanges {
        while second <= end(exchange).0 / 1_000_000_000 {
            let changes = engine.advance(Nanos(second * 1_000_000_000));
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
    let mut score = Score::default();
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
