//! The stream to the control plane: anomalies out, acknowledgements back, whatever breaks between.
//!
//! In flow changes of anomalies, out flow numbered messages. Invariants: a number is given once, when
//! a change is first handed to a stream, and without gaps; a change stays here until it is
//! acknowledged, and is sent again under its number on the next stream; memory is bounded, and what
//! that costs is counted.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use hydrometer_proto::v1::{
    Anomaly, ControlPlaneLink, Heartbeat, Hello, ReportRequest, ReportResponse, SequencedAnomaly,
    control_plane_client::ControlPlaneClient, report_request::Message as Say,
    report_response::Message as Heard,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    config::{ControlPlane, TlsFiles},
    convert, pipeline,
    status::losses_in_all,
};

/// Changes kept while they cannot be sent: an hour of a busy node.
const WAITING: usize = 4_096;
/// Changes sent and not acknowledged.
const IN_FLIGHT: usize = 256;
const HEARTBEAT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
const PROTOCOL_VERSION: u32 = 1;

/// Where changes wait to be sent and to be acknowledged. Clones share it.
#[derive(Clone, Debug)]
pub struct Outbox(watch::Sender<Queue>);

#[derive(Debug, Default)]
struct Queue {
    /// Not yet numbered.
    waiting: VecDeque<Arc<Anomaly>>,
    /// Numbered, ascending without gaps, not acknowledged.
    in_flight: VecDeque<(u64, Arc<Anomaly>)>,
    last_sequence: u64,
    acked: u64,
    dropped: u64,
    is_connected: bool,
    last_error: String,
    connects: u64,
}

/// What keeps the stream up.
#[derive(Debug)]
pub struct Reporter {
    /// Where to.
    pub control_plane: ControlPlane,
    /// Who reports.
    pub node: String,
    /// Identifies this run, see [`boot_id`].
    pub boot_id: String,
    /// What to send.
    pub outbox: Outbox,
    /// Whom to ask for the figures of a heartbeat.
    pub pipeline: pipeline::Handle,
}

impl Default for Outbox {
    fn default() -> Self {
        Self(watch::Sender::new(Queue::default()))
    }
}

impl Outbox {
    /// Takes one change. When full, the oldest that was never sent is dropped and counted.
    pub fn push(&self, anomaly: Arc<Anomaly>) {
        self.0.send_modify(|queue| {
            if queue.waiting.len() >= WAITING {
                queue.waiting.pop_front();
                queue.dropped += 1;
            }
            queue.waiting.push_back(anomaly);
        });
    }

    /// Changes dropped since start.
    pub fn dropped(&self) -> u64 {
        self.0.borrow().dropped
    }

    /// Waits until everything is acknowledged.
    pub async fn delivered(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|queue| queue.pending() == 0).await;
    }

    /// The link for the status.
    pub fn link(&self, control_plane: &ControlPlane) -> ControlPlaneLink {
        let queue = self.0.borrow();
        ControlPlaneLink {
            address: control_plane.to_string(),
            connected: queue.is_connected,
            last_error: queue.last_error.clone(),
            last_sequence: queue.last_sequence,
            acked_sequence: queue.acked,
            pending: queue.pending() as u64,
            connects: queue.connects,
        }
    }
}

impl Queue {
    fn pending(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// Whether a stream that has sent up to `sent` has something to send.
    fn is_due(&self, sent: u64) -> bool {
        self.last_sequence > sent || (!self.waiting.is_empty() && self.in_flight.len() < IN_FLIGHT)
    }

    /// The next to send after `sent`: one in flight again, or the first that waits, numbered now.
    fn next(&mut self, sent: u64) -> Option<(u64, Arc<Anomaly>)> {
        if let Some(again) = self.in_flight.iter().find(|(sequence, _)| *sequence > sent) {
            return Some(again.clone());
        }
        if self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        let anomaly = self.waiting.pop_front()?;
        self.last_sequence += 1;
        self.in_flight.push_back((self.last_sequence, anomaly));
        self.in_flight.back().cloned()
    }

    fn acknowledge(&mut self, sequence: u64) {
        // A control plane cannot have stored what was never sent.
        self.acked = self.acked.max(sequence.min(self.last_sequence));
        while self.in_flight.front().is_some_and(|(sequence, _)| *sequence <= self.acked) {
            self.in_flight.pop_front();
        }
    }
}

impl Reporter {
    /// Keeps the stream up until `stop`. From `hurry` on, retries come at once, for what is left.
    pub async fn run(self, hurry: CancellationToken, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep_up(&hurry)).await;
    }

    async fn keep_up(&self, hurry: &CancellationToken) {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(5))
            .with_jitter()
            .without_max_times();
        let mut delays = backoff.build();
        loop {
            let connects = self.outbox.0.borrow().connects;
            let Err(error) = self.session().await;
            let is_new = self.lost(&error);
            if is_new {
                tracing::warn!(control_plane = %self.control_plane, error = told(&error), "not connected");
            }
            if self.outbox.0.borrow().connects > connects {
                delays = backoff.build();
            }
            let delay = delays.next().unwrap_or(HEARTBEAT);
            if hurry.is_cancelled() {
                sleep(delay.min(Duration::from_millis(100))).await;
            } else {
                // Being hurried ends a long wait.
                let _ = timeout(delay, hurry.cancelled()).await;
            }
        }
    }

    /// Notes why the stream is down; true when that is news.
    fn lost(&self, error: &anyhow::Error) -> bool {
        let said = told(error);
        let mut is_new = false;
        self.outbox.0.send_modify(|queue| {
            is_new = queue.is_connected || queue.last_error != said;
            queue.is_connected = false;
            queue.last_error = said;
        });
        is_new
    }

    /// One stream, from hello until it breaks.
    async fn session(&self) -> anyhow::Result<Infallible> {
        let channel = connect(&self.control_plane).await?;
        let (sender, outbound) = mpsc::channel(1);
        let hello = Hello {
            node: self.node.clone(),
            boot_id: self.boot_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol_version: PROTOCOL_VERSION,
        };
        sender.send(say(Say::Hello(hello))).await.context("the stream ended before it began")?;
        let welcomed = async {
            let mut responses = ControlPlaneClient::new(channel)
                .report(ReceiverStream::new(outbound))
                .await
                .map_err(said)?
                .into_inner();
            let first = responses.message().await.map_err(said)?;
            anyhow::Ok((responses, first))
        };
        let (mut responses, first) =
            timeout(WELCOME_TIMEOUT, welcomed).await.context("the control plane does not answer")??;
        let Some(Heard::Welcome(welcome)) = first.and_then(|first| first.message) else {
            bail!("the control plane did not answer the hello with a welcome; update the older of the two");
        };
        self.outbox.0.send_modify(|queue| {
            queue.acknowledge(welcome.acked_sequence);
            queue.is_connected = true;
            queue.connects += 1;
            queue.last_error.clear();
        });
        tracing::info!(control_plane = %self.control_plane, acked = welcome.acked_sequence, "connected");
        self.converse(&sender, &mut responses).await
    }

    async fn converse(
        &self,
        sender: &mpsc::Sender<ReportRequest>,
        responses: &mut Streaming<ReportResponse>,
    ) -> anyhow::Result<Infallible> {
        let mut changes = self.outbox.0.subscribe();
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What was in flight on the last stream goes out again.
        let mut sent = self.outbox.0.borrow().acked;
        loop {
            let is_due = self.outbox.0.borrow().is_due(sent);
            tokio::select! {
                permit = sender.reserve(), if is_due => {
                    let permit = permit.context("the control plane has ended the stream")?;
                    let mut next = None;
                    self.outbox.0.send_if_modified(|queue| { next = queue.next(sent); false });
                    if let Some((sequence, anomaly)) = next {
                        let anomaly = SequencedAnomaly { sequence, anomaly: Some(Anomaly::clone(&anomaly)) };
                        permit.send(say(Say::Anomaly(anomaly)));
                        sent = sequence;
                        heartbeat.reset();
                    }
                }
                response = responses.message() => match response.map_err(said)?.map(|response| response.message) {
                    Some(Some(Heard::Ack(ack))) => self.outbox.0.send_modify(|queue| queue.acknowledge(ack.sequence)),
                    Some(_) => {}
                    None => bail!("the control plane has ended the stream"),
                },
                _ = changes.changed() => {}
                _ = heartbeat.tick() => {
                    let alive = self.heartbeat().await;
                    sender.send(say(Say::Heartbeat(alive))).await.context("the control plane has ended the stream")?;
                }
            }
        }
    }

    async fn heartbeat(&self) -> Heartbeat {
        let account = self.pipeline.with(pipeline::Pipeline::account).await.ok();
        let clients = account.as_ref().map_or(0, |account| account.engine.clients as u64);
        let losses = account.map_or(0, |account| losses_in_all(&account, Some(&self.outbox)));
        Heartbeat { time: Some(convert::timestamp(pipeline::now())), losses, clients }
    }
}

/// What the control plane, or the way to it, said when it broke.
#[expect(clippy::needless_pass_by_value, reason = "the form map_err wants")]
fn said(status: Status) -> anyhow::Error {
    let message = if status.message().is_empty() { status.code().description() } else { status.message() };
    anyhow::anyhow!("the stream to the control plane broke: {message}")
}

/// An error with its causes, without those that repeat the one before: transports wrap what they
/// print.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        said if said.ends_with(&cause) => told,
        said => format!("{said}: {cause}"),
    })
}

fn say(message: Say) -> ReportRequest {
    ReportRequest { message: Some(message) }
}

/// Random, new for each run.
pub fn boot_id() -> anyhow::Result<String> {
    const UUID: &str = "/proc/sys/kernel/random/uuid";
    let id =
        std::fs::read_to_string(UUID).with_context(|| format!("cannot read {UUID}; is /proc mounted?"))?;
    Ok(id.trim().to_owned())
}

async fn connect(control_plane: &ControlPlane) -> anyhow::Result<Channel> {
    let connected = match control_plane {
        ControlPlane::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            endpoint(Endpoint::from_static("http://control.hydrometer.invalid"))
                .connect_with_connector(connector)
                .await
        }
        ControlPlane::Loopback(uri) => endpoint(Endpoint::from(uri.clone())).connect().await,
        ControlPlane::Tls { uri, files } => {
            let tls = tls(files).await?;
            let endpoint =
                Endpoint::from(uri.clone()).tls_config(tls).context("the certificates do not fit")?;
            self::endpoint(endpoint).connect().await
        }
    };
    connected.with_context(|| format!("cannot reach the control plane on {control_plane}"))
}

/// A peer that vanishes without a word is noticed.
fn endpoint(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
}

async fn tls(files: &TlsFiles) -> anyhow::Result<ClientTlsConfig> {
    let read = async |path: &std::path::Path| {
        tokio::fs::read(path).await.with_context(|| format!("cannot read {}", path.display()))
    };
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&files.ca).await?))
        .identity(Identity::from_pem(read(&files.cert).await?, read(&files.key).await?));
    Ok(match &files.domain {
        Some(domain) => tls.domain_name(domain),
        None => tls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anomaly(id: usize) -> Arc<Anomaly> {
        Arc::new(Anomaly { id: id.to_string(), ..Anomaly::default() })
    }

    #[test]
    fn a_number_is_given_once_and_without_gaps_even_when_the_queue_overflows() {
        let outbox = Outbox::default();
        for id in 0..WAITING + 3 {
            outbox.push(anomaly(id));
        }
        assert_eq!(outbox.dropped(), 3);
        outbox.0.send_modify(|queue| {
            let first: Vec<_> = (0..3).map(|sent| queue.next(sent).unwrap()).collect();
            let numbered: Vec<_> = first.iter().map(|(n, anomaly)| (*n, anomaly.id.as_str())).collect();
            assert_eq!(numbered, [(1, "3"), (2, "4"), (3, "5")]);
            queue.acknowledge(1);
            assert_eq!(queue.next(1).unwrap().0, 2, "sent again under its number on a new stream");
            assert_eq!(queue.next(3).unwrap().0, 4);
            queue.acknowledge(99);
            assert_eq!(
                (queue.acked, queue.in_flight.len()),
                (4, 0),
                "what was never sent is not acknowledged"
            );
        });
    }

    #[test]
    fn unacknowledged_changes_are_bounded() {
        let mut queue = Queue { waiting: (0..=IN_FLIGHT).map(anomaly).collect(), ..Queue::default() };
        for sent in 0..IN_FLIGHT as u64 {
            assert!(queue.next(sent).is_some());
        }
        let sent = queue.last_sequence;
        assert!(!queue.is_due(sent) && queue.next(sent).is_none());
        queue.acknowledge(1);
        assert!(queue.is_due(sent));
    }
}
