//! What the agent tells on its socket: the real API over a real unix socket, fed with exchanges.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "a test is not a library")]

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use hydrometer_agent::{
    api::{self, Api, Identity},
    cli::connect,
    config::Settings,
    mutes::Mutes,
    pipeline::{self, Handle, Pipeline},
    socket::Socket,
};
use hydrometer_engine::{Accuracy, Ending, EngineConfig, Exchange, Heads, Protocol, RoundTrips, Service};
use hydrometer_proto::v1::{
    AcknowledgeRequest, Anomaly, AnomalyKind, AnomalyState, ClientSort, GetClientRequest, GetStatusRequest,
    ListClientsRequest, ListMutesRequest, MuteRequest, UnmuteRequest, WatchAnomaliesRequest,
    WatchClientsRequest,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

const ORDINARY: &str = "203.0.113.7";
const HARVESTER: &str = "198.51.100.23";
const V6: &str = "2001:db8:77:1::/64";

/// An agent without a kernel side.
struct Served {
    agent: connect::Agent,
    pipeline: Handle,
    stop: CancellationToken,
    api: JoinHandle<anyhow::Result<()>>,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

async fn serve() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let (listener, file) = Socket::bind(&socket).unwrap().into_parts();
    let (handle, questions) = pipeline::questions();
    let stop = CancellationToken::new();
    let pipeline = Pipeline::new(None, EngineConfig::default(), "gpu-07".to_owned(), None);
    tokio::spawn(pipeline.run(questions, Duration::from_secs(1), stop.clone()));
    let identity = Identity {
        node: "gpu-07".to_owned(),
        started: pipeline::now(),
        services: vec![service()],
        ipv6_prefix: hydrometer_engine::Ipv6Prefix::default(),
        report: None,
    };
    let prefix = hydrometer_engine::Ipv6Prefix::default();
    let context = hydrometer_engine::Context::default();
    let mutes = Mutes::open(&folder.path().join("mutes.json"), &context, prefix).unwrap();
    let serving = api::serve(listener, Api::new(handle.clone(), identity, mutes), stop.clone());
    let api = tokio::spawn(async move {
        let _file = file;
        serving.await
    });
    let agent = connect::agent(&socket).await.unwrap();
    Served { agent, pipeline: handle, stop, api, socket, _folder: folder }
}

fn service() -> Service {
    Service { address: Some("10.0.0.5".parse().unwrap()), port: 8443 }
}

/// `count` exchanges of one client that end now, streamed with records of that size.
fn exchanges(client: &str, count: u64, record_median: u32) -> Vec<Exchange> {
    let now = pipeline::now();
    (0..count)
        .map(|n| Exchange {
            // Uneven, so that only the records speak.
            start: now - Duration::from_millis((count - n) * 1_500 + (n * 7 % 5) * 220),
            client: client.parse().unwrap(),
            client_port: 40_000,
            service: service(),
            flow: 1,
            request_bytes: 600 + n * 13 % 90,
            answer_bytes: u64::from(record_median) * 40,
            time_to_first_byte: Some(Duration::from_millis(20)),
            time_to_first_token: Some(Duration::from_millis(25)),
            duration: Duration::from_millis(400 + n * 31 % 200),
            records: 40,
            record_median,
            protocol: Protocol::Tls,
            accuracy: Accuracy::Exact,
            confidence: None,
            ending: Ending::Complete,
            ja4: None,
            truncated: None,
            heads: Heads::default(),
            round_trips: RoundTrips::default(),
            identity: hydrometer_engine::Identity::Direct,
        })
        .collect()
}

impl Served {
    async fn feed(&self, exchanges: Vec<Exchange>) {
        self.pipeline
            .with(move |pipeline| {
                pipeline.take(&exchanges);
                pipeline.advance(pipeline::now());
            })
            .await
            .unwrap();
    }

    /// A connection without a client on it.
    async fn channel(&self) -> tonic::transport::Channel {
        let path = self.socket.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        tonic::transport::Endpoint::from_static("http://a").connect_with_connector(connector).await.unwrap()
    }

    /// Two ordinary clients and one that asks for log-probabilities.
    async fn feed_all(&self) {
        self.feed(exchanges(ORDINARY, 20, 240)).await;
        self.feed(exchanges(V6, 5, 240)).await;
        self.feed(exchanges(HARVESTER, 12, 1_740)).await;
    }
}

#[tokio::test]
async fn clients_are_sorted_and_cut() {
    let mut served = serve().await;
    served.feed_all().await;
    let cases = [
        (ClientSort::Requests, 0, [ORDINARY, HARVESTER, V6].as_slice()),
        (ClientSort::AnswerBytes, 2, &[HARVESTER, ORDINARY]),
        (ClientSort::Address, 0, &[HARVESTER, ORDINARY, V6]),
    ];
    for (sort, limit, expected) in cases {
        let list = served.agent.list_clients(ListClientsRequest { sort: sort.into(), limit }).await.unwrap();
        let list = list.into_inner();
        let addresses: Vec<_> = list.clients.iter().map(|client| client.address.as_str()).collect();
        assert_eq!((addresses.as_slice(), list.total), (expected, 3), "{sort:?}");
    }
}

#[tokio::test]
async fn a_client_is_found_by_any_address_of_its_prefix() {
    let mut served = serve().await;
    served.feed_all().await;
    let mut ask = async |address: &str| {
        let request = GetClientRequest { address: address.to_owned() };
        served.agent.get_client(request).await.map(tonic::Response::into_inner)
    };
    let known = ask("2001:db8:77:1::abcd").await.unwrap();
    let client = known.client.unwrap();
    assert_eq!((client.address.as_str(), client.counters.unwrap().exchanges), (V6, 5));
    assert_eq!((client.windows.len(), client.rate_series.len()), (3, 60));
    assert!(
        known.exchanges.is_sorted_by_key(|exchange| {
            std::cmp::Reverse(exchange.start.map(|at| (at.seconds, at.nanos)))
        })
    );
    assert_eq!(known.exchanges.len(), 5);
    assert_eq!(ask(HARVESTER).await.unwrap().anomalies.len(), 1);
    assert_eq!(ask("192.0.2.1").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(ask("gpu-07").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_list_comes_again_and_again_and_follows_what_happens() {
    let mut served = serve().await;
    let interval = prost_types::Duration { seconds: 0, nanos: 100_000_000 };
    let request = WatchClientsRequest { interval: Some(interval), ..WatchClientsRequest::default() };
    let mut rounds = served.agent.watch_clients(request).await.unwrap().into_inner();
    let first = rounds.message().await.unwrap().unwrap();
    assert_eq!(first.clients.unwrap().total, 0);
    served.feed_all().await;
    let caught_up = async { while rounds.message().await.unwrap().unwrap().clients.unwrap().total != 3 {} };
    tokio::time::timeout(Duration::from_secs(10), caught_up).await.unwrap();

    let hasty = prost_types::Duration { seconds: 0, nanos: 99_000_000 };
    let request = WatchClientsRequest { interval: Some(hasty), ..WatchClientsRequest::default() };
    assert_eq!(served.agent.watch_clients(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn anomalies_so_far_are_told_once_in_their_newest_state_and_filtered() {
    let mut served = serve().await;
    served.feed_all().await;
    let mut count = async |request: WatchAnomaliesRequest| {
        let mut stream = served.agent.watch_anomalies(request).await.unwrap().into_inner();
        let mut found = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            found.push(message.anomaly.unwrap());
        }
        found
    };
    let all = WatchAnomaliesRequest::default();
    let found = count(all.clone()).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let anomaly = &found[0];
    assert_eq!((anomaly.kind(), anomaly.state()), (AnomalyKind::LogitHarvest, AnomalyState::Open));
    assert_eq!((anomaly.client.as_str(), anomaly.node.as_str()), (HARVESTER, "gpu-07"));
    assert_eq!(anomaly.atlas_technique, "AML.T0024.002");

    let kinds = vec![AnomalyKind::LowAndSlow.into()];
    assert!(count(WatchAnomaliesRequest { kinds, ..all.clone() }).await.is_empty());
    assert!(count(WatchAnomaliesRequest { client: ORDINARY.to_owned(), ..all.clone() }).await.is_empty());
    assert_eq!(count(WatchAnomaliesRequest { client: HARVESTER.to_owned(), ..all.clone() }).await.len(), 1);
    let later = anomaly.last_seen.map(|at| prost_types::Timestamp { seconds: at.seconds + 1, ..at });
    assert!(count(WatchAnomaliesRequest { since: later, ..all.clone() }).await.is_empty());
    assert_eq!(count(WatchAnomaliesRequest { since: anomaly.last_seen, ..all }).await.len(), 1);
}

impl Served {
    /// Everything that was found, that which is muted included or not.
    async fn anomalies(&mut self, muted: bool) -> Vec<Anomaly> {
        let request = WatchAnomaliesRequest { muted, ..WatchAnomaliesRequest::default() };
        let mut stream = self.agent.watch_anomalies(request).await.unwrap().into_inner();
        let mut found = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            found.push(message.anomaly.unwrap());
        }
        found
    }

    async fn open_and_muted(&mut self) -> (u64, u64) {
        let status = self.agent.get_status(GetStatusRequest {}).await.unwrap().into_inner();
        (status.open_anomalies, status.muted_anomalies)
    }
}

fn mute(target: &str) -> MuteRequest {
    MuteRequest {
        target: target.to_owned(),
        reason: "an evaluation of ours".to_owned(),
        by: "ann".to_owned(),
        period: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        ..MuteRequest::default()
    }
}

#[tokio::test]
async fn what_is_muted_is_counted_and_shown_apart_until_it_is_unmuted() {
    let mut served = serve().await;
    served.feed_all().await;
    assert_eq!(served.open_and_muted().await, (1, 0));
    let answer = served.agent.mute(mute("198.51.100.0/24")).await.unwrap().into_inner();
    assert_eq!(answer.mute.unwrap().target, "198.51.100.0/24");
    assert_eq!((served.open_and_muted().await, served.anomalies(false).await.len()), ((0, 1), 0));
    let muted = served.anomalies(true).await;
    let remark = muted[0].muted.as_ref().unwrap();
    assert_eq!((remark.by.as_str(), remark.reason.as_str()), ("ann", "an evaluation of ours"));
    let mutes = served.agent.list_mutes(ListMutesRequest {}).await.unwrap().into_inner().mutes;
    assert_eq!((mutes.len(), mutes[0].in_settings), (1, false));
    let kept = std::fs::read_to_string(served.socket.with_file_name("mutes.json")).unwrap();
    assert!(kept.contains("198.51.100.0/24"), "{kept}");

    let unmute = |target: &str| UnmuteRequest { target: target.to_owned(), ..UnmuteRequest::default() };
    let refused = served.agent.unmute(unmute("198.51.100.0/25")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let ended = served.agent.unmute(unmute("198.51.100.0/24")).await.unwrap().into_inner();
    assert_eq!(ended.mutes.len(), 1);
    assert_eq!(
        (served.open_and_muted().await, served.anomalies(false).await[0].muted.clone()),
        ((1, 0), None)
    );
}

#[tokio::test]
async fn a_mute_without_end_reason_or_target_is_refused() {
    let mut served = serve().await;
    for wrong in [
        MuteRequest { period: None, ..mute(HARVESTER) },
        MuteRequest { reason: " ".to_owned(), ..mute(HARVESTER) },
        MuteRequest { by: String::new(), ..mute(HARVESTER) },
        mute("gpu-07"),
    ] {
        assert_eq!(served.agent.mute(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert!(served.agent.list_mutes(ListMutesRequest {}).await.unwrap().into_inner().mutes.is_empty());
}

#[tokio::test]
async fn an_acknowledged_anomaly_carries_the_remark_and_stays_open() {
    let mut served = serve().await;
    served.feed_all().await;
    let id = served.anomalies(false).await[0].id.clone();
    let request = |id: &str| AcknowledgeRequest {
        id: id.to_owned(),
        reason: "asked them".to_owned(),
        by: "ann".to_owned(),
        period: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
    };
    let known = served.agent.acknowledge(request(&id)).await.unwrap().into_inner().anomaly.unwrap();
    assert_eq!(known.acknowledged.unwrap().reason, "asked them");
    let found = served.anomalies(false).await;
    assert!(found[0].acknowledged.is_some() && found[0].state() == AnomalyState::Updated, "{found:?}");
    let refused = served.agent.acknowledge(request("0123456789abcdef")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test]
async fn a_follower_gets_what_comes_and_the_end() {
    let mut served = serve().await;
    let request = WatchAnomaliesRequest { follow: true, ..WatchAnomaliesRequest::default() };
    let mut stream = served.agent.watch_anomalies(request).await.unwrap().into_inner();
    served.feed_all().await;
    let anomaly = stream.message().await.unwrap().unwrap().anomaly.unwrap();
    assert_eq!(anomaly.client, HARVESTER);
    served.stop.cancel();
    let ended = async { while stream.message().await.unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    drop(served.agent);
    tokio::time::timeout(Duration::from_secs(10), served.api).await.unwrap().unwrap().unwrap();
    assert!(!served.socket.exists(), "the socket goes with the agent");
}

#[tokio::test]
async fn the_status_lists_every_stage_of_loss() {
    let mut served = serve().await;
    served.feed_all().await;
    let status = served.agent.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.node.as_str(), status.clients, status.exchanges), ("gpu-07", 3, 37));
    assert_eq!((status.open_anomalies, status.services.len()), (1, 1));
    assert!(status.control_plane.is_none());
    for stage in ["engine_late", "kernel_read"] {
        assert!(status.losses.iter().any(|loss| loss.stage == stage && !loss.meaning.is_empty()), "{stage}");
    }
}

#[tokio::test]
async fn health_is_served() {
    let served = serve().await;
    let channel = served.channel().await;
    let request = tonic_health::pb::HealthCheckRequest { service: "hydrometer.v1.Agent".to_owned() };
    let answer = tonic_health::pb::health_client::HealthClient::new(channel).check(request).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);
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
        let answer = answers.message().await.unwrap().and_then(|answer| answer.message_response);
        let Some(MessageResponse::ListServicesResponse(list)) = answer else {
            panic!("not a list: {answer:?}")
        };
        list.service.into_iter().map(|service| service.name).collect::<BTreeSet<_>>()
    }};
}

#[tokio::test]
async fn reflection_of_both_versions_lists_what_is_served_and_nothing_else() {
    let served = serve().await;
    let with = |own: &str| ["hydrometer.v1.Agent", "grpc.health.v1.Health", own].map(str::to_owned).into();
    assert_eq!(listed!(v1, served.channel().await), with("grpc.reflection.v1.ServerReflection"));
    assert_eq!(listed!(v1alpha, served.channel().await), with("grpc.reflection.v1alpha.ServerReflection"));
}

#[test]
fn a_misspelt_file_ends_the_agent_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "services = [\"8000\"]\nmax_flow = 1\n").unwrap();
    assert!(Settings::read(&file).is_err());
    let run = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_hydrometer"))
            .arg("agent")
            .args(args)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(&["--check", "--config", file.to_str().unwrap()]);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.starts_with("error: ") && said.contains("agent.toml:2: max_flow"), "{said}");
    let (code, said) = run(&["--check", "--service", "x"]);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("no interface is named") && said.contains("service \"x\""), "{said}");
    assert_eq!(run(&["--max-flows", "many"]).0, Some(2));
}
