//! The running agent: everything built, run, and taken down in order.
//!
//! Order of the end: the pipeline stops, flushes and detaches; what it found last is delivered to
//! watchers and to the control plane, within a bound; the socket goes last.

use std::time::Duration;

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Api, Identity},
    cli::output,
    config::{Config, Metrics, SpoolOptions, StateOptions},
    kernel::{Attachment, Kernel, Unwatched},
    mutes::Mutes,
    outbox::Outbox,
    pipeline::{self, Pipeline},
    report::Reporter,
    socket::Socket,
    state::{Keeper, StateFile},
    watch::Watch,
};

/// How long the end waits for the control plane, and then for open requests.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs the agent until SIGTERM or SIGINT.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    let started = pipeline::now();
    let (listener, socket_file) = Socket::bind(&config.socket)?.into_parts();
    let prefix = config.kernel.traffic.ipv6_prefix;
    let mutes = Mutes::open(&config.mutes, &config.engine.context, prefix)?;
    let metrics = bind(config.metrics).await?;
    let outbox = config.control_plane.is_some().then(|| open(&config.spool)).transpose()?;
    let kernel = attach(&config).await?;
    let keeper = config.state.as_ref().map(keep).transpose()?;

    let report = config.control_plane.clone().zip(outbox);
    let (handle, questions) = pipeline::questions();
    let outbox = report.as_ref().map(|(_, outbox)| outbox.clone());
    let mut pipeline = Pipeline::new(Some(kernel), config.engine, config.node.clone(), outbox);
    if let Some(keeper) = keeper {
        pipeline = pipeline.remembering(keeper);
    }
    pipeline.attend(mutes.said());
    let pipeline = tokio::spawn(pipeline.run(questions, config.quiet, stop.clone()));
    let reporting = report.clone().map(|(control_plane, outbox)| {
        Reporting::start(Reporter {
            control_plane,
            node: config.node.clone(),
            outbox,
            pipeline: handle.clone(),
        })
    });
    let identity = Identity {
        node: config.node,
        started,
        services: config.kernel.services,
        ipv6_prefix: prefix,
        report,
    };
    let served = CancellationToken::new();
    let api = Api::new(handle, identity, mutes);
    if let Some((listener, clients)) = metrics {
        output::print(&format!("metrics and health on http://{}\n", listener.local_addr()?))?;
        let watched = Watch::new(api.clone(), clients);
        tokio::spawn(hydrometer_monitor::serve(listener, watched, served.clone()));
    }
    let api = tokio::spawn(api::serve(listener, api, served.clone()));
    output::print(&format!("hydrometer agent listening on {}\n", config.socket.display()))?;

    // The API has no reason to end; if it does, an agent nobody can ask is of no use.
    let _guard = stop.clone().drop_guard();
    let watched = tokio::spawn(end_together(api, stop));
    pipeline.await.context("the pipeline failed")?.context("cannot end cleanly")?;
    if let Some(reporting) = reporting {
        reporting.finish().await?;
    }
    served.cancel();
    if let Ok(ended) = timeout(PATIENCE, watched).await {
        ended.context("the local API failed")??;
    } else {
        tracing::warn!("requests were still open at the end");
    }
    drop(socket_file);
    Ok(())
}

/// Opens the port for Prometheus and probes, and tells how many clients are named there.
async fn bind(metrics: Option<Metrics>) -> anyhow::Result<Option<(TcpListener, u32)>> {
    let Some(Metrics { address, clients }) = metrics else { return Ok(None) };
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot answer Prometheus on {address}; give --metrics another address of this host")
    })?;
    Ok(Some((listener, clients)))
}

fn open(spool: &SpoolOptions) -> anyhow::Result<Outbox> {
    Ok(Outbox::open(&spool.directory, spool.max_bytes)?)
}

fn keep(state: &StateOptions) -> anyhow::Result<Keeper> {
    Ok(Keeper::new(StateFile::open(&state.file)?, state.every))
}

/// Loads the programs and attaches them; on a failure nothing stays attached.
async fn attach(config: &Config) -> anyhow::Result<Kernel> {
    let mut kernel = Kernel::load(&config.kernel)?;
    kernel.attach().await?;
    for Attachment { interface, direction, mode, note } in kernel.attachments() {
        let why = if note.is_empty() { String::new() } else { format!(" ({note})") };
        output::print(&format!("{interface}: {direction} {mode}{why}\n"))?;
    }
    for Unwatched { interface, reason } in kernel.interfaces().unwatched {
        output::print(&format!("{interface}: not watched: {reason}\n"))?;
    }
    Ok(kernel)
}

/// The first SIGTERM or SIGINT asks for an orderly end, the second forces one.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        token.cancel();
        next().await;
        // What is attached goes with the process.
        std::process::exit(1);
    });
    Ok(stop)
}

/// Asks the rest to stop when the API ends, for whatever reason.
async fn end_together(api: JoinHandle<anyhow::Result<()>>, stop: CancellationToken) -> anyhow::Result<()> {
    let ended = api.await.context("the local API failed");
    stop.cancel();
    ended?
}

/// The task that reports.
struct Reporting {
    outbox: Outbox,
    hurry: CancellationToken,
    stop: CancellationToken,
    task: JoinHandle<()>,
    writing: JoinHandle<()>,
}

impl Reporting {
    fn start(reporter: Reporter) -> Self {
        let (hurry, stop) = (CancellationToken::new(), CancellationToken::new());
        let outbox = reporter.outbox.clone();
        let writing = tokio::spawn(outbox.clone().write());
        let task = tokio::spawn(reporter.run(hurry.clone(), stop.clone()));
        Self { outbox, hurry, stop, task, writing }
    }

    /// Delivers what is left, within a bound; what does not arrive waits in the spool.
    async fn finish(self) -> anyhow::Result<()> {
        self.hurry.cancel();
        if timeout(PATIENCE, self.outbox.delivered()).await.is_err() {
            tracing::warn!("anomalies wait in the spool: the control plane could not be reached in time");
        }
        if timeout(PATIENCE, self.outbox.written()).await.is_err() {
            tracing::warn!("anomalies were lost: the spool could not be written in time");
        }
        self.writing.abort();
        self.stop.cancel();
        self.task.await.context("reporting failed")
    }
}
