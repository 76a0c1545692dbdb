//! What is kept, and copies of it.

use std::fs;

use hydrometer_proto::v1::SubscribeRequest;

use crate::{
    agent::{Agent, anomaly},
    program::{Site, poll, program, refusal, text},
    subscriber::{all, everything, ids},
};

async fn report(site: &Site, sequences: std::ops::RangeInclusive<u64>) {
    let last = *sequences.end();
    let mut agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    for sequence in sequences {
        agent.report(sequence, anomaly(&sequence.to_string())).await;
    }
    agent.settled(last).await;
}

fn names(numbers: std::ops::RangeInclusive<u64>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn a_backup_that_is_taken_while_agents_report_is_a_store_of_its_own() {
    let (site, elsewhere) = (Site::new(), Site::new());
    let _program = site.start();
    report(&site, 1..=1000).await;
    let mut agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    let backup = elsewhere.path("control.redb");
    let output = {
        let taking =
            program().arg("backup").arg(&backup).args(["--address", &site.address()]).spawn().unwrap();
        for sequence in 1001..=2000 {
            agent.report(sequence, anomaly(&sequence.to_string())).await;
        }
        taking.wait_with_output().unwrap()
    };
    assert!(output.status.success(), "{output:?}");
    agent.settled(2000).await;
    assert!(!elsewhere.path("control.redb.part").exists());

    let _other = elsewhere.start();
    let copied = all(elsewhere.channel().await, everything()).await;
    let count = copied.len() as u64;
    assert!((1000..=2000).contains(&count), "{count}");
    assert_eq!(ids(&copied), names(1..=count));
    // A token of the original is good for the copy, as far as that goes.
    let handled = all(site.channel().await, everything()).await.remove(499).resume_token;
    let request = SubscribeRequest { resume_token: handled, ..everything() };
    assert_eq!(ids(&all(elsewhere.channel().await, request).await), names(501..=count));
    let agent = Agent::connect(elsewhere.channel().await, "gpu-1", "boot").await.unwrap();
    assert_eq!(agent.welcomed, count);
}

#[test]
fn a_backup_that_fails_leaves_the_file_that_was_there() {
    let site = Site::new();
    let file = site.path("backup.redb");
    fs::write(&file, "the last one").unwrap();
    let said = refusal(&["backup", text(&file), "--address", &site.address()]);
    assert!(said.contains("no hydrometer-control answers"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "the last one");
}

#[tokio::test]
async fn what_is_too_much_is_removed_and_readers_who_come_too_late_are_told() {
    let site = Site::new();
    let program = site.start();
    report(&site, 1..=1000).await;
    let third = all(site.channel().await, everything()).await.remove(2).resume_token;
    assert!(program.stop().success());
    // It looks when it starts.
    let program = site.start_on(&[&site.address()], &["--retain-bytes=2000".to_owned()]);
    poll("it to remove", || program.output().contains("are removed").then_some(()));
    let left = all(site.channel().await, everything()).await;
    let first = 1001 - left.len() as u64;
    assert!(left.len() > 10 && left.len() < 500, "{}", left.len());
    assert_eq!(ids(&left), names(first..=1000));
    assert_eq!(left[0].lost, []);
    let late = SubscribeRequest { resume_token: third, ..everything() };
    let told = all(site.channel().await, late).await;
    assert_eq!(ids(&told), names(first..=1000));
    let lost = &told[0].lost[0];
    assert_eq!(
        (lost.stage.as_str(), lost.count, lost.first, lost.last),
        ("retention", first - 4, 4, first - 1)
    );
    assert!(told[1..].iter().all(|message| message.lost.is_empty()));
}
