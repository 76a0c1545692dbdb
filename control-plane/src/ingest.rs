//! The stream of one agent: hello, anomalies and heartbeats in, a welcome and acknowledgements out.
//!
//! A session checks what comes and hands it to the writer. A sequence number that skips some is
//! stored, counted and logged: the agent has lost what lies between (its spool is
//! bounded), and refusing would only lose what follows too. Invariants: nothing an agent sends makes
//! a session wait for the agent to read its acknowledgements, and memory a session is bounded by
//! [`MAX_MESSAGE_BYTES`] and the writer's queue.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hydrometer_proto::v1::{
    Ack, Heartbeat, Hello, ReportRequest, ReportResponse, SequencedAnomaly, Welcome,
    control_plane_server::ControlPlane, report_request::Message as Said, report_response::Message as Answer,
};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    store::{Origin, Report, What},
    writer::{Gone, Writer},
};

/// The largest message an agent may send. An anomaly with all its evidence is a few KiB.
pub const MAX_MESSAGE_BYTES: usize = 256 << 10;

const PROTOCOL_VERSION: u32 = 1;
/// An agent says hello as soon as it is connected.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Heartbeats refresh what is stored of a node at most this often: each costs a commit.
const HEARTBEAT_INTERVAL: Duration = Duration::from_mins(1);
/// Node names are DNS names, boot identifiers UUIDs.
const MAX_NAME_BYTES: usize = 253;

/// `hydrometer.v1.ControlPlane`.
pub struct Ingest {
    writer: Writer,
    stopping: CancellationToken,
}

type Responses = mpsc::Sender<Result<ReportResponse, Status>>;

impl Ingest {
    /// Stores through `writer` until `stopping`.
    pub fn new(writer: Writer, stopping: CancellationToken) -> Self {
        Self { writer, stopping }
    }
}

#[tonic::async_trait]
impl ControlPlane for Ingest {
    type ReportStream = ReceiverStream<Result<ReportResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let inbound = request.into_inner();
        let (responses, outbound) = mpsc::channel(1);
        let (writer, stopping) = (self.writer.clone(), self.stopping.clone());
        tokio::spawn(async move {
            if let Err(status) = converse(inbound, &responses, writer, &stopping).await {
                // An agent that has gone away needs no status.
                let _ = responses.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}

/// The whole stream, from hello to the last acknowledgement.
async fn converse(
    mut inbound: Streaming<ReportRequest>,
    responses: &Responses,
    writer: Writer,
    stopping: &CancellationToken,
) -> Result<(), Status> {
    let hello = tokio::select! {
        hello = tokio::time::timeout(HELLO_TIMEOUT, inbound.message()) => hello,
        () = stopping.cancelled() => return Err(closing()),
    };
    let hello = hello.map_err(|_| Status::deadline_exceeded("no hello came within 10 s"))??;
    let (origin, version) = identify(hello)?;
    let (node, boot_id) = (origin.node.clone(), origin.boot_id.clone());

    let mut session = Session::open(origin, version, writer).await?;
    let acked = session.stored();
    tracing::info!(node, boot_id, acked, "agent connected");
    let welcome = Welcome { acked_sequence: acked, version: env!("CARGO_PKG_VERSION").to_owned() };
    let greeted = responses.send(Ok(answer(Answer::Welcome(welcome)))).await;
    let ended = match greeted {
        Ok(()) => session.run(&mut inbound, responses, stopping).await,
        Err(_) => Ok(()),
    };
    match &ended {
        Ok(()) => tracing::info!(node, boot_id, acked = session.stored(), "agent disconnected"),
        Err(status) => {
            tracing::info!(
                node,
                boot_id,
                acked = session.stored(),
                reason = status.message(),
                "agent disconnected"
            );
        }
    }
    ended
}

/// An agent whose hello was accepted.
struct Session {
    origin: Arc<Origin>,
    writer: Writer,
    acked: watch::Sender<u64>,
    acks: watch::Receiver<u64>,
    /// The largest sequence number handed to the writer.
    submitted: u64,
    /// When a heartbeat was last handed to the writer.
    heartbeat: Option<Instant>,
}

impl Session {
    /// Registers the agent; learns what of it is stored.
    async fn open(origin: Origin, version: String, writer: Writer) -> Result<Self, Status> {
        let (acked, acks) = watch::channel(0);
        let mut session =
            Self { origin: Arc::new(origin), writer, acked, acks, submitted: 0, heartbeat: None };
        session.submit(What::Hello { version }).await?;
        session.settled().await?;
        Ok(session)
    }

    /// Takes in what comes and acknowledges it, until the agent ends the stream or we stop.
    async fn run(
        &mut self,
        inbound: &mut Streaming<ReportRequest>,
        responses: &Responses,
        stopping: &CancellationToken,
    ) -> Result<(), Status> {
        let mut due = None;
        let verdict = loop {
            tokio::select! {
                permit = responses.reserve(), if due.is_some() => match (permit, due.take()) {
                    (Ok(permit), Some(sequence)) => permit.send(Ok(ack(sequence))),
                    _ => return Ok(()),
                },
                settled = self.settled() => {
                    settled?;
                    due = Some(self.stored());
                }
                message = inbound.message() => match message {
                    Ok(Some(message)) => if let Err(refusal) = self.take(message).await {
                        break Err(refusal);
                    },
                    Ok(None) => break Ok(()),
                    Err(status) => break Err(status),
                },
                () = stopping.cancelled() => break Err(closing()),
            }
        };
        while self.stored() < self.submitted {
            self.settled().await?;
        }
        if self.submitted > 0 {
            let _ = responses.send(Ok(ack(self.stored()))).await;
        }
        verdict
    }

    /// Hands one message to the writer.
    async fn take(&mut self, message: ReportRequest) -> Result<(), Status> {
        match message.message {
            Some(Said::Anomaly(anomaly)) => {
                let (sequence, bytes) = check(anomaly, &self.origin.node)?;
                self.submitted = self.submitted.max(sequence);
                self.submit(What::Anomaly { sequence, bytes }).await
            }
            Some(Said::Heartbeat(heartbeat)) => self.beat(heartbeat).await,
            Some(Said::Hello(_)) => Err(Status::invalid_argument("a stream has one hello; this is a second")),
            None => Err(Status::invalid_argument(
                "a message without content; an agent newer than this control plane must wait for its update",
            )),
        }
    }

    async fn beat(&mut self, Heartbeat { losses, clients, .. }: Heartbeat) -> Result<(), Status> {
        if self.heartbeat.is_some_and(|last| last.elapsed() < HEARTBEAT_INTERVAL) {
            return Ok(());
        }
        self.heartbeat = Some(Instant::now());
        self.submit(What::Heartbeat { losses, clients }).await
    }

    async fn submit(&self, what: What) -> Result<(), Status> {
        let acked = (!matches!(what, What::Heartbeat { .. })).then(|| self.acked.clone());
        let report = Report { origin: Arc::clone(&self.origin), what };
        self.writer.submit(report, acked).await.map_err(lost)
    }

    /// Waits for the writer to store something of this session. Safe to cancel.
    async fn settled(&mut self) -> Result<(), Status> {
        tokio::select! {
            // The sender is a field of this session, so this cannot fail.
            _ = self.acks.changed() => Ok(()),
            () = self.writer.gone() => Err(lost(Gone)),
        }
    }

    /// The newest stored sequence number.
    fn stored(&self) -> u64 {
        *self.acks.borrow()
    }
}

/// Who the agent says it is, and its version.
fn identify(first: Option<ReportRequest>) -> Result<(Origin, String), Status> {
    let Some(ReportRequest { message: Some(Said::Hello(hello)) }) = first else {
        return Err(Status::invalid_argument("the first message of a stream must be a hello"));
    };
    let Hello { node, boot_id, version, protocol_version } = hello;
    if protocol_version != PROTOCOL_VERSION {
        return Err(Status::failed_precondition(format!(
            "the agent speaks protocol version {protocol_version}, this control plane {PROTOCOL_VERSION}; update \
             the older of the two"
        )));
    }
    for (field, value) in [("node", &node), ("boot_id", &boot_id)] {
        if value.is_empty() || value.len() > MAX_NAME_BYTES || value.chars().any(char::is_control) {
            return Err(Status::invalid_argument(format!(
                "the hello's {field} must be 1 to {MAX_NAME_BYTES} bytes of printable text"
            )));
        }
    }
    let version = version.chars().filter(|c| !c.is_control()).take(64).collect();
    Ok((Origin { node, boot_id }, version))
}

/// An anomaly fit to be stored: its sequence number and its encoding. It is of the node whose
/// stream it came in: one agent does not speak for another.
fn check(
    SequencedAnomaly { sequence, anomaly }: SequencedAnomaly,
    node: &str,
) -> Result<(u64, Vec<u8>), Status> {
    let refuse =
        |what: &str| Err(Status::invalid_argument(format!("anomaly with sequence {sequence}: {what}")));
    if sequence == 0 {
        return refuse("sequence numbers start at 1");
    }
    match anomaly {
        None => refuse("the anomaly itself is missing"),
        Some(anomaly) if anomaly.id.is_empty() => refuse("its id is missing"),
        Some(mut anomaly) => {
            node.clone_into(&mut anomaly.node);
            Ok((sequence, anomaly.encode_to_vec()))
        }
    }
}

fn ack(sequence: u64) -> ReportResponse {
    answer(Answer::Ack(Ack { sequence }))
}

fn answer(message: Answer) -> ReportResponse {
    ReportResponse { message: Some(message) }
}

fn closing() -> Status {
    Status::unavailable("the control plane is stopping; connect again")
}

fn lost(_: Gone) -> Status {
    Status::unavailable("the control plane cannot write to its store; see its log")
}
