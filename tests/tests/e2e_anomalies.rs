//! Two who copy the model among ordinary clients: both are found soon, nobody else is suspected, and the control plane's
//! subscriber gets every state of every anomaly exactly once, crashes of the control plane included.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use hydrometer_engine::ClientId;
use hydrometer_proto::v1::{Anomaly, AnomalyKind, AnomalyState, Severity};
use hydrometer_tests::{
    agent::{self, Agent},
    control::Control,
    feed::Subscriber,
    nginx::Security,
    openai::{Behaviour, Client, Pace, Stream},
    process::wait_for,
    stack::Stack,
};

/// From enough evidence to an anomaly, seconds.
const LIMIT_S: f64 = 30.0;
/// Requests of the metronome that are enough.
const REGULAR_REQUESTS: usize = 12;
/// Streamed answers with log-probabilities that are enough.
const LARGE_ANSWERS: usize = 3;
/// For how long the clients ask.
const DURATION: Duration = Duration::from_secs(45);
/// Waiting for what has to come.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn both_extractors_are_found_and_each_state_arrives_once_across_crashes_of_the_control_plane() {
    let stack = Stack::start(Security::Tls13, 6).unwrap();
    let server = stack.network.server();
    let mut control = Control::start(server, stack.folder()).unwrap();
    let report = agent::reporting(&control, stack.folder());
    let arguments = agent::usual_arguments().into_iter().chain(report);
    let agent = Agent::start(server, stack.folder(), arguments).unwrap();
    let subscriber = Subscriber::start(control.socket(), "").unwrap();
    let mut ordinary = ordinary(&stack);
    let [mut metronome, mut harvester] = extractors(&stack);

    wait_for_kind(AnomalyKind::LogitHarvest, || anomalies(&subscriber));
    // What is found while the control plane is down waits for it.
    control.kill().unwrap();
    wait_for_kind(AnomalyKind::LowAndSlow, || agent.anomalies().unwrap());
    control.restart(server).unwrap();
    wait_for_kind(AnomalyKind::LowAndSlow, || anomalies(&subscriber));
    // Once more, with all of it delivered and more to come.
    control.kill().unwrap();
    control.restart(server).unwrap();

    for client in &mut ordinary {
        client.finish(DURATION + PATIENCE).unwrap();
    }
    for (client, kind, enough) in [
        (&mut metronome, AnomalyKind::LowAndSlow, REGULAR_REQUESTS),
        (&mut harvester, AnomalyKind::LogitHarvest, LARGE_ANSWERS),
    ] {
        let calls = client.finish(DURATION + PATIENCE).unwrap();
        let enough = calls[enough - 1].start + calls[enough - 1].duration_s;
        let first = anomalies(&subscriber).into_iter().find(|anomaly| anomaly.kind() == kind).unwrap();
        let raised = first.raised.unwrap();
        let after = raised.seconds as f64 + f64::from(raised.nanos) / 1e9 - enough;
        println!("{}: raised {after:.1} s after enough evidence", kind.as_str_name());
        assert!(after <= LIMIT_S, "{} came {after:.1} s after enough evidence", kind.as_str_name());
    }

    let said = last_states(agent.anomalies().unwrap());
    wait_for("all that the agent has found", PATIENCE, || {
        let received = last_states(anomalies(&subscriber));
        let arrived = said
            .iter()
            .all(|(id, state)| received.get(id).is_some_and(|received| received.revision >= state.revision));
        Ok(arrived.then_some(()))
    })
    .unwrap();
    let received = subscriber.stop().unwrap();
    let received: Vec<_> = received.into_iter().filter_map(|message| message.anomaly).collect();
    assert_only(&received, &[(&metronome, AnomalyKind::LowAndSlow), (&harvester, AnomalyKind::LogitHarvest)]);
    assert_each_state_once(&received);
    for (id, state) in said {
        assert!(received.contains(&state), "the subscriber got another {id} than the agent tells: {state:?}");
    }
    received.iter().for_each(assert_complete);
    // Who comes late gets the same.
    let late = Subscriber::start(control.socket(), "").unwrap();
    wait_for("all states once more", PATIENCE, || {
        Ok((anomalies(&late).len() >= received.len()).then_some(()))
    })
    .unwrap();
    assert_eq!(anomalies(&late)[..received.len()], received);
}

/// People: bursts and pauses, streamed and not, over IPv4 and IPv6.
fn ordinary(stack: &Stack) -> Vec<Client> {
    [Stream::Always, Stream::Always, Stream::Mixed, Stream::Never]
        .into_iter()
        .enumerate()
        .map(|(n, stream)| {
            let address = stack.network.add_client().unwrap();
            let address: IpAddr = if n % 2 == 0 { address.v4.into() } else { address.v6.into() };
            let behaviour = Behaviour {
                pace: Pace::Bursty(4, Duration::from_secs(4)),
                duration: Some(DURATION),
                stream,
                max_tokens: 32,
                seed: 11 + n as u64,
                ..Behaviour::default()
            };
            stack.client(address, &behaviour).unwrap()
        })
        .collect()
}

/// One that asks every second, and one that asks for log-probabilities.
fn extractors(stack: &Stack) -> [Client; 2] {
    let base = Behaviour {
        duration: Some(DURATION),
        max_tokens: 32,
        stream: Stream::Always,
        ..Behaviour::default()
    };
    let metronome =
        Behaviour { pace: Pace::Interval(Duration::from_secs(1)), stream: Stream::Never, ..base.clone() };
    let harvester =
        Behaviour { pace: Pace::Bursty(4, Duration::from_secs(3)), top_logprobs: Some(20), seed: 7, ..base };
    [metronome, harvester]
        .map(|behaviour| stack.client(stack.network.add_client().unwrap().v4, &behaviour).unwrap())
}

fn wait_for_kind(kind: AnomalyKind, source: impl Fn() -> Vec<Anomaly>) {
    wait_for(kind.as_str_name(), PATIENCE, || {
        Ok(source().iter().any(|anomaly| anomaly.kind() == kind).then_some(()))
    })
    .unwrap();
}

/// What the subscriber has so far.
fn anomalies(subscriber: &Subscriber) -> Vec<Anomaly> {
    subscriber.received().into_iter().filter_map(|message| message.anomaly).collect()
}

fn last_states(anomalies: Vec<Anomaly>) -> BTreeMap<String, Anomaly> {
    anomalies.into_iter().map(|anomaly| (anomaly.id.clone(), anomaly)).collect()
}

fn assert_only(received: &[Anomaly], expected: &[(&Client, AnomalyKind)]) {
    let found: BTreeSet<_> =
        received.iter().map(|anomaly| (anomaly.client.clone(), anomaly.kind())).collect();
    let expected: BTreeSet<_> =
        expected.iter().map(|(client, kind)| (ClientId::from(client.address()).to_string(), *kind)).collect();
    assert_eq!(found, expected, "the extractors and nobody else");
}

fn assert_each_state_once(received: &[Anomaly]) {
    let mut revisions: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for anomaly in received {
        revisions.entry(&anomaly.id).or_default().push(anomaly.revision);
        assert_eq!(anomaly.state() == AnomalyState::Open, anomaly.revision == 1, "{anomaly:?}");
    }
    println!("states received: {revisions:?}");
    for (id, revisions) in revisions {
        let count = u32::try_from(revisions.len()).unwrap();
        assert!(revisions.iter().copied().eq(1..=count), "{id}: {revisions:?}");
    }
}

/// A person can see why.
fn assert_complete(anomaly: &Anomaly) {
    let evidence = anomaly.evidence.as_ref().unwrap();
    assert!(!evidence.summary.is_empty() && evidence.exchanges > 0, "{evidence:?}");
    assert!(!evidence.features.is_empty(), "{evidence:?}");
    for feature in &evidence.features {
        assert!(!feature.feature.is_empty() && !feature.unit.is_empty(), "{feature:?}");
        assert!(!feature.compared_with.is_empty() && feature.baseline.is_finite(), "{feature:?}");
    }
    assert!(!evidence.series.is_empty(), "{evidence:?}");
    for series in &evidence.series {
        assert!(
            !series.values.is_empty() && series.step_seconds > 0.0 && series.start.is_some(),
            "{series:?}"
        );
    }
    assert!(anomaly.atlas_technique.starts_with("AML.T"), "{anomaly:?}");
    assert!(!anomaly.atlas_technique_name.is_empty() && !anomaly.node.is_empty(), "{anomaly:?}");
    assert!(anomaly.severity() > Severity::Unspecified && anomaly.score > 0.0, "{anomaly:?}");
    assert!(anomaly.first_seen.is_some() && anomaly.last_seen.is_some(), "{anomaly:?}");
}
