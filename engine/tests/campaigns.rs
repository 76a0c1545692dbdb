//! The promises about campaigns over time: one keeps its id while it grows, changes its habits, takes in another or loses
//! a part, closes when its members stop, and knows the anomalies of its members, as they know it.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use hydrometer_engine::{
    Accuracy, ClientId, Ending, Engine, EngineConfig, Exchange, Heads, Identity, LifecycleConfig, Nanos,
    Protocol, RoundTrips, Service,
    anomaly::{Anomaly, AnomalyKind, State},
};

const EPOCH: f64 = 1_790_000_000.0;
const HOUR: f64 = 3600.0;

/// Numbers that look like chance, the same in each run.
struct Dice(u64);

impl Dice {
    fn between(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        low + (high - low) * ((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

fn client(n: u8) -> ClientId {
    ClientId::V4(Ipv4Addr::new(198, 51, 100, n))
}

/// What is asked by each of these clients between two hours, at random every 40 s: requests of about so many bytes.
fn group(clients: std::ops::Range<u8>, (from, to): (f64, f64), request_bytes: f64) -> Vec<Exchange> {
    let mut all = Vec::new();
    for n in clients {
        let mut dice = Dice(u64::from(n) * 77 + from as u64);
        let mut at = from * HOUR + dice.between(0.0, 40.0);
        while at < to * HOUR {
            all.push(ask(n, at, request_bytes, &mut dice));
            at += -40.0 * dice.between(1e-9, 1.0).ln();
        }
    }
    all
}

fn ask(n: u8, at: f64, request_bytes: f64, dice: &mut Dice) -> Exchange {
    let records = dice.between(540.0, 660.0) as u32;
    Exchange {
        start: Nanos::from_secs_f64(EPOCH + at),
        client: client(n),
        client_port: 40_000,
        service: Service { address: None, port: 8443 },
        flow: 1,
        request_bytes: (request_bytes * dice.between(0.97, 1.03)) as u64,
        answer_bytes: u64::from(records) * 240,
        time_to_first_byte: Some(Duration::from_millis(200)),
        time_to_first_token: None,
        duration: Duration::from_secs_f64(f64::from(records) / 60.0),
        records,
        record_median: 240,
        protocol: Protocol::Tls,
        accuracy: Accuracy::Exact,
        confidence: None,
        ending: Ending::Complete,
        truncated: None,
        heads: Heads::default(),
        ja4: Some("t13d1516h2_8daaf6152771_b186095e22b6".to_owned()),
        round_trips: RoundTrips::default(),
        identity: Identity::Direct,
    }
}

/// Feeds exchanges as they end, up to this hour; returns all states that were told.
fn run(mut exchanges: Vec<Exchange>, hours: f64) -> Vec<Anomaly> {
    let end = |exchange: &Exchange| exchange.start + exchange.duration;
    exchanges.sort_by_key(end);
    let lifecycle = LifecycleConfig { close_after_s: HOUR, ..LifecycleConfig::default() };
    let mut engine = Engine::new(EngineConfig { lifecycle, ..EngineConfig::default() });
    let mut waiting = exchanges.into_iter().peekable();
    let mut told = Vec::new();
    for second in 0..(hours * HOUR) as u32 {
        let now = Nanos::from_secs_f64(EPOCH + f64::from(second));
        while let Some(exchange) = waiting.next_if(|exchange| end(exchange) <= now) {
            engine.observe(&exchange);
        }
        told.extend(engine.advance(now));
    }
    told
}

fn is_campaign(anomaly: &Anomaly) -> bool {
    anomaly.kind == AnomalyKind::Hydra
}

/// The last state of each campaign, first raised first.
fn last(told: &[Anomaly]) -> Vec<&Anomaly> {
    let mut last: BTreeMap<&str, &Anomaly> = BTreeMap::new();
    for anomaly in told.iter().filter(|anomaly| is_campaign(anomaly)) {
        if let Some(before) = last.insert(&anomaly.id, anomaly) {
            assert_eq!(
                (anomaly.revision, anomaly.raised),
                (before.revision + 1, before.raised),
                "{anomaly:?}"
            );
            assert_ne!(before.state, State::Closed, "what has closed stays closed");
        }
    }
    let mut last: Vec<&Anomaly> = last.into_values().collect();
    last.sort_by_key(|anomaly| anomaly.raised);
    last
}

fn members(anomaly: &Anomaly) -> Vec<ClientId> {
    anomaly.members.iter().map(|member| member.client).collect()
}

fn clients(range: std::ops::Range<u8>) -> Vec<ClientId> {
    range.map(client).collect()
}

#[test]
fn a_campaign_closes_when_its_members_stop() {
    let told = run(group(0..14, (0.0, 2.0), 2000.0), 4.0);
    let last = last(&told);
    assert_eq!((last.len(), last[0].state, members(last[0])), (1, State::Closed, clients(0..14)));
    assert!((last[0].last_seen.as_secs_f64() - EPOCH - 2.0 * HOUR).abs() < 120.0);
}

#[test]
fn two_campaigns_that_come_to_look_alike_become_one_under_the_older_id() {
    let mut all = group(0..14, (0.0, 5.0), 2000.0);
    all.extend(group(20..34, (0.5, 2.0), 2750.0));
    all.extend(group(20..34, (2.0, 5.0), 2000.0));
    let told = run(all, 5.0);
    let last = last(&told);
    assert_eq!(last.len(), 2, "{last:?}");
    let (elder, younger) = (last[0], last[1]);
    assert_eq!(younger.state, State::Closed);
    assert_eq!((younger.merged_into.as_ref(), elder.merged_into.as_ref()), (Some(&elder.id), None));
    assert_eq!(members(younger), clients(20..34), "it tells of them once more");
    assert_ne!(elder.state, State::Closed);
    assert_eq!(members(elder), [clients(0..14), clients(20..34)].concat());
}

#[test]
fn a_campaign_whose_members_come_to_look_different_splits_and_the_older_id_keeps_the_rest() {
    let mut all = group(0..15, (0.0, 5.0), 2000.0);
    all.extend(group(15..30, (0.0, 2.0), 2000.0));
    all.extend(group(15..30, (2.0, 5.0), 5000.0));
    let told = run(all, 5.0);
    let last = last(&told);
    assert_eq!(last.len(), 2, "{last:?}");
    assert_eq!((members(last[0]), last[0].split_from.as_ref()), (clients(0..15), None));
    assert_eq!((members(last[1]), last[1].split_from.as_ref()), (clients(15..30), Some(&last[0].id)));
    assert!(last.iter().all(|campaign| campaign.state != State::Closed && campaign.merged_into.is_none()));
}

#[test]
fn a_campaign_that_changes_its_habits_keeps_its_id() {
    let mut all = group(0..20, (0.0, 2.0), 2000.0);
    all.extend(group(0..20, (2.0, 5.0), 5000.0));
    let told = run(all, 5.0);
    let last = last(&told);
    assert_ne!(last[0].state, State::Closed);
    assert_eq!(members(last[0]), clients(0..20));
    for part in &last[1..] {
        assert_eq!((part.state, part.merged_into.as_ref()), (State::Closed, Some(&last[0].id)));
    }
}

#[test]
fn a_campaign_and_the_anomalies_of_its_members_name_one_another() {
    let mut dice = Dice(5);
    let even = (0..270).map(|n| ask(13, f64::from(n) * 40.0 + dice.between(0.0, 0.5), 2000.0, &mut dice));
    let even: Vec<Exchange> = even.collect();
    let mut all = group(0..13, (0.0, 3.0), 2000.0);
    all.extend(even);
    let told = run(all, 3.0);
    let campaigns = last(&told);
    let alone: Vec<&Anomaly> = told.iter().filter(|anomaly| !is_campaign(anomaly)).collect();
    let own = alone.last().unwrap_or_else(|| panic!("the metronome was not found"));
    assert_eq!((own.kind, own.client), (AnomalyKind::LowAndSlow, client(13)));
    assert_eq!((campaigns.len(), own.campaign.as_ref()), (1, Some(&campaigns[0].id)));
    let named: Vec<(ClientId, &String)> = campaigns[0]
        .members
        .iter()
        .flat_map(|member| member.anomalies.iter().map(|id| (member.client, id)))
        .collect();
    assert_eq!(named, [(client(13), &own.id)]);
}
