//! Listening and stopping.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, os::unix::net::UnixListener};

use rustix::process::Signal;
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    agent::{Agent, anomaly},
    program::{Site, program, refusal, text, within},
    subscriber::{everything, following, id, next, subscribe},
};

#[tokio::test]
async fn the_socket_is_for_the_owner_and_its_group_and_goes_with_the_program() {
    let site = Site::new();
    let program = site.start();
    assert_eq!(fs::metadata(site.socket()).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(fs::metadata(site.path("control.redb")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(program.stop().code(), Some(0));
    assert!(!site.socket().exists());
}

#[tokio::test]
async fn the_socket_of_a_dead_process_is_replaced() {
    let site = Site::new();
    site.start().kill();
    assert!(site.socket().exists());
    let _program = site.start();
    Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
}

#[tokio::test]
async fn the_socket_of_a_living_process_is_left_alone() {
    let site = Site::new();
    let _program = site.start();
    let listen = site.address();
    let said = refusal(&["--listen", &listen, "--store", text(&site.path("other.redb"))]);
    assert!(said.contains(&format!("another hydrometer-control is listening on {listen}")), "{said}");
    Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
}

#[test]
fn a_file_that_is_not_a_socket_is_left_alone() {
    let site = Site::new();
    fs::write(site.socket(), "precious").unwrap();
    let listen = site.address();
    let said = refusal(&["--listen", &listen, "--store", text(&site.path("control.redb"))]);
    assert!(said.contains("is not a socket"), "{said}");
    assert_eq!(fs::read_to_string(site.socket()).unwrap(), "precious");
}

#[test]
fn a_taken_port_and_a_missing_folder_are_named() {
    let site = Site::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let store = site.path("control.redb");
    let said = refusal(&["--listen", &address, "--store", text(&store)]);
    assert!(said.contains(&address), "{said}");
    let said = refusal(&["--listen", "unix:/nowhere/control.sock", "--store", text(&store)]);
    assert!(said.contains("unix:/nowhere/control.sock") && said.contains("create its folder"), "{said}");
    let said = refusal(&["--listen", "127.0.0.1:0", "--store", "/nowhere/control.redb"]);
    assert!(said.contains("/nowhere/control.redb") && said.contains("create its folder"), "{said}");
}

#[test]
fn a_store_in_use_and_a_file_that_is_no_store_are_named() {
    let site = Site::new();
    let _program = site.start();
    let store = site.path("control.redb");
    let said = refusal(&["--listen", "127.0.0.1:0", "--store", text(&store)]);
    assert!(said.contains(text(&store)) && said.contains("in use by another process"), "{said}");
    let notes = site.path("notes.txt");
    fs::write(&notes, "not a store ".repeat(1000)).unwrap();
    let said = refusal(&["--listen", "127.0.0.1:0", "--store", text(&notes)]);
    assert!(said.contains(text(&notes)) && said.contains("not a store"), "{said}");
}

#[tokio::test]
async fn several_addresses_serve_the_same_store() {
    let site = Site::new();
    let program = site.start_on(&[&site.address(), "127.0.0.1:0"], &[]);
    let port = program.listening().remove(1);
    let tcp = Endpoint::from_shared(format!("http://{port}")).unwrap().connect().await.unwrap();
    let mut stream = subscribe(tcp, following()).await.unwrap();
    let agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    agent.report(1, anomaly("a")).await;
    assert_eq!(id(&next(&mut stream).await), "a");
}

#[tokio::test]
async fn health_is_answered_to_clients_and_to_the_probe() {
    let site = Site::new();
    let program_under_probe = site.start();
    let mut client = HealthClient::new(site.channel().await);
    for service in ["", "hydrometer.v1.ControlPlane", "hydrometer.v1.Feed", "hydrometer.v1.Operations"] {
        let answer = client.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let address = site.address();
    let probe = || program().args(["health", "--address", &address]).output().unwrap();
    assert_eq!(probe().status.code(), Some(0));
    drop(client);
    program_under_probe.kill();
    let failed = probe();
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains(&address));
}

/// The names that this version of the reflection service lists on `$channel`.
macro_rules! listed {
    ($version:ident, $channel:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let request = ServerReflectionRequest {
            message_request: Some(MessageRequest::ListServices(String::new())),
            ..ServerReflectionRequest::default()
        };
        let mut client = ServerReflectionClient::new($channel);
        let mut answers =
            client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        let answer = within(answers.message()).await.unwrap().and_then(|answer| answer.message_response);
        let Some(MessageResponse::ListServicesResponse(list)) = answer else {
            panic!("not a list: {answer:?}")
        };
        list.service.into_iter().map(|service| service.name).collect::<BTreeSet<_>>()
    }};
}

#[tokio::test]
async fn reflection_of_both_versions_lists_what_is_served_and_nothing_else() {
    let site = Site::new();
    let _program = site.start();
    let served = [
        "hydrometer.v1.ControlPlane",
        "hydrometer.v1.Feed",
        "hydrometer.v1.Operations",
        "grpc.health.v1.Health",
    ];
    let with = |own| served.into_iter().chain([own]).map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(listed!(v1, site.channel().await), with("grpc.reflection.v1.ServerReflection"));
    assert_eq!(listed!(v1alpha, site.channel().await), with("grpc.reflection.v1alpha.ServerReflection"));
}

#[tokio::test]
async fn stopping_acknowledges_what_came_and_ends_every_stream_with_the_reason() {
    for signal in [Signal::TERM, Signal::INT] {
        let site = Site::new();
        let mut program = site.start();
        let mut stream = subscribe(site.channel().await, following()).await.unwrap();
        let agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
        agent.report(1, anomaly("a")).await;
        next(&mut stream).await;
        program.signal(signal);
        assert_eq!(program.wait().code(), Some(0), "{}", program.output());
        let status = within(stream.message()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let status = agent.ended().await;
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
}

#[tokio::test]
async fn a_peer_that_holds_on_does_not_keep_the_program_from_stopping() {
    let site = Site::new();
    let program = site.start();
    let mut client = HealthClient::new(site.channel().await);
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    within(watch.message()).await.unwrap();
    assert_eq!(program.stop().code(), Some(0));
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_no_harm() {
    let site = Site::new();
    let _program = site.start();
    let _silent = std::os::unix::net::UnixStream::connect(site.socket()).unwrap();
    let mut rude = std::os::unix::net::UnixStream::connect(site.socket()).unwrap();
    std::io::Write::write_all(&mut rude, &[0xff; 4096]).unwrap();
    assert!(subscribe(site.channel().await, everything()).await.is_ok());
}

#[test]
fn the_probe_names_a_socket_that_does_not_speak_grpc() {
    let site = Site::new();
    let listener = UnixListener::bind(site.socket()).unwrap();
    drop(listener);
    let said = refusal(&["health", "--address", &site.address()]);
    assert!(said.contains("no hydrometer-control answers"), "{said}");
}
