//! The stream to the control plane: anomalies out, acknowledgements back, whatever breaks between.
//!
//! In flow numbered changes from the [outbox](crate::outbox), out flow messages. Invariant: what is not acknowledged
//! is sent again, under its number, on the next stream.

use std::{convert::Infallible, time::Duration};

use anyhow::{Context as _, bail};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use hydrometer_proto::v1::{
    Anomaly, Heartbeat, Hello, ReportRequest, ReportResponse, SequencedAnomaly,
    control_plane_client::ControlPlaneClient, report_request::Message as Say,
    report_response::Message as Heard,
};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::{
    net::UnixStream,
    sync::mpsc,
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
    convert,
    outbox::Outbox,
    pipeline,
    status::losses_in_all,
};

const HEARTBEAT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
const PROTOCOL_VERSION: u32 = 1;

/// What keeps the stream up.
#[derive(Debug)]
pub struct Reporter {
    /// Where to.
    pub control_plane: ControlPlane,
    /// Who reports.
    pub node: String,
    /// What to send.
    pub outbox: Outbox,
    /// Whom to ask for the figures of a heartbeat.
    pub pipeline: pipeline::Handle,
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
            let connects = self.outbox.connects();
            let Err(error) = self.session().await;
            if self.outbox.lost(told(&error)) {
                tracing::warn!(control_plane = %self.control_plane, error = told(&error), "not connected");
            }
            if self.outbox.connects() > connects {
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

    /// One stream, from hello until it breaks.
    async fn session(&self) -> anyhow::Result<Infallible> {
        let channel = connect(&self.control_plane).await?;
        let (sender, outbound) = mpsc::channel(1);
        let hello = Hello {
            node: self.node.clone(),
            boot_id: self.outbox.id().to_owned(),
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
        self.outbox.acknowledge(welcome.acked_sequence).await?;
        self.outbox.connected();
        tracing::info!(control_plane = %self.control_plane, acked = welcome.acked_sequence, "connected");
        self.converse(&sender, &mut responses).await
    }

    async fn converse(
        &self,
        sender: &mpsc::Sender<ReportRequest>,
        responses: &mut Streaming<ReportResponse>,
    ) -> anyhow::Result<Infallible> {
        let mut changes = self.outbox.changes();
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What was in flight on the last stream goes out again.
        let mut sent = self.outbox.acknowledged();
        loop {
            let is_due = self.outbox.is_due(sent);
            tokio::select! {
                permit = sender.reserve(), if is_due => {
                    let permit = permit.context("the control plane has ended the stream")?;
                    if let Some((sequence, encoded)) = self.outbox.next(sent).await? {
                        let anomaly = Anomaly::decode(encoded.as_slice()).context("the spool holds what is no anomaly")?;
                        let anomaly = SequencedAnomaly { sequence, anomaly: Some(anomaly) };
                        permit.send(say(Say::Anomaly(anomaly)));
                        sent = sequence;
                        heartbeat.reset();
                    }
                }
                response = responses.message() => match response.map_err(said)?.map(|response| response.message) {
                    Some(Some(Heard::Ack(ack))) => self.outbox.acknowledge(ack.sequence).await?,
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
