//! The JSON that `-o json` prints: a stable schema, apart from the gRPC messages.
//!
//! In flow messages, out flow serialisable values. Invariants: names are snake case and end in their
//! unit (`_bytes`, `_s`, `_ms`, `_per_s`; a bare count has none); instants are RFC 3339 in UTC; a
//! figure that is not there is `null`; fields are added, never renamed or removed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

mod convert;

/// `clients -o json`: `{"time", "total", "clients": […]}`.
#[derive(Debug, Serialize)]
pub struct Clients {
    /// When the agent read them.
    pub time: Option<Timestamp>,
    /// Clients known, before the limit.
    pub total: u64,
    /// In the order asked for.
    pub clients: Vec<Client>,
}

/// One client.
#[derive(Debug, Serialize)]
pub struct Client {
    /// IPv4 address, IPv6 prefix, or `key:` and a keyed hash.
    pub address: String,
    /// `direct`, `proxy` or `forwarded`.
    pub client_identity: String,
    /// First packet.
    pub first_seen: Option<Timestamp>,
    /// Last packet.
    pub last_seen: Option<Timestamp>,
    /// `exact`, `derived` or `estimated`: the worst of its flows.
    pub accuracy: String,
    /// `http1`, `tls`, …
    pub protocols: Vec<String>,
    /// Services it used.
    pub services: Vec<Service>,
    /// JA4 fingerprints; empty when not measured.
    pub ja4: Vec<String>,
    /// Identifiers of open anomalies.
    pub open_anomalies: Vec<String>,
    /// Exact counters since first seen.
    pub counters: Option<Counters>,
    /// Features per window, shortest first.
    pub windows: Vec<Window>,
    /// Sizes of requests.
    pub request_sizes: Option<Histogram>,
    /// Sizes of answers.
    pub answer_sizes: Option<Histogram>,
    /// Time between requests.
    pub interarrival: Option<Histogram>,
    /// Requests per second over spans of 10 s, oldest first.
    pub rate_series_per_s: Vec<f64>,
}

/// A watched address and port; the address is empty when the port is watched on any.
#[derive(Debug, Serialize)]
pub struct Service {
    /// Address.
    pub address: String,
    /// Port.
    pub port: u32,
}

/// Counters since the client was first seen.
#[derive(Debug, Serialize)]
pub struct Counters {
    /// Packets from the client.
    pub ingress_packets: u64,
    /// IP bytes from the client.
    pub ingress_ip_bytes: u64,
    /// Packets to the client.
    pub egress_packets: u64,
    /// IP bytes to the client.
    pub egress_ip_bytes: u64,
    /// TCP SYNs.
    pub syns: u64,
    /// Connections with data.
    pub connections: u64,
    /// Requests that began.
    pub requests: u64,
    /// Exchanges that ended.
    pub exchanges: u64,
    /// Application bytes asked.
    pub request_bytes: u64,
    /// Application bytes answered.
    pub answer_bytes: u64,
}

/// Features over one window.
#[derive(Debug, Serialize)]
pub struct Window {
    /// Length of the window.
    pub window_s: f64,
    /// Requests that began in it.
    pub requests: u64,
    /// Their rate.
    pub requests_per_s: f64,
    /// Application bytes asked.
    pub request_bytes_per_s: f64,
    /// Application bytes answered.
    pub answer_bytes_per_s: f64,
    /// Mean number of requests in progress.
    pub concurrency: f64,
    /// 0 is a metronome, 1 is random.
    pub interarrival_cv: Option<f64>,
    /// Median time between requests.
    pub interarrival_median_s: Option<f64>,
    /// Its median absolute deviation.
    pub interarrival_mad_s: Option<f64>,
    /// Entropy of the request-size histogram.
    pub request_size_entropy_bits: f64,
    /// Median request.
    pub request_median_bytes: Option<f64>,
    /// Median answer.
    pub answer_median_bytes: Option<f64>,
    /// Median server record of streamed answers.
    pub server_record_median_bytes: Option<f64>,
}

/// Counts by power-of-two bucket.
#[derive(Debug, Serialize)]
pub struct Histogram {
    /// `bytes`, `ms`, or `1` for one number to another.
    pub unit: String,
    /// Where bucket 0 begins; each bucket is twice as wide as the one before.
    pub lower_bound: f64,
    /// Counts by bucket.
    pub counts: Vec<u64>,
}

/// `client ADDR -o json`.
#[derive(Debug, Serialize)]
pub struct ClientInDepth {
    /// The client.
    pub client: Option<Client>,
    /// Live flows, most recent first.
    pub flows: Vec<Flow>,
    /// Last exchanges, most recent first.
    pub exchanges: Vec<Exchange>,
    /// Its anomalies, most recent first.
    pub anomalies: Vec<Anomaly>,
    /// What its traffic looks like, since it was first seen.
    pub fingerprint: Option<Fingerprint>,
    /// How unlike it is to those that it was compared with (`--with`).
    pub compared: Option<Compared>,
}

/// What a client's traffic looks like.
#[derive(Debug, Serialize)]
pub struct Fingerprint {
    /// Start of the first exchange.
    pub first_seen: Option<Timestamp>,
    /// End of the last exchange.
    pub last_seen: Option<Timestamp>,
    /// Finished exchanges.
    pub requests: u64,
    /// Application bytes asked.
    pub request_bytes: u64,
    /// Application bytes answered.
    pub answer_bytes: u64,
    /// Exchanges that were cut short.
    pub aborted: u64,
    /// Mean number of requests in progress while it asks; pauses of more than five minutes are left out.
    pub concurrency: Option<f64>,
    /// Connections, estimated.
    pub connections: f64,
    /// Requests on each of them.
    pub requests_per_connection: Option<f64>,
    /// Requests that began in each hour of the day, UTC.
    pub hours: Vec<u32>,
    /// Values by figure, most by powers of two.
    pub distributions: BTreeMap<&'static str, Histogram>,
    /// Services it used.
    pub services: Vec<Service>,
    /// JA4 fingerprints.
    pub ja4: Vec<String>,
}

/// How unlike two fingerprints are.
#[derive(Debug, Serialize)]
pub struct Compared {
    /// The other clients, taken together.
    pub with: Vec<String>,
    /// Mean of the Jensen-Shannon distances, 0 (the same shares) to 1 (nothing in common).
    pub distance: f64,
    /// The distance of each figure that both have.
    pub distances: BTreeMap<&'static str, f64>,
}

/// One connection.
#[derive(Debug, Serialize)]
pub struct Flow {
    /// Client port.
    pub client_port: u32,
    /// Service it talks to.
    pub service: Option<Service>,
    /// What it speaks.
    pub protocol: String,
    /// Accuracy of its figures.
    pub accuracy: String,
    /// How far an estimate is to be believed, from 0 to 1; not there where nothing is estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
    /// First packet.
    pub first_seen: Option<Timestamp>,
    /// Last packet.
    pub last_seen: Option<Timestamp>,
    /// Requests that began on it.
    pub requests: u64,
    /// Application bytes asked.
    pub request_bytes: u64,
    /// Application bytes answered.
    pub answer_bytes: u64,
    /// Whether an answer is outstanding.
    pub in_progress: bool,
}

/// One question and its answer.
#[derive(Debug, Serialize)]
pub struct Exchange {
    /// First byte of the request.
    pub start: Option<Timestamp>,
    /// `direct`, `proxy` or `forwarded`.
    pub client_identity: String,
    /// Client port.
    pub client_port: u32,
    /// Service asked.
    pub service: Option<Service>,
    /// Application bytes of the request.
    pub request_bytes: u64,
    /// Application bytes of the answer.
    pub answer_bytes: u64,
    /// Of those of the request, its head's.
    pub request_head_bytes: Option<u32>,
    /// How that is known.
    pub request_head_accuracy: Option<String>,
    /// Of those of the answer, its head's.
    pub answer_head_bytes: Option<u32>,
    /// How that is known.
    pub answer_head_accuracy: Option<String>,
    /// To the first answer record.
    pub ttfb_ms: Option<f64>,
    /// To the second answer record.
    pub ttft_ms: Option<f64>,
    /// To the last answer byte.
    pub duration_ms: Option<f64>,
    /// Server records of the answer.
    pub records: u32,
    /// Their median.
    pub record_median_bytes: u32,
    /// What the flow spoke.
    pub protocol: String,
    /// Accuracy of these figures.
    pub accuracy: String,
    /// How far an estimate is to be believed, from 0 to 1; not there where nothing is estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
    /// Cut short.
    pub aborted: bool,
    /// Whether a cap ended the answer, as far as the client's other answers tell.
    pub truncated: Option<bool>,
    /// SYN-ACK to the acknowledgement that completes the TCP handshake.
    pub tcp_rtt_ms: Option<f64>,
    /// The server's part of the TLS handshake to the client's answer.
    pub tls_rtt_ms: Option<f64>,
}

/// A client that belongs to a campaign.
#[derive(Debug, Serialize)]
pub struct Member {
    /// Who.
    pub client: String,
    /// Why, one sentence.
    pub reason: String,
    /// Identifiers of its open anomalies.
    pub anomalies: Vec<String>,
}

/// One anomaly in one state: a line of `anomalies -o json`.
#[derive(Debug, Serialize)]
pub struct Anomaly {
    /// The same through open, updated and closed.
    pub id: String,
    /// Rises with every change.
    pub revision: u32,
    /// `open`, `updated` or `closed`.
    pub state: String,
    /// Which detector.
    pub kind: String,
    /// `low` to `critical`.
    pub severity: String,
    /// 0 to 1.
    pub score: f64,
    /// MITRE ATLAS technique.
    pub atlas_technique: String,
    /// Its name.
    pub atlas_technique_name: String,
    /// The client; of a campaign, the member by whom it was found.
    pub client: String,
    /// Who belongs to the campaign, and why; left out for an anomaly of one client.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// Node that raised it.
    pub node: String,
    /// When the behaviour began.
    pub first_seen: Option<Timestamp>,
    /// When it was last seen.
    pub last_seen: Option<Timestamp>,
    /// When it was raised.
    pub raised: Option<Timestamp>,
    /// One sentence.
    pub summary: String,
    /// What would have to be true for it to be harmless.
    pub benign_if: String,
    /// Exchanges it rests on.
    pub exchanges: u64,
    /// Features that decided.
    pub features: Vec<Feature>,
    /// Series behind them.
    pub series: Vec<Series>,
    /// That it is not to be raised; `null` when nobody has said so.
    pub muted: Option<Remark>,
    /// That it is known; `null` when nobody has said so.
    pub acknowledged: Option<Remark>,
    /// What was taken since it began; `null` from agents that do not say.
    pub impact: Option<Impact>,
    /// The campaign that the client belongs to, or last belonged to; `null` when there is none.
    pub campaign_id: Option<String>,
    /// Of a campaign: the one that most of those who founded it had left; `null` when there is none.
    pub split_from: Option<String>,
    /// Of a closed campaign: the one that has taken in its members; `null` when they stopped or left.
    pub merged_into: Option<String>,
}

/// Estimated tokens, and their price.
#[derive(Debug, Serialize)]
pub struct Impact {
    /// Asked.
    pub request_tokens: u64,
    /// Answered.
    pub answer_tokens: u64,
    /// In `currency`; `null` where there is none.
    pub cost: Option<f64>,
    /// Of the price; empty where the settings name none.
    pub currency: String,
}

/// What somebody has said about anomalies.
#[derive(Debug, Serialize)]
pub struct Remark {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it was said; `null` when it stands in the agent's settings.
    pub at: Option<Timestamp>,
    /// From then on it no longer holds.
    pub until: Option<Timestamp>,
}

/// One mute: `mutes -o json` has a list of them.
#[derive(Debug, Serialize)]
pub struct Mute {
    /// A client, a network, a TLS stack, or the identifier of an anomaly.
    pub target: String,
    /// Only this kind; `null` for every kind.
    pub kind: Option<String>,
    /// Who says so, why, and until when.
    pub remark: Option<Remark>,
    /// Whether it stands in the agent's settings.
    pub in_settings: bool,
}

/// A feature that decided; value and baseline are in `unit`.
#[derive(Debug, Serialize)]
pub struct Feature {
    /// Name.
    pub feature: String,
    /// For this client.
    pub value: f64,
    /// What is usual, or the limit.
    pub baseline: f64,
    /// Of both.
    pub unit: String,
    /// `own`, `population`, `service`, `limit` or `contract`.
    pub compared_with: String,
    /// Robust standard deviations from the baseline.
    pub deviation: f64,
}

/// A value over time, in `unit`.
#[derive(Debug, Serialize)]
pub struct Series {
    /// Name.
    pub feature: String,
    /// Of the values.
    pub unit: String,
    /// Start of the first point.
    pub start: Option<Timestamp>,
    /// Between points.
    pub step_s: f64,
    /// Oldest first.
    pub values: Vec<f64>,
}

/// `status -o json`.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Name of the node.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Kernel release.
    pub kernel: String,
    /// When the agent started.
    pub started: Option<Timestamp>,
    /// Count by stage; a stage without a loss has 0.
    pub losses: BTreeMap<String, u64>,
    /// Where the programs are attached.
    pub attachments: Vec<Attachment>,
    /// Which interfaces are asked for, and what became of that.
    pub interfaces: Option<Interfaces>,
    /// Programs loaded.
    pub programs: Vec<Program>,
    /// Kernel maps.
    pub maps: Vec<Map>,
    /// Memory of the maps and of the agent.
    pub memory: Option<Memory>,
    /// Services watched.
    pub services: Vec<Service>,
    /// Packets since start.
    pub packets: Option<Packets>,
    /// The link to the control plane; `null` when none is configured.
    pub control_plane: Option<ControlPlane>,
    /// What the agent remembers across restarts.
    pub state: Option<State>,
    /// Clients known.
    pub clients: u64,
    /// Anomalies open, those that are muted left out.
    pub open_anomalies: u64,
    /// Anomalies open and muted.
    pub muted_anomalies: u64,
    /// Exchanges since start.
    pub exchanges: u64,
}

/// One program on one interface.
#[derive(Debug, Serialize)]
pub struct Attachment {
    /// Interface.
    pub interface: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `xdp-native`, `tcx`, …
    pub mode: String,
    /// Why not in the first choice of mode or place; empty when it is.
    pub note: String,
}

/// Which interfaces are asked for, and what became of that.
#[derive(Debug, Serialize)]
pub struct Interfaces {
    /// Interfaces to watch: names, /regular expressions/ and networks.
    pub include: Vec<String>,
    /// Interfaces that are left out, likewise.
    pub exclude: Vec<String>,
    /// Interfaces that are asked for and not watched.
    pub unwatched: Vec<UnwatchedInterface>,
    /// Interfaces that came after the start and were attached to.
    pub appeared: u64,
    /// Interfaces that were watched and have gone since.
    pub vanished: u64,
}

/// One interface that is asked for and not watched.
#[derive(Debug, Serialize)]
pub struct UnwatchedInterface {
    /// Interface.
    pub interface: String,
    /// Why not.
    pub reason: String,
}

/// One loaded program.
#[derive(Debug, Serialize)]
pub struct Program {
    /// Name.
    pub name: String,
    /// Kernel id.
    pub id: u32,
    /// Instructions the verifier processed.
    pub verified_instructions: u32,
    /// Machine code.
    pub jited_bytes: u32,
}

/// One kernel map.
#[derive(Debug, Serialize)]
pub struct Map {
    /// Name.
    pub name: String,
    /// Entries in it, where it can be told.
    pub entries: Option<u64>,
    /// Entries it can hold.
    pub capacity: u64,
    /// Kernel memory.
    pub memory_bytes: u64,
}

/// Memory that the agent is the reason for.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// Kernel memory of all maps.
    pub maps_bytes: u64,
    /// Memory of the process that is its own; `null` where it cannot be told.
    pub process_bytes: Option<u64>,
    /// What the process keeps of flows.
    pub tables: Vec<Table>,
}

/// One table of the process.
#[derive(Debug, Serialize)]
pub struct Table {
    /// What is in it.
    pub name: String,
    /// Entries in it.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
    /// Memory it takes when it is full.
    pub memory_bytes: u64,
}

/// Packets since start.
#[derive(Debug, Serialize)]
pub struct Packets {
    /// From clients of watched services.
    pub ingress_watched: u64,
    /// Of watched services to clients.
    pub egress_watched: u64,
    /// TCP SYNs to watched services, whoever sent them.
    pub syns: u64,
}

/// What the agent remembers across restarts.
#[derive(Debug, Serialize)]
pub struct State {
    /// The file.
    pub path: String,
    /// When it was last written; `null` when not since the start.
    pub saved: Option<Timestamp>,
    /// Its length then.
    pub length_bytes: u64,
    /// Whether this agent went on with what an earlier one had learnt.
    pub resumed: bool,
}

/// The stream to the control plane.
#[derive(Debug, Serialize)]
pub struct ControlPlane {
    /// Where.
    pub address: String,
    /// Whether it is up.
    pub connected: bool,
    /// Why not.
    pub last_error: String,
    /// Newest anomaly handed over.
    pub last_sequence: u64,
    /// Newest anomaly acknowledged.
    pub acked_sequence: u64,
    /// Waiting for an acknowledgement.
    pub pending: u64,
    /// Times the stream was set up.
    pub connects: u64,
}
