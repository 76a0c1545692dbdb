//! What subscribers can rely on.

use std::fs;

use hydrometer_proto::v1::{
    Anomaly, AnomalyKind, FeedStatus, GetControlPlaneStatusRequest, LostStates, QueryRequest, QueryResponse,
    Severity, SubscribeRequest, feed_client::FeedClient, operations_client::OperationsClient,
};
use tonic::{Code, Status, transport::Channel};

use crate::{
    agent::{Agent, anomaly},
    process::{Process, python, root},
    program::{LIMIT, Site, poll, within},
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
async fn networks_and_techniques_are_filters_and_fields_a_choice() {
    let site = Site::new();
    let _program = site.start();
    let of = |name, client: &str, technique: &str| Anomaly {
        client: client.into(),
        atlas_technique: technique.into(),
        ..anomaly(name)
    };
    let anomalies = [
        of("near", "203.0.113.7", "AML.T0024.002"),
        of("far", "198.51.100.7", "AML.T0024.002"),
        of("six", "2001:db8:0:1::/64", "AML.T0029"),
    ];
    report(&site, "gpu-1", anomalies).await;
    let strings = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let networks = |texts| SubscribeRequest { client_networks: strings(texts), ..everything() };
    let techniques = |texts| SubscribeRequest { atlas_techniques: strings(texts), ..everything() };
    let cases: [(SubscribeRequest, &[&str]); 4] = [
        (networks(&["203.0.113.0/24", "2001:db8::/32"]), &["near", "six"]),
        (networks(&["192.0.2.0/24"]), &[]),
        (techniques(&["AML.T0024"]), &["near", "far"]),
        (techniques(&["AML.T0029", "AML.T0024.002"]), &["near", "far", "six"]),
    ];
    for (request, expected) in cases {
        assert_eq!(ids(&all(site.channel().await, request.clone()).await), expected, "{request:?}");
    }
    let fields = |paths| Some(prost_types::FieldMask { paths: strings(paths) });
    let chosen = SubscribeRequest { fields: fields(&["id", "client"]), ..everything() };
    let expected = Anomaly { id: "near".into(), client: "203.0.113.7".into(), ..Anomaly::default() };
    assert_eq!(all(site.channel().await, chosen).await[0].anomaly, Some(expected));
    for request in
        [networks(&["203.0.113"]), SubscribeRequest { fields: fields(&["clients"]), ..everything() }]
    {
        let status = subscribe(site.channel().await, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}

#[tokio::test]
async fn what_an_agent_lost_is_told_whatever_the_filters_of_anomalies() {
    let site = Site::new();
    let _program = site.start();
    let mut agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    for sequence in [1, 5, 6] {
        agent.report(sequence, anomaly(&sequence.to_string())).await;
    }
    agent.settled(6).await;
    let lost = LostStates {
        stage: "agent".into(),
        count: 3,
        first: 2,
        last: 4,
        node: "gpu-1".into(),
        boot_id: "boot".into(),
    };
    let messages = all(site.channel().await, everything()).await;
    let told: Vec<_> = messages.iter().map(|message| message.lost.clone()).collect();
    assert_eq!(told, [vec![], vec![lost.clone()], vec![]]);
    let critical = SubscribeRequest { min_severity: Severity::Critical.into(), ..everything() };
    let messages = all(site.channel().await, critical).await;
    assert_eq!((messages.len(), &messages[0].anomaly, &messages[0].lost), (1, &None, &vec![lost]));
    let elsewhere = SubscribeRequest { node: "gpu-2".into(), ..everything() };
    assert_eq!(all(site.channel().await, elsewhere).await, []);
}

#[tokio::test]
async fn history_is_answered_newest_first_in_pages() {
    let site = Site::new();
    let _program = site.start();
    let names: Vec<String> = (0..250).map(|number| number.to_string()).collect();
    let of = |name: &String| Anomaly {
        client: if name.ends_with('7') { "203.0.113.7".into() } else { "198.51.100.7".into() },
        ..anomaly(name)
    };
    report(&site, "gpu-1", names.iter().map(of)).await;
    let newest_first: Vec<&String> = names.iter().rev().collect();
    let mut found = Vec::new();
    let mut request = QueryRequest { page_size: 99, ..QueryRequest::default() };
    let mut sizes = Vec::new();
    loop {
        let page = query(&site, request.clone()).await.unwrap();
        sizes.push(page.results.len());
        found.extend(page.results.into_iter().filter_map(|result| result.anomaly).map(|anomaly| anomaly.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((found.iter().collect::<Vec<_>>(), sizes), (newest_first, vec![99, 99, 52]));

    let sevens = QueryRequest {
        client_networks: vec!["203.0.113.0/24".into()],
        fields: Some(prost_types::FieldMask { paths: vec!["id".into()] }),
        page_size: 1000,
        ..QueryRequest::default()
    };
    let page = query(&site, sevens).await.unwrap();
    let expected: Vec<_> = names.iter().rev().filter(|name| name.ends_with('7')).collect();
    assert_eq!(
        page.results.iter().map(|result| &result.anomaly.as_ref().unwrap().id).collect::<Vec<_>>(),
        expected
    );
    assert!(page.next_page_token.is_empty() && page.results[0].anomaly.as_ref().unwrap().client.is_empty());

    let one =
        query(&site, QueryRequest { id: "42".into(), ..QueryRequest::default() }).await.unwrap().results;
    assert_eq!(one.len(), 1);
    let before = QueryRequest { until: one[0].stored, page_size: 1000, ..QueryRequest::default() };
    let after = QueryRequest { since: one[0].stored, page_size: 1000, ..QueryRequest::default() };
    let (before, after) = (query(&site, before).await.unwrap(), query(&site, after).await.unwrap());
    assert_eq!(before.results.len() + after.results.len(), 250);
    let status = query(&site, QueryRequest { page_token: "x".into(), ..QueryRequest::default() }).await;
    assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
}

async fn query(site: &Site, request: QueryRequest) -> Result<QueryResponse, Status> {
    let mut client = FeedClient::new(site.channel().await);
    Ok(within(client.query(request)).await?.into_inner())
}

#[tokio::test]
async fn a_subscriber_that_takes_nothing_is_told_and_cut_off_and_resumes_without_a_gap() {
    let site = Site::new();
    let _program = site.start_on(&[&site.address()], &["--subscriber-patience-s=1".to_owned()]);
    let mut idle = subscribe(site.channel().await, following()).await.unwrap();
    let mut awake = subscribe(site.channel().await, following()).await.unwrap();
    let names: Vec<String> = (0..3000).map(|number| format!("{number}-{}", "x".repeat(1000))).collect();
    let reading = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.len() < 3000 {
            seen.push(id(&next(&mut awake).await).to_owned());
        }
        seen
    });
    report(&site, "gpu-1", names.iter().map(|name| anomaly(name))).await;
    assert!(reading.await.unwrap() == names);
    let mut client = OperationsClient::new(site.channel().await);
    poll_status(&mut client, |feed| feed.cut_off == 1).await;

    let (mut seen, mut resume_token) = (Vec::new(), String::new());
    let status = loop {
        match within(idle.message()).await {
            Ok(Some(message)) => {
                seen.push(id(&message).to_owned());
                resume_token = message.resume_token;
            }
            Ok(None) => panic!("it ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("last resume_token"), "{status}");
    assert!(seen.len() < 3000);
    let rest = all(site.channel().await, SubscribeRequest { resume_token, ..everything() }).await;
    seen.extend(rest.iter().map(|message| id(message).to_owned()));
    assert!(seen == names, "{} of 3000", seen.len());
    poll_status(&mut client, |feed| feed.subscribers == 0).await;
}

async fn poll_status(client: &mut OperationsClient<Channel>, hoped: impl Fn(&FeedStatus) -> bool) {
    let start = std::time::Instant::now();
    loop {
        let answer = within(client.get_control_plane_status(GetControlPlaneStatusRequest {})).await.unwrap();
        let feed = answer.into_inner().feed.unwrap();
        if hoped(&feed) {
            return;
        }
        assert!(start.elapsed() < LIMIT, "waited in vain: {feed:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_example_in_python_prints_each_state_once_across_restarts_of_both_sides() {
    let site = Site::new();
    let consumer = |output: &str| {
        let mut command = python("examples/python/consumer.py");
        command.arg(site.address()).arg("--proto").arg(root().join("proto"));
        command.arg("--token-file").arg(site.path("token")).args(["--field", "id", "--field", "node"]);
        Process::start(command, site.path(output))
    };
    let program = site.start();
    report(&site, "gpu-1", ["a", "b"].map(anomaly)).await;
    let mut first = consumer("first");
    let printed = |process: &mut Process, count: usize| {
        poll("the example to print", || {
            process.alive();
            let lines: Vec<_> = process.lines().into_iter().filter(|line| line.starts_with('{')).collect();
            (lines.len() == count).then_some(lines)
        })
    };
    let expect = |ids: &[&str]| -> Vec<String> {
        ids.iter().map(|id| format!("{{\"id\": \"{id}\", \"node\": \"gpu-1\"}}")).collect()
    };
    assert_eq!(printed(&mut first, 2), expect(&["a", "b"]));
    program.kill();
    let _program = site.start();
    report(&site, "gpu-1", [anomaly("c")]).await;
    assert_eq!(printed(&mut first, 3), expect(&["a", "b", "c"]));
    let third = all(site.channel().await, everything()).await.remove(2).resume_token;
    poll("it to remember", || (fs::read_to_string(site.path("token")).unwrap() == third).then_some(()));
    drop(first);
    report(&site, "gpu-1", ["d", "e"].map(anomaly)).await;
    let mut second = consumer("second");
    assert_eq!(printed(&mut second, 2), expect(&["d", "e"]));
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
