//! Serving: the services on every socket, from the first connection to the drain.
//!
//! In flow open sockets and the store, out flows how it ended. Invariant: when told to stop it takes
//! no new connections, lets streams end with their last acknowledgement, and is gone within
//! [`DRAIN`] even when a peer does not read.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use hydrometer_proto::{
    DESCRIPTORS,
    v1::{
        control_plane_server::{self, ControlPlaneServer},
        feed_server::{self, FeedServer},
        operations_server::{self, OperationsServer},
    },
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Error, Server, ServerTlsConfig, server::TcpIncoming},
};
use tonic_health::{pb::health_server, server::HealthReporter};
use tonic_reflection::{pb, server::Builder as Reflection};

use crate::{
    config::Settings,
    feed::Feed,
    ingest::{Ingest, MAX_MESSAGE_BYTES},
    listen::Listener,
    operations::Operations,
    sink,
    store::{self, Store},
    watch::Watch,
    writer::Writer,
};

/// How long streams may take to end.
pub const DRAIN: Duration = Duration::from_secs(1);

/// A peer that is silent this long is asked for a sign of life, and given up when none comes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams of one connection.
const MAX_STREAMS: u32 = 128;

/// Serves until SIGTERM or SIGINT, or until the store fails.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let store = Arc::new(Store::open(&settings.store)?);
    let mut listeners = Vec::new();
    for address in &settings.listen {
        listeners.push(Listener::bind(address).await?);
    }

    let metrics = bind(settings.metrics).await?;

    let stopping = CancellationToken::new();
    let (writer, mut writing) = Writer::start(Arc::clone(&store));
    let sinks = sink::start(settings.sinks, &store, &writer, &stopping)?;
    let feed = Feed::new(Arc::clone(&store), settings.subscriber_patience, stopping.clone());
    let mut retaining = tokio::spawn(store::keep(Arc::clone(&store), settings.retention, stopping.clone()));
    let operations = Arc::new(Operations::new(store, sinks, feed.readers()));
    if let Some(listener) = metrics {
        tracing::info!("metrics and health on http://{}", listener.local_addr()?);
        tokio::spawn(hydrometer_monitor::serve(listener, Watch(Arc::clone(&operations)), stopping.clone()));
    }
    let health = HealthReporter::new();
    let routes = routes(Ingest::new(writer, stopping.clone()), feed, operations, &health).await?;
    let mut servers = JoinSet::new();
    for listener in listeners {
        let address = listener.address().context("cannot tell where it listens")?;
        servers.spawn(serve(listener, settings.tls.clone(), routes.clone(), stopping.clone()));
        tracing::info!("hydrometer-control listening on {address}");
    }
    drop(routes);

    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        failed = &mut writing => failed.context("the writing task failed")?.context("cannot store anomalies"),
        failed = &mut retaining => failed.context("the removing task failed")?.context("cannot remove old states"),
        Some(failed) = servers.join_next() => failed.context("a listener failed")?.context("cannot serve"),
    };
    tracing::info!("stopping");
    stopping.cancel();
    health.set_not_serving::<ControlPlaneServer<Ingest>>().await;
    health.set_not_serving::<FeedServer<Feed>>().await;
    health.set_not_serving::<OperationsServer<Operations>>().await;
    tokio::select! {
        () = async { while servers.join_next().await.is_some() {} } => {}
        () = tokio::time::sleep(DRAIN) => tracing::info!("some streams did not end in time"),
        () = signals.next() => tracing::info!("stopping at once"),
    }
    ended
}

/// Opens the port for Prometheus and probes, where there is to be one.
async fn bind(metrics: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = metrics else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    bound.map(Some).with_context(|| {
        format!("cannot answer Prometheus on {address}; give --metrics another address of this host")
    })
}

/// All services, ready to be served on any number of sockets.
async fn routes(
    ingest: Ingest,
    feed: Feed,
    operations: Arc<Operations>,
    health: &HealthReporter,
) -> anyhow::Result<Routes> {
    let ingest = ControlPlaneServer::new(ingest).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let feed = FeedServer::new(feed).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let operations = OperationsServer::from_arc(operations).max_decoding_message_size(MAX_MESSAGE_BYTES);
    health.set_serving::<ControlPlaneServer<Ingest>>().await;
    health.set_serving::<FeedServer<Feed>>().await;
    health.set_serving::<OperationsServer<Operations>>().await;
    let damaged = "the built-in interface description is damaged";
    let v1 = reflection(pb::v1::server_reflection_server::SERVICE_NAME).build_v1().context(damaged)?;
    let v1alpha =
        reflection(pb::v1alpha::server_reflection_server::SERVICE_NAME).build_v1alpha().context(damaged)?;
    let health = tonic_health::server::HealthService::from_health_reporter(health.clone());
    Ok(Routes::new(ingest)
        .add_service(feed)
        .add_service(operations)
        .add_service(health_server::HealthServer::new(health))
        .add_service(v1)
        .add_service(v1alpha))
}

/// Reflection, called `own`, that lists what is served here: the descriptors know the agent's service too.
fn reflection(own: &str) -> Reflection<'static> {
    let builder = Reflection::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let served = [
        control_plane_server::SERVICE_NAME,
        feed_server::SERVICE_NAME,
        operations_server::SERVICE_NAME,
        health_server::SERVICE_NAME,
        own,
    ];
    served.into_iter().fold(builder, Reflection::with_service_name)
}

/// Serves one socket until `stopping` and until its streams have ended.
async fn serve(
    listener: Listener,
    tls: Option<ServerTlsConfig>,
    routes: Routes,
    stopping: CancellationToken,
) -> Result<(), Error> {
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
    match listener {
        Listener::Unix(listener, _file) => {
            let incoming = UnixListenerStream::new(listener);
            let mut server = server;
            server.add_routes(routes).serve_with_incoming_shutdown(incoming, stopping.cancelled_owned()).await
        }
        Listener::Tcp(listener) => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let mut server = match tls {
                Some(tls) => server.tls_config(tls.timeout(HANDSHAKE_TIMEOUT))?,
                None => server,
            };
            server.add_routes(routes).serve_with_incoming_shutdown(incoming, stopping.cancelled_owned()).await
        }
    }
}

/// The signals that mean stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> anyhow::Result<Self> {
        let install = |kind| signal(kind).context("cannot install a signal handler");
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
