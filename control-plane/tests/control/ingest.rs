//! What agents can rely on.

use futures::future::join_all;
use hydrometer_proto::v1::{Anomaly, Heartbeat, Hello, SequencedAnomaly, report_request::Message as Say};
use tonic::{Code, transport::Endpoint};

use crate::{
    agent::{Agent, anomaly, hello, refused},
    program::Site,
    subscriber::{all, everything, ids},
};

#[tokio::test]
async fn what_is_acknowledged_is_in_the_feed() {
    let site = Site::new();
    let _program = site.start();
    let mut agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    assert_eq!(agent.welcomed, 0);
    agent.report(1, anomaly("a")).await;
    agent.settled(1).await;
    let stored = all(site.channel().await, everything()).await;
    let expected = Anomaly { node: "gpu-1".into(), ..anomaly("a") };
    assert_eq!(stored.iter().filter_map(|message| message.anomaly.clone()).collect::<Vec<_>>(), [expected]);
}

#[tokio::test]
async fn an_agent_that_connects_again_is_told_where_it_was_and_resends_harmlessly() {
    let site = Site::new();
    let _program = site.start();
    let mut agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    agent.report(1, anomaly("a")).await;
    agent.report(2, anomaly("b")).await;
    agent.settled(2).await;
    drop(agent);

    let mut agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    assert_eq!(agent.welcomed, 2);
    for (sequence, id) in [(1, "a"), (2, "b"), (3, "c")] {
        agent.report(sequence, anomaly(id)).await;
    }
    agent.settled(3).await;
    assert_eq!(ids(&all(site.channel().await, everything()).await), ["a", "b", "c"]);
}

#[tokio::test]
async fn another_boot_and_another_node_count_for_themselves() {
    let site = Site::new();
    let _program = site.start();
    for (node, boot_id) in [("gpu-1", "one"), ("gpu-1", "two"), ("gpu-2", "one")] {
        let mut agent = Agent::connect(site.channel().await, node, boot_id).await.unwrap();
        assert_eq!(agent.welcomed, 0);
        agent.report(1, anomaly(&format!("{node}/{boot_id}"))).await;
        agent.settled(1).await;
    }
    let stored = all(site.channel().await, everything()).await;
    assert_eq!(ids(&stored), ["gpu-1/one", "gpu-1/two", "gpu-2/one"]);
}

#[tokio::test]
async fn an_agent_that_ends_its_stream_gets_its_last_acknowledgement() {
    let site = Site::new();
    let _program = site.start();
    let agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    for sequence in 1..=500 {
        agent.report(sequence, anomaly("a")).await;
    }
    assert_eq!(agent.finish().await, 500);
}

#[tokio::test]
async fn a_gap_is_logged_and_does_not_end_the_stream() {
    let site = Site::new();
    let program = site.start();
    let mut agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    agent.report(1, anomaly("a")).await;
    agent.report(5, anomaly("b")).await;
    agent.settled(5).await;
    assert_eq!(ids(&all(site.channel().await, everything()).await), ["a", "b"]);
    let output = program.output();
    assert!(output.contains("anomalies never came") && output.contains("missing=3"), "{output}");
}

#[tokio::test]
async fn heartbeats_are_welcome_at_any_time() {
    let site = Site::new();
    let _program = site.start();
    let mut agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    agent.say(Say::Heartbeat(Heartbeat::default())).await;
    agent.report(1, anomaly("a")).await;
    agent.say(Say::Heartbeat(Heartbeat { losses: u64::MAX, clients: u64::MAX, time: None })).await;
    agent.settled(1).await;
    assert_eq!(agent.finish().await, 1);
}

#[tokio::test]
async fn a_stream_that_does_not_begin_well_is_refused_with_the_reason() {
    let site = Site::new();
    let _program = site.start();
    let with = |change: fn(&mut Hello)| {
        let Say::Hello(mut good) = hello("gpu-1", "boot") else { unreachable!("hello() says hello") };
        change(&mut good);
        Some(Say::Hello(good))
    };
    let cases = [
        (Some(Say::Heartbeat(Heartbeat::default())), Code::InvalidArgument, "must be a hello"),
        (Some(Say::Anomaly(SequencedAnomaly::default())), Code::InvalidArgument, "must be a hello"),
        (None, Code::InvalidArgument, "must be a hello"),
        (with(|hello| hello.protocol_version = 2), Code::FailedPrecondition, "protocol version 2"),
        (with(|hello| hello.protocol_version = 0), Code::FailedPrecondition, "protocol version 0"),
        (with(|hello| hello.node.clear()), Code::InvalidArgument, "node"),
        (with(|hello| hello.boot_id.clear()), Code::InvalidArgument, "boot_id"),
        (with(|hello| hello.node = "n".repeat(254)), Code::InvalidArgument, "node"),
        (with(|hello| hello.boot_id = "a\nb".into()), Code::InvalidArgument, "boot_id"),
    ];
    for (first, code, reason) in cases {
        let status = refused(site.channel().await, first.clone()).await;
        assert_eq!(status.code(), code, "{first:?}: {status}");
        assert!(status.message().contains(reason), "{first:?}: {status}");
    }
}

#[tokio::test]
async fn what_cannot_be_stored_ends_the_stream_with_the_reason_and_what_came_before_is_kept() {
    let site = Site::new();
    let _program = site.start();
    let sequenced = |sequence, anomaly| Say::Anomaly(SequencedAnomaly { sequence, anomaly });
    let cases = [
        (hello("gpu-1", "boot"), Code::InvalidArgument, "one hello"),
        (sequenced(2, None), Code::InvalidArgument, "sequence 2: the anomaly itself is missing"),
        (sequenced(2, Some(Anomaly::default())), Code::InvalidArgument, "sequence 2: its id is missing"),
        (sequenced(0, Some(anomaly("a"))), Code::InvalidArgument, "start at 1"),
        (sequenced(2, Some(anomaly(&"a".repeat(1 << 20)))), Code::OutOfRange, "too large"),
    ];
    for (index, (message, code, reason)) in cases.into_iter().enumerate() {
        let boot_id = format!("boot-{index}");
        let agent = Agent::connect(site.channel().await, "gpu-1", &boot_id).await.unwrap();
        agent.report(1, anomaly(&boot_id)).await;
        agent.say(message).await;
        let status = agent.ended().await;
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(reason), "{status}");
    }
    let kept = all(site.channel().await, everything()).await;
    assert_eq!(ids(&kept), ["boot-0", "boot-1", "boot-2", "boot-3", "boot-4"]);
}

#[tokio::test]
async fn an_agent_that_reads_no_acknowledgements_is_still_taken_in() {
    let site = Site::new();
    let _program = site.start();
    let agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    for sequence in 1..=20_000 {
        assert!(agent.report(sequence, anomaly("a")).await);
    }
    assert_eq!(agent.finish().await, 20_000);
}

#[tokio::test]
async fn many_agents_at_once_are_all_taken_in() {
    let site = Site::new();
    let _program = site.start();
    let streams = (0..40).map(|number| stream(site.endpoint(), format!("gpu-{number}"), 100));
    assert_eq!(join_all(streams).await, [100; 40]);
    let stored = all(site.channel().await, everything()).await;
    let mut distinct: Vec<_> = stored
        .iter()
        .filter_map(|message| message.anomaly.as_ref())
        .map(|anomaly| (&anomaly.node, &anomaly.id))
        .collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!((stored.len(), distinct.len()), (4000, 4000));
}

#[tokio::test]
async fn two_streams_of_one_boot_at_once_store_each_sequence_once() {
    let site = Site::new();
    let _program = site.start();
    let streams = (0..2).map(|_| stream(site.endpoint(), "gpu-1".into(), 2000));
    assert_eq!(join_all(streams).await, [2000; 2]);
    let stored = all(site.channel().await, everything()).await;
    let expected: Vec<String> = (1..=2000).map(|sequence| sequence.to_string()).collect();
    assert_eq!(ids(&stored), expected);
}

/// Reports sequence numbers 1 to `count` whatever the welcome says; the last acknowledgement.
async fn stream(endpoint: Endpoint, node: String, count: u64) -> u64 {
    let agent = Agent::connect(endpoint.connect().await.unwrap(), &node, "boot").await.unwrap();
    for sequence in 1..=count {
        agent.report(sequence, anomaly(&sequence.to_string())).await;
    }
    agent.finish().await
}
