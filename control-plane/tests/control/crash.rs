//! The control plane dies, by a kill or by a full disk: nothing acknowledged is lost, nothing is there
//! twice.

use std::sync::Arc;

use hydrometer_proto::v1::{
    ReportRequest, SequencedAnomaly, SubscribeRequest, report_request::Message as Say,
    report_response::Message as Heard,
};
use tokio::sync::watch;

use crate::{
    agent::{Agent, anomaly},
    program::{Site, within},
    subscriber::{all, everything, following, id, subscribe},
};

const ANOMALIES: u64 = 20_000;
/// The program is killed when so many are acknowledged.
const KILLS: [u64; 4] = [1, 3_000, 8_000, 15_000];

#[tokio::test]
async fn every_acknowledged_anomaly_is_in_the_feed_exactly_once_whenever_the_program_is_killed() {
    let site = Arc::new(Site::new());
    let mut program = site.start();
    let (progress, mut acked) = watch::channel(0);
    let agent = tokio::spawn(stream_all(Arc::clone(&site), progress));
    let subscriber = tokio::spawn(follow_all(Arc::clone(&site)));
    for kill in KILLS {
        let acked = *within(acked.wait_for(|&acked| acked >= kill)).await.unwrap();
        program.kill();
        assert!(acked < ANOMALIES, "there is nothing left to interrupt");
        program = site.start();
    }
    within(agent).await.unwrap();
    let seen = within(subscriber).await.unwrap();

    let expected: Vec<String> = (1..=ANOMALIES).map(|sequence| sequence.to_string()).collect();
    assert!(seen == expected, "the follower saw {} of {ANOMALIES}, out of order or twice", seen.len());
    let stored = all(site.channel().await, everything()).await;
    assert!(stored.iter().map(id).eq(&expected), "{} of {ANOMALIES} are stored", stored.len());
    drop(program);
}

#[tokio::test]
async fn a_full_disk_ends_the_program_with_the_reason_and_keeps_what_was_acknowledged() {
    let site = Site::new();
    let mut program = site.start_cramped(400);
    let mut agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    let (mut acked, mut sequence) = (0, 0);
    let status = loop {
        sequence += 1;
        agent.report(sequence, anomaly(&format!("{sequence}-{}", "x".repeat(10_000)))).await;
        match agent.acked().await {
            Ok(acknowledged) => acked = acknowledged.unwrap(),
            Err(status) => break status,
        }
    };
    assert!(status.message().contains("cannot write to its store"), "{status}");
    assert_eq!(program.wait().code(), Some(1));
    let output = program.output();
    assert!(output.contains("check the disk and its free space"), "{output}");

    let _program = site.start();
    assert!(all(site.channel().await, everything()).await.len() as u64 >= acked);
    let agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    assert!(agent.welcomed >= acked && acked > 0);
}

/// An agent that connects until everything is acknowledged.
async fn stream_all(site: Arc<Site>, progress: watch::Sender<u64>) {
    while *progress.borrow() < ANOMALIES {
        let Ok(channel) = site.endpoint().connect().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let Ok(agent) = Agent::connect(channel, "gpu-1", "boot").await else { continue };
        assert!(agent.welcomed >= *progress.borrow(), "an acknowledged anomaly was lost");
        let next = agent.welcomed + 1;
        let (requests, mut responses) = agent.split();
        let sending = tokio::spawn(async move {
            for sequence in next..=ANOMALIES {
                let anomaly = Some(anomaly(&sequence.to_string()));
                let message = Some(Say::Anomaly(SequencedAnomaly { sequence, anomaly }));
                if requests.send(ReportRequest { message }).await.is_err() {
                    return;
                }
            }
        });
        while let Ok(Some(response)) = responses.message().await {
            if let Some(Heard::Ack(ack)) = response.message {
                progress.send_replace(ack.sequence);
            }
        }
        sending.abort();
    }
}

/// A subscriber that resumes until it has seen everything.
async fn follow_all(site: Arc<Site>) -> Vec<String> {
    let (mut seen, mut resume_token) = (Vec::new(), String::new());
    while seen.len() < ANOMALIES as usize {
        let Ok(channel) = site.endpoint().connect().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let request = SubscribeRequest { resume_token: resume_token.clone(), ..following() };
        let Ok(mut stream) = subscribe(channel, request).await else { continue };
        while let Ok(Some(message)) = stream.message().await {
            seen.push(id(&message).to_owned());
            resume_token = message.resume_token;
            if seen.len() == ANOMALIES as usize {
                break;
            }
        }
    }
    seen
}
