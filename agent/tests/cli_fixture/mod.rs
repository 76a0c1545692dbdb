//! A gRPC agent in this process that serves fixed data over a unix socket: what the screens are
//! drawn from. The real agent is exercised by the end-to-end tests.

use std::path::{Path, PathBuf};

use futures::stream::{self, BoxStream, StreamExt as _};
use hydrometer_agent::convert;
use hydrometer_engine::{
    Fingerprint, Nanos, Totals,
    connections::{Connections, REGISTERS},
    fingerprint::{Distribution, HOURS},
    histogram::BUCKETS,
};
use hydrometer_proto::v1::{
    Accuracy, AcknowledgeRequest, AcknowledgeResponse, Anomaly, AnomalyKind, AnomalyState, Attachment,
    Client, ClientCounters, ClientIdentity, ControlPlaneLink, Evidence, Exchange, FeatureEvidence, Flow,
    GetClientRequest, GetClientResponse, GetStatusRequest, GetStatusResponse, Head, Histogram, Impact,
    Interfaces, ListClientsRequest, ListClientsResponse, ListMutesRequest, ListMutesResponse, Loss,
    MapStatus, Memory, Mute, MuteRequest, MuteResponse, PacketCounters, ProgramStatus, Protocol, Remark,
    Series, Service, Severity, StateStatus, TableStatus, UnmuteRequest, UnmuteResponse, UnwatchedInterface,
    WatchAnomaliesRequest, WatchAnomaliesResponse, WatchClientsRequest, WatchClientsResponse, WindowFeatures,
    agent_server::{Agent, AgentServer},
};
use jiff::Timestamp;
use tokio::{net::UnixListener, sync::oneshot};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// When the fixed data was read.
pub const NOW: &str = "2026-05-04T10:00:00Z";

pub fn now() -> Timestamp {
    NOW.parse().unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "message fields are optional")]
fn before(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: now().as_second() - seconds, nanos: 250_000_000 })
}

#[expect(clippy::unnecessary_wraps, reason = "message fields are optional")]
fn millis(millis: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: i64::from(millis / 1000), nanos: millis % 1000 * 1_000_000 })
}

fn service() -> Service {
    Service { address: "10.0.0.5".to_owned(), port: 8443 }
}

/// One client in a few figures; the rest follows from them.
struct Sketch {
    address: &'static str,
    rate: f64,
    requests: u64,
    cv: Option<f64>,
    record: Option<f64>,
    seen: i64,
    anomalies: &'static [&'static str],
}

const SKETCHES: [Sketch; 5] = [
    Sketch {
        address: "203.0.113.7",
        rate: 0.4,
        requests: 812,
        cv: Some(0.94),
        record: Some(212.0),
        seen: 2,
        anomalies: &[],
    },
    Sketch {
        address: "203.0.113.66",
        rate: 5.0,
        requests: 18_004,
        cv: Some(0.02),
        record: Some(215.0),
        seen: 0,
        anomalies: &["an-cadence"],
    },
    Sketch {
        address: "198.51.100.23",
        rate: 1.2,
        requests: 2_410,
        cv: Some(0.71),
        record: Some(1_480.0),
        seen: 1,
        anomalies: &["an-logit"],
    },
    Sketch {
        address: "2001:db8:77:1::/64",
        rate: 0.05,
        requests: 31,
        cv: Some(1.12),
        record: Some(208.0),
        seen: 41,
        anomalies: &[],
    },
    Sketch {
        address: "192.0.2.14",
        rate: 0.0,
        requests: 2,
        cv: None,
        record: None,
        seen: 540,
        anomalies: &[],
    },
];

fn client(sketch: &Sketch) -> Client {
    let window = |seconds: i64| WindowFeatures {
        window: Some(prost_types::Duration { seconds, nanos: 0 }),
        requests: (sketch.rate * seconds as f64) as u64,
        request_rate: sketch.rate,
        request_bytes_rate: sketch.rate * 640.0,
        answer_bytes_rate: sketch.rate * 21_000.0,
        concurrency: sketch.rate * 0.8,
        interarrival_cv: sketch.cv,
        interarrival_median_s: sketch.cv.map(|_| 1.0 / sketch.rate),
        interarrival_mad_s: sketch.cv.map(|cv| cv / sketch.rate),
        request_size_entropy_bits: 2.25,
        server_record_median_bytes: sketch.record,
        request_bytes_median: sketch.record.map(|_| 640.0),
        answer_bytes_median: sketch.record.map(|record| record * 98.0),
    };
    let histogram = |unit: &str, lower_bound: f64, counts: &[u64]| {
        Some(Histogram { counts: counts.to_vec(), lower_bound, unit: unit.to_owned() })
    };
    let third = sketch.requests / 3;
    Client {
        address: sketch.address.to_owned(),
        first_seen: before(7_200),
        last_seen: before(sketch.seen),
        counters: Some(ClientCounters {
            ingress_packets: sketch.requests * 4,
            ingress_bytes: sketch.requests * 1_100,
            egress_packets: sketch.requests * 30,
            egress_bytes: sketch.requests * 24_000,
            syns: sketch.requests / 10 + 1,
            connections: sketch.requests / 10 + 1,
            requests: sketch.requests,
            exchanges: sketch.requests - 1,
            request_bytes: sketch.requests * 640,
            answer_bytes: sketch.requests * 21_000,
        }),
        windows: [10, 60, 600].map(window).to_vec(),
        request_sizes: histogram("bytes", 64.0, &[0, 0, third, third * 2, 1, 0]),
        answer_sizes: histogram("bytes", 256.0, &[0, 1, third, sketch.requests, third, 4, 0]),
        interarrival: histogram("ms", 1.0, &[0, 0, 0, 0, 0, 0, 3, sketch.requests, 12, 0]),
        services: vec![service()],
        protocols: vec![Protocol::Tls.into()],
        accuracy: Accuracy::Exact.into(),
        open_anomalies: sketch.anomalies.iter().map(ToString::to_string).collect(),
        rate_series: (0..60).map(|step| sketch.rate * f64::from(step % 7) / 6.0).collect(),
        ja4: vec![],
        identity: ClientIdentity::Direct.into(),
    }
}

pub fn clients() -> ListClientsResponse {
    ListClientsResponse {
        clients: SKETCHES.iter().map(client).collect(),
        total: SKETCHES.len() as u64,
        time: before(0),
    }
}

pub fn anomalies() -> Vec<Anomaly> {
    let feature =
        |feature: &str, value, baseline, unit: &str, compared_with: &str, deviation| FeatureEvidence {
            feature: feature.to_owned(),
            value,
            baseline,
            unit: unit.to_owned(),
            compared_with: compared_with.to_owned(),
            deviation,
        };
    let anomaly =
        |id: &str, kind: AnomalyKind, state: AnomalyState, severity: Severity, client: &str| Anomaly {
            id: id.to_owned(),
            kind: kind.into(),
            state: state.into(),
            severity: severity.into(),
            score: 0.97,
            client: client.to_owned(),
            first_seen: before(600),
            last_seen: before(5),
            raised: before(300),
            node: "gpu-07".to_owned(),
            revision: 3,
            ..Anomaly::default()
        };
    vec![
        Anomaly {
            campaign_id: "an-campaign".to_owned(),
            impact: Some(Impact {
                request_tokens: 427_000,
                answer_tokens: 1_930_000,
                cost: Some(30.231),
                currency: "USD".to_owned(),
            }),
            benign_if: "it is a scheduler that somebody at the client's runs".to_owned(),
            atlas_technique: "AML.T0005.001".to_owned(),
            atlas_technique_name: "Train Proxy via Replication".to_owned(),
            evidence: Some(Evidence {
                summary: "3,000 requests at intervals of 0.200 s that vary by 2 %".to_owned(),
                features: vec![feature("interarrival_cv", 0.02, 0.12, "1", "limit", -5.8)],
                series: vec![Series {
                    feature: "request_rate".to_owned(),
                    unit: "1/s".to_owned(),
                    start: before(60),
                    step_seconds: 10.0,
                    values: vec![5.0, 5.0, 4.9, 5.0, 5.1, 5.0],
                }],
                exchanges: 3_000,
            }),
            ..anomaly(
                "an-cadence",
                AnomalyKind::LowAndSlow,
                AnomalyState::Updated,
                Severity::High,
                "203.0.113.66",
            )
        },
        Anomaly {
            atlas_technique: "AML.T0024.002".to_owned(),
            atlas_technique_name: "Extract AI Model".to_owned(),
            evidence: Some(Evidence {
                summary: "streamed answer records of 1480 bytes where 212 are usual\x1b[31m".to_owned(),
                features: vec![feature("server_record_median", 1_480.0, 212.0, "bytes", "service", 31.0)],
                series: vec![],
                exchanges: 640,
            }),
            acknowledged: Some(remark("ann", "asked the customer")),
            ..anomaly(
                "an-logit",
                AnomalyKind::LogitHarvest,
                AnomalyState::Open,
                Severity::Critical,
                "198.51.100.23",
            )
        },
        Anomaly {
            atlas_technique: "AML.T0040".to_owned(),
            atlas_technique_name: "AI Model Inference API Access".to_owned(),
            evidence: Some(Evidence {
                summary: "9.0 requests per second where 0.4 are usual".to_owned(),
                features: vec![feature("request_rate", 9.0, 0.4, "1/s", "own", 14.2)],
                series: vec![],
                exchanges: 540,
            }),
            muted: Some(remark("ann", "load test of release 9")),
            ..anomaly("an-rate", AnomalyKind::Flood, AnomalyState::Closed, Severity::Medium, "203.0.113.7")
        },
    ]
}

pub fn detail(address: &str) -> Option<GetClientResponse> {
    let client = clients().clients.into_iter().find(|client| client.address == address)?;
    let flow = |port, requests, in_progress| Flow {
        client_address: address.to_owned(),
        client_port: port,
        service: Some(service()),
        protocol: Protocol::Tls.into(),
        first_seen: before(620),
        last_seen: before(1),
        requests,
        request_bytes: requests * 640,
        answer_bytes: requests * 21_000,
        in_progress,
        accuracy: Accuracy::Exact.into(),
        confidence: None,
    };
    let exchange = |ago, aborted| Exchange {
        start: before(ago),
        client_address: address.to_owned(),
        client_port: 40_112,
        service: Some(service()),
        request_bytes: 640,
        answer_bytes: 21_070,
        time_to_first_byte: millis(38),
        time_to_first_token: millis(45),
        duration: millis(1_840),
        records: 98,
        record_median_bytes: 215,
        protocol: Protocol::Tls.into(),
        accuracy: Accuracy::Exact.into(),
        aborted,
        truncated: (!aborted).then_some(true),
        request_head: Some(Head { bytes: 212, accuracy: Accuracy::Derived.into() }),
        answer_head: None,
        confidence: None,
        client_identity: ClientIdentity::Direct.into(),
        tcp_round_trip: millis(12),
        tls_round_trip: millis(13),
    };
    Some(GetClientResponse {
        client: Some(client),
        flows: vec![flow(40_112, 1_204, true), flow(40_118, 33, false)],
        exchanges: vec![exchange(1, false), exchange(3, true)],
        anomalies: anomalies().into_iter().filter(|anomaly| anomaly.client == address).collect(),
        fingerprint: Some(convert::fingerprint(&fingerprint(
            if address == "203.0.113.66" { 640 } else { 6400 },
            18_000,
        ))),
    })
}

/// Of a client that asks five times a second.
pub fn fingerprint(request_bytes: u64, requests: u32) -> Fingerprint {
    let mut fingerprint = Fingerprint::new(Nanos(1_777_881_600_000_000_000));
    fingerprint.last_seen = Nanos(1_777_888_800_000_000_000);
    fingerprint.totals = Totals {
        requests: requests.into(),
        request_bytes: request_bytes * u64::from(requests),
        answer_bytes: 21_000 * u64::from(requests),
        aborted: 1,
    };
    (fingerprint.busy_us, fingerprint.asking_us) = (28_800_000_000, 7_200_000_000);
    let mut hours = [0; HOURS];
    (hours[8], hours[9]) = (requests / 2, requests / 2);
    fingerprint.set_hours(&hours);
    let mut registers = [0; REGISTERS];
    registers[..12].fill(1);
    fingerprint.connections = Connections::from(registers);
    let counts = |bucket: usize| {
        let mut counts = [0; BUCKETS];
        (counts[bucket], counts[bucket + 1]) = (requests - 1, 1);
        hydrometer_engine::histogram::Histogram::from(counts)
    };
    for (which, bucket) in Distribution::ALL.into_iter().zip([7, 3, 8, 9, 1, 5, 10]) {
        fingerprint.set_histogram(which, &counts(bucket));
    }
    let sizes = counts(request_bytes.ilog2() as usize - 6);
    fingerprint.set_histogram(Distribution::RequestSizes, &sizes);
    fingerprint
}

/// A healthy agent.
pub fn status() -> GetStatusResponse {
    let loss =
        |stage: &str, meaning: &str| Loss { stage: stage.to_owned(), count: 0, meaning: meaning.to_owned() };
    let attachment = |direction: &str, mode: &str, note: &str| Attachment {
        interface: "eth0".to_owned(),
        direction: direction.to_owned(),
        mode: mode.to_owned(),
        note: note.to_owned(),
    };
    GetStatusResponse {
        node: "gpu-07".to_owned(),
        version: "0.1.0".to_owned(),
        started: before(7_325),
        kernel: "6.12.8".to_owned(),
        attachments: vec![
            attachment("ingress", "tcx", "XDP is taken by program cil_xdp_entry (id 97)"),
            attachment("egress", "tcx", ""),
        ],
        state: Some(StateStatus {
            path: "/var/lib/hydrometer/engine.state".to_owned(),
            saved: before(130),
            bytes: 12_345_678,
            resumed: true,
        }),
        interfaces: Some(Interfaces {
            include: vec!["/eth.*/".to_owned(), "10.0.0.0/8".to_owned()],
            exclude: vec!["eth7".to_owned()],
            unwatched: vec![UnwatchedInterface {
                interface: "eth0.42".to_owned(),
                reason: "its packets are seen at eth0".to_owned(),
            }],
            appeared: 3,
            vanished: 2,
        }),
        services: vec![service()],
        maps: vec![
            MapStatus {
                name: "CLIENTS".to_owned(),
                entries: Some(5),
                capacity: 262_144,
                memory_bytes: 201_326_592,
            },
            MapStatus {
                name: "FLOWS_V4".to_owned(),
                entries: Some(125_001),
                capacity: 131_072,
                memory_bytes: 33_554_432,
            },
            MapStatus {
                name: "EVENTS".to_owned(),
                entries: None,
                capacity: 8_388_608,
                memory_bytes: 8_392_704,
            },
        ],
        memory: Some(Memory {
            maps_bytes: 243_269_632,
            process_bytes: Some(12_582_912),
            tables: vec![TableStatus {
                name: "flows".to_owned(),
                entries: 120_331,
                capacity: 131_072,
                memory_bytes: 3_932_184,
            }],
        }),
        losses: vec![
            loss("ring_full", "exchange records did not fit into the ring buffer; enlarge it"),
            loss("flow_insert", "flows could not be tracked; enlarge the flow map"),
            loss("parse_ip_truncated", "packets ended inside their IP header"),
        ],
        packets: Some(PacketCounters { ingress_watched: 84_901, egress_watched: 637_000, syns: 412 }),
        control_plane: Some(ControlPlaneLink {
            address: "https://hydrometer.example:7443".to_owned(),
            connected: true,
            last_error: String::new(),
            last_sequence: 12,
            acked_sequence: 12,
            pending: 0,
            connects: 1,
        }),
        clients: 5,
        open_anomalies: 2,
        muted_anomalies: 1,
        programs: vec![
            ProgramStatus {
                name: "ingress".to_owned(),
                id: 41,
                verified_instructions: 18_233,
                jited_bytes: 5_120,
            },
            ProgramStatus {
                name: "egress".to_owned(),
                id: 42,
                verified_instructions: 21_904,
                jited_bytes: 6_044,
            },
        ],
        exchanges: 21_254,
    }
}

/// The same agent, losing records and without its control plane.
pub fn status_with_losses() -> GetStatusResponse {
    let mut status = status();
    status.losses[0].count = 1_204;
    status.control_plane = status.control_plane.map(|link| ControlPlaneLink {
        connected: false,
        last_error: "connection refused".to_owned(),
        acked_sequence: 9,
        pending: 3,
        ..link
    });
    status
}

struct Fixed;

#[tonic::async_trait]
impl Agent for Fixed {
    type WatchClientsStream = BoxStream<'static, Result<WatchClientsResponse, Status>>;
    type WatchAnomaliesStream = BoxStream<'static, Result<WatchAnomaliesResponse, Status>>;

    async fn list_clients(
        &self,
        request: Request<ListClientsRequest>,
    ) -> Result<Response<ListClientsResponse>, Status> {
        let mut list = clients();
        list.clients.truncate(request.get_ref().limit as usize);
        Ok(Response::new(list))
    }

    async fn get_client(
        &self,
        request: Request<GetClientRequest>,
    ) -> Result<Response<GetClientResponse>, Status> {
        let address = &request.get_ref().address;
        detail(address).map(Response::new).ok_or_else(|| Status::not_found(format!("{address} is not known")))
    }

    async fn watch_clients(
        &self,
        _request: Request<WatchClientsRequest>,
    ) -> Result<Response<Self::WatchClientsStream>, Status> {
        let first = WatchClientsResponse { clients: Some(clients()), open_anomalies: 2 };
        Ok(Response::new(stream::iter([Ok(first)]).chain(stream::pending()).boxed()))
    }

    async fn watch_anomalies(
        &self,
        request: Request<WatchAnomaliesRequest>,
    ) -> Result<Response<Self::WatchAnomaliesStream>, Status> {
        let request = request.into_inner();
        let is_asked = move |anomaly: &Anomaly| {
            (request.kinds.is_empty() || request.kinds.contains(&anomaly.kind))
                && anomaly.severity >= request.min_severity
                && (request.client.is_empty() || request.client == anomaly.client)
        };
        let so_far = stream::iter(anomalies().into_iter().filter(is_asked))
            .map(|anomaly| Ok(WatchAnomaliesResponse { anomaly: Some(anomaly) }));
        let stream = if request.follow { so_far.chain(stream::pending()).boxed() } else { so_far.boxed() };
        Ok(Response::new(stream))
    }

    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(status()))
    }

    async fn mute(&self, request: Request<MuteRequest>) -> Result<Response<MuteResponse>, Status> {
        let MuteRequest { target, kind, reason, by, period } = request.into_inner();
        let until = period.map(|period| prost_types::Timestamp {
            seconds: now().as_second() + period.seconds,
            nanos: period.nanos,
        });
        let remark = Remark { by, reason, at: before(0), until };
        let mute = Mute { target, kind, remark: Some(remark), in_settings: false };
        Ok(Response::new(MuteResponse { mute: Some(mute) }))
    }

    async fn unmute(&self, request: Request<UnmuteRequest>) -> Result<Response<UnmuteResponse>, Status> {
        let mut mutes = mutes();
        mutes.retain(|mute| mute.target == request.get_ref().target);
        Ok(Response::new(UnmuteResponse { mutes }))
    }

    async fn list_mutes(
        &self,
        _request: Request<ListMutesRequest>,
    ) -> Result<Response<ListMutesResponse>, Status> {
        Ok(Response::new(ListMutesResponse { mutes: mutes() }))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        let AcknowledgeRequest { id, reason, by, .. } = request.into_inner();
        let anomaly = anomalies().into_iter().find(|anomaly| anomaly.id == id);
        let anomaly = anomaly.ok_or_else(|| Status::not_found(format!("no anomaly {id} is open here")))?;
        let remark = Remark { by, reason, at: before(0), until: before(-3_600) };
        Ok(Response::new(AcknowledgeResponse {
            anomaly: Some(Anomaly { acknowledged: Some(remark), ..anomaly }),
        }))
    }
}

fn remark(by: &str, reason: &str) -> Remark {
    Remark { by: by.to_owned(), reason: reason.to_owned(), at: before(60), until: before(-86_400) }
}

pub fn mutes() -> Vec<Mute> {
    vec![
        Mute {
            target: "203.0.113.0/24".to_owned(),
            kind: AnomalyKind::Flood.into(),
            remark: Some(remark("ann", "load test of release 9\x1b[31m")),
            in_settings: false,
        },
        Mute {
            target: "198.51.100.7".to_owned(),
            remark: Some(Remark { at: None, ..remark("the settings", "our own monitor") }),
            in_settings: true,
            ..Mute::default()
        },
    ]
}

/// A served socket; dropping it stops the agent at once, its streams included.
pub struct Served {
    socket: PathBuf,
    _folder: tempfile::TempDir,
    _stop: oneshot::Sender<()>,
}

impl Served {
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// Serves the fixed data until the guard is dropped; on a thread of its own, so that tests may wait
/// for a child process meanwhile.
pub fn serve() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let path = socket.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let incoming = UnixListenerStream::new(UnixListener::bind(path).unwrap());
            ready.send(()).unwrap();
            tokio::select! {
                served = Server::builder().add_service(AgentServer::new(Fixed)).serve_with_incoming(incoming) => {
                    served.unwrap();
                }
                _ = stopped => {}
            }
        });
    });
    is_ready.recv().unwrap();
    Served { socket, _folder: folder, _stop: stop }
}
