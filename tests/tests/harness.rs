//! The harness itself: it leaves nothing behind, its servers and clients are real, and its subscriber misses nothing.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use hydrometer_proto::v1::{
    Anomaly, Hello, ReportRequest, SequencedAnomaly, control_plane_client::ControlPlaneClient,
    report_request, report_response,
};
use hydrometer_tests::{
    control::Control,
    feed::Subscriber,
    net::{Network, SERVER_V4, sweep},
    nginx::Security,
    openai::{Behaviour, KeepAlive, Stream},
    process::{Process, wait_for},
    stack::{Stack, folder_prefix, sweep_folders},
};
use rustix::process::{Pid, test_kill_process};

#[test]
fn a_panic_removes_namespaces_and_the_processes_in_them() {
    let mut names = Vec::new();
    let mut pid = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let folder = tempfile::tempdir().unwrap();
        let network = Network::new().unwrap();
        names = vec![network.server().path(), network.client().path()];
        let mut command = network.server().command("sleep");
        command.arg("600");
        let process = Process::spawn("sleep", command, folder.path()).unwrap();
        pid = process.id();
        // What no guard holds any more has to go with its namespace.
        std::mem::forget(process);
        assert!(names.iter().all(|name| name.exists()));
        panic!("as a failing test does");
    }));
    assert!(outcome.is_err());
    assert!(names.iter().all(|name| !name.exists()), "{names:?}");
    // Killed, and a zombie since nobody holds it any more to wait for it.
    wait_for("the process to be killed", Duration::from_secs(10), || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Ok((state.split(' ').nth(2) == Some("Z")).then_some(()))
    })
    .unwrap();
}

#[test]
fn namespaces_of_dead_runs_are_swept() {
    let mut gone = Command::new("true").spawn().unwrap();
    let name = format!("hyd-{}-0-s", gone.id());
    gone.wait().unwrap();
    assert!(test_kill_process(Pid::from_raw(gone.id().cast_signed()).unwrap()).is_err());
    assert!(Command::new("ip").args(["netns", "add", &name]).status().unwrap().success());
    sweep().unwrap();
    assert!(!std::path::Path::new("/run/netns").join(&name).exists());
}

#[test]
fn folders_of_dead_runs_are_swept() {
    let mut gone = Command::new("true").spawn().unwrap();
    let of_dead = tempfile::Builder::new().prefix(&folder_prefix(gone.id())).tempdir().unwrap();
    let of_living = tempfile::Builder::new().prefix(&folder_prefix(std::process::id())).tempdir().unwrap();
    gone.wait().unwrap();
    sweep_folders().unwrap();
    assert!(!of_dead.path().exists());
    assert!(of_living.path().exists());
}

#[test]
fn a_thread_can_work_inside_a_namespace() {
    let network = Network::new().unwrap();
    let inside = network.server().run(|| std::net::TcpListener::bind((SERVER_V4, 0)).is_ok()).unwrap();
    assert!(inside);
    assert!(std::net::TcpListener::bind((SERVER_V4, 0)).is_err(), "the address exists outside as well");
}

/// Every security mode, both address families, pools and single connections, streamed and not: each request that a
/// client made is in the log once, with its client's address.
#[test]
fn requests_reach_the_model_and_the_access_log() {
    for (security, version) in
        [(Security::Tls13, "TLSv1.3"), (Security::Tls12, "TLSv1.2"), (Security::Plain, "")]
    {
        let stack = Stack::start(security, 4).unwrap();
        let second = stack.network.add_client().unwrap();
        let behaviour = Behaviour {
            requests: Some(6),
            concurrency: 2,
            stream: Stream::Mixed,
            top_logprobs: Some(3),
            ..Behaviour::default()
        };
        let single = Behaviour { keep_alive: KeepAlive::No, ..behaviour.clone() };
        let mut pooled = stack.client(stack.network.first_client().v4, &behaviour).unwrap();
        let mut unpooled = stack.client(second.v6, &single).unwrap();
        for client in [&mut pooled, &mut unpooled] {
            let calls = client.finish(Duration::from_mins(1)).unwrap();
            assert_eq!(calls.len(), 6);
            for call in &calls {
                assert_eq!(call.error, None);
                assert!(!call.stream || call.chunks > 2, "{call:?}");
            }
            // nginx writes a line a moment after the client has the last byte.
            let accesses = wait_for("all requests in the access log", Duration::from_secs(10), || {
                let mut accesses = stack.nginx.accesses()?;
                accesses.retain(|access| access.client == client.address());
                Ok((accesses.len() >= calls.len()).then_some(accesses))
            })
            .unwrap();
            assert_eq!(accesses.len(), calls.len());
            for access in &accesses {
                assert_eq!((access.status, access.tls_version.as_str()), (200, version));
                assert!(
                    access.request_length > 300 && access.bytes_sent > access.body_bytes_sent,
                    "{access:?}"
                );
                assert!(access.upstream_header_time.is_some(), "{access:?}");
            }
            let mut connections: Vec<u64> = accesses.iter().map(|access| access.connection).collect();
            connections.sort_unstable();
            connections.dedup();
            let pooled = client.address().is_ipv4();
            assert_eq!(connections.len() < 6, pooled, "{connections:?}");
        }
    }
}

/// A crash between two anomalies: the subscriber goes on by itself, and a new one with its token gets only what it had
/// not.
#[test]
fn a_subscriber_gets_each_anomaly_once_across_a_crash_of_the_control_plane() {
    let folder = tempfile::tempdir().unwrap();
    let network = Network::new().unwrap();
    let mut control = Control::start(network.server(), folder.path()).unwrap();
    let subscriber = Subscriber::start(control.socket(), "").unwrap();
    let wait_for_ids = |subscriber: &Subscriber, expected: &[&str]| {
        wait_for(&format!("the anomalies {expected:?}"), Duration::from_secs(10), || {
            let received = subscriber.received();
            let ids: Vec<_> =
                received.iter().filter_map(|message| Some(message.anomaly.as_ref()?.id.as_str())).collect();
            assert!(ids.len() <= expected.len(), "{ids:?}");
            Ok((ids == expected).then_some(()))
        })
        .unwrap();
    };
    report(&control, 1, "first").unwrap();
    wait_for_ids(&subscriber, &["first"]);
    let token = subscriber.token();

    control.kill().unwrap();
    control.restart(network.server()).unwrap();
    report(&control, 2, "second").unwrap();
    wait_for_ids(&subscriber, &["first", "second"]);
    subscriber.stop().unwrap();

    let successor = Subscriber::start(control.socket(), token).unwrap();
    wait_for_ids(&successor, &["second"]);
}

#[test]
fn a_refused_subscription_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let network = Network::new().unwrap();
    let control = Control::start(network.server(), folder.path()).unwrap();
    let subscriber = Subscriber::start(control.socket(), "not a token").unwrap();
    wait_for("the refusal", Duration::from_secs(10), || Ok(subscriber.has_ended().then_some(()))).unwrap();
    let error = subscriber.stop().unwrap_err();
    assert!(error.to_string().contains("refuses the subscription"), "{error:#}");
}

/// Reports one anomaly as an agent does, and waits until it is stored.
fn report(control: &Control, sequence: u64, id: &str) -> anyhow::Result<()> {
    let hello = Hello {
        node: "node".to_owned(),
        boot_id: "boot".to_owned(),
        protocol_version: 1,
        ..Hello::default()
    };
    let anomaly = Anomaly {
        id: id.to_owned(),
        kind: 1,
        state: 1,
        severity: 3,
        client: "10.0.0.1".to_owned(),
        node: "node".to_owned(),
        revision: 1,
        ..Anomaly::default()
    };
    let messages = [
        report_request::Message::Hello(hello),
        report_request::Message::Anomaly(SequencedAnomaly { sequence, anomaly: Some(anomaly) }),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (sender, receiver) = tokio::sync::mpsc::channel(messages.len());
        for message in messages {
            sender.send(ReportRequest { message: Some(message) }).await?;
        }
        let mut agent = ControlPlaneClient::connect(control.address()).await?;
        let mut answers =
            agent.report(tokio_stream::wrappers::ReceiverStream::new(receiver)).await?.into_inner();
        loop {
            let answer = answers.message().await?.context("the control plane closed the stream")?;
            if matches!(answer.message, Some(report_response::Message::Ack(ack)) if ack.sequence >= sequence)
            {
                return Ok(());
            }
        }
    })
}
