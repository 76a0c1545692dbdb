//! What subscribers can rely on.

use hydrometer_proto::v1::{Anomaly, AnomalyKind, Severity, SubscribeRequest};
use tonic::Code;

use crate::{
    agent::{Agent, anomaly},
    program::Site,
    subscriber::{all, everything, following, id, ids, next, subscribe},
};

/// Reports anomalies with these ids as `node`.
async fn report(site: &Site, node: &str, anomalies: impl IntoIterator<Item = Anomaly>) {
    let mut agent = Agent::connect(site.channel().await, node, "boot").await.unwrap();
    let mut sequence = agent.welcomed;
    for anomaly in anomalies {
        sequence += 1;
        agent.report(sequence, anomaly).await;
    }
    agent.settled(sequence).await;
}

#[tokio::test]
async fn states_come_oldest_first_and_a_token_goes_on_after_its_message() {
    let site = Site::new();
    let _program = site.start();
    let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    report(&site, "gpu-1", names.iter().map(|name| anomaly(name))).await;
    let messages = all(site.channel().await, everything()).await;
    assert_eq!(ids(&messages), names);
    for (index, message) in messages.iter().enumerate().step_by(7) {
        let request = SubscribeRequest { resume_token: message.resume_token.clone(), ..everything() };
        assert_eq!(all(site.channel().await, request).await, messages[index + 1..]);
    }
}

#[tokio::test]
async fn every_state_of_an_anomaly_is_a_message() {
    let site = Site::new();
    let _program = site.start();
    let revisions = (1..=3).map(|revision| Anomaly { revision, ..anomaly("a") });
    report(&site, "gpu-1", revisions).await;
    let messages = all(site.channel().await, everything()).await;
    let seen: Vec<u32> =
        messages.iter().filter_map(|message| Some(message.anomaly.as_ref()?.revision)).collect();
    assert_eq!(seen, [1, 2, 3]);
}

#[tokio::test]
async fn a_follower_is_woken_by_what_is_stored() {
    let site = Site::new();
    let _program = site.start();
    let mut stream = subscribe(site.channel().await, following()).await.unwrap();
    for name in ["a", "b", "c"] {
        report(&site, "gpu-1", [anomaly(name)]).await;
        assert_eq!(id(&next(&mut stream).await), name);
    }
}

#[tokio::test]
async fn a_token_goes_on_after_a_restart_without_gap_or_duplicate() {
    let site = Site::new();
    let program = site.start();
    report(&site, "gpu-1", ["a", "b"].map(anomaly)).await;
    let mut stream = subscribe(site.channel().await, following()).await.unwrap();
    let handled = next(&mut stream).await;
    assert!(program.stop().success());
    let program = site.start();
    report(&site, "gpu-1", [anomaly("c")]).await;
    program.kill();
    let _program = site.start();
    let request = SubscribeRequest { resume_token: handled.resume_token, ..everything() };
    assert_eq!(ids(&all(site.channel().await, request).await), ["b", "c"]);
}

#[tokio::test]
async fn a_token_that_is_not_of_this_store_is_refused() {
    let site = Site::new();
    let _program = site.start();
    report(&site, "gpu-1", [anomaly("a")]).await;
    let own = all(site.channel().await, everything()).await.remove(0).resume_token;

    let other = Site::new();
    let _other_program = other.start();
    report(&other, "gpu-1", ["a", "b"].map(anomaly)).await;
    let foreign = all(other.channel().await, everything()).await.remove(0).resume_token;

    let ahead = format!("{own}9");
    let cases = [
        ("rubbish", "not a resume token"),
        (foreign.as_str(), "of another store"),
        (ahead.as_str(), "ahead of this store"),
    ];
    for (token, reason) in cases {
        let request = SubscribeRequest { resume_token: token.into(), ..everything() };
        let status = subscribe(site.channel().await, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(reason), "{status}");
    }
}

#[tokio::test]
async fn since_leaves_out_what_was_stored_before() {
    let site = Site::new();
    let _program = site.start();
    for name in ["a", "b", "c"] {
        report(&site, "gpu-1", [anomaly(name)]).await;
    }
    let messages = all(site.channel().await, everything()).await;
    for (index, message) in messages.iter().enumerate() {
        let request = SubscribeRequest { since: message.stored, ..everything() };
        assert_eq!(all(site.channel().await, request).await, messages[index..]);
    }
    let request = SubscribeRequest {
        since: messages[1].stored,
        resume_token: messages[1].resume_token.clone(),
        ..everything()
    };
    assert_eq!(ids(&all(site.channel().await, request).await), ["c"]);
    for (seconds, nanos, expected) in [(i64::MAX, i32::MAX, 0), (i64::MIN, i32::MIN, 3)] {
        let request =
            SubscribeRequest { since: Some(prost_types::Timestamp { seconds, nanos }), ..everything() };
        assert_eq!(all(site.channel().await, request).await.len(), expected);
    }
}

#[tokio::test]
async fn filters_let_through_what_was_asked_for() {
    let site = Site::new();
    let _program = site.start();
    let of = |name, kind: AnomalyKind, severity: Severity| Anomaly {
        kind: kind.into(),
        severity: severity.into(),
        ..anomaly(name)
    };
    let first = [
        of("rate-low", AnomalyKind::Flood, Severity::Low),
        of("rate-high", AnomalyKind::Flood, Severity::High),
    ];
    let second = [
        of("cadence-high", AnomalyKind::LowAndSlow, Severity::High),
        of("logit-critical", AnomalyKind::LogitHarvest, Severity::Critical),
    ];
    report(&site, "gpu-1", first).await;
    report(&site, "gpu-2", second).await;

    let kinds = |kinds: &[AnomalyKind]| kinds.iter().map(|&kind| kind.into()).collect();
    let cases: [(SubscribeRequest, &[&str]); 5] = [
        (
            SubscribeRequest { kinds: kinds(&[AnomalyKind::Flood]), ..everything() },
            &["rate-low", "rate-high"],
        ),
        (
            SubscribeRequest {
                kinds: kinds(&[AnomalyKind::Flood, AnomalyKind::LogitHarvest]),
                min_severity: Severity::High.into(),
                ..everything()
            },
            &["rate-high", "logit-critical"],
        ),
        (SubscribeRequest { min_severity: Severity::Critical.into(), ..everything() }, &["logit-critical"]),
        (SubscribeRequest { node: "gpu-2".into(), ..everything() }, &["cadence-high", "logit-critical"]),
        (SubscribeRequest { node: "gpu-3".into(), ..everything() }, &[]),
    ];
    for (request, expected) in cases {
        assert_eq!(ids(&all(site.channel().await, request.clone()).await), expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_delays_nobody_and_misses_nothing() {
    let site = Site::new();
    let _program = site.start();
    let mut idle = subscribe(site.channel().await, following()).await.unwrap();
    let mut awake = subscribe(site.channel().await, following()).await.unwrap();
    let names: Vec<String> = (0..3000).map(|number| format!("{number}-{}", "x".repeat(1000))).collect();
    report(&site, "gpu-1", names.iter().map(|name| anomaly(name))).await;
    for stream in [&mut awake, &mut idle] {
        for name in &names {
            assert_eq!(id(&next(stream).await), name);
        }
    }
}
