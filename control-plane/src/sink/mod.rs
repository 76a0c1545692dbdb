//! Sinks: how a SOC gets every state of every anomaly in its own formats, without asking.
//!
//! ```text
//!            ┌─► run.rs ─► ocsf.rs ─► file.rs, splunk.rs, elastic.rs, webhook.rs ─┐
//! store.rs ──┼─► run.rs ─► cef.rs  ─► syslog.rs                                    ├─► SOC
//!            └─► run.rs ─────────────► otlp.rs                                     ┘
//! ```
//!
//! Each sink is a task with a cursor of its own in the store, so one that hangs delays nobody. Invariant:
//! the cursor moves on only after the destination has taken what lies before it, or it is in the
//! dead-letter file. So each state arrives at least once, also when either side dies; `metadata.uid`
//! (CEF: `externalId` and `cn1`) is the same each time.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hydrometer_proto::v1::Severity;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    store::{Row, Store, StoreError},
    writer::Writer,
};

mod atlas;
mod cef;
mod elastic;
mod file;
mod finding;
mod http;
mod ocsf;
pub mod options;
mod otlp;
mod run;
mod secret;
mod splunk;
mod syslog;
mod tls;
mod webhook;

/// Valid settings of one sink.
#[derive(Debug)]
pub struct Sink {
    /// Its name in the status, in the log and in the store.
    pub name: String,
    /// Where to.
    target: Target,
    /// What is less severe is left out.
    min_severity: Severity,
    /// Where a sink begins that has no cursor yet.
    from: From,
    /// For one attempt.
    timeout: Duration,
    /// So often is a state refused before it goes to the dead-letter file.
    refusals: u32,
    /// Takes what the destination refuses.
    dead_letter: PathBuf,
}

/// Where a sink begins that has no cursor yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// At the oldest state that is stored.
    #[default]
    Oldest,
    /// After the newest.
    Now,
}

/// Where to.
#[derive(Debug)]
enum Target {
    File(file::Lines),
    Splunk(splunk::Splunk),
    Elastic(elastic::Elastic),
    Webhook(webhook::Webhook),
    Syslog(syslog::Syslog),
    Otlp(otlp::Otlp),
}

/// Why a destination has not taken what it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// It will not take this; asked again it would answer the same.
    Refused(String),
    /// It cannot be reached, is busy, or does not let us in. This may change.
    Unavailable(String),
}

/// How a sink fares. Counters begin at 0 when the control plane starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to this position of the store is dealt with.
    pub position: u64,
    /// States that the destination has taken.
    pub delivered: u64,
    /// Attempts that failed and were, or will be, made again.
    pub retries: u64,
    /// States that are in the dead-letter file.
    pub dead_lettered: u64,
    /// States that the retention removed before they could be delivered.
    pub missed: u64,
    /// Why it does not get on; none while it does.
    pub error: Option<String>,
}

/// A running sink.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// Kind of destination, such as "syslog".
    pub kind: &'static str,
    /// How it fares.
    pub progress: watch::Receiver<Progress>,
}

/// Starts all sinks, until `stopping`.
pub fn start(
    sinks: Vec<Sink>,
    store: &Arc<Store>,
    writer: &Writer,
    stopping: &CancellationToken,
) -> Result<Vec<Running>, StoreError> {
    sinks
        .into_iter()
        .map(|sink| {
            let (name, kind) = (sink.name.clone(), sink.target.kind());
            let runner = run::Runner::new(sink, Arc::clone(store), writer.clone())?;
            let progress = runner.progress();
            let stopping = stopping.clone();
            tokio::spawn(async move { stopping.run_until_cancelled_owned(runner.run()).await });
            tracing::info!(sink = name, kind, position = progress.borrow().position, "sink started");
            Ok(Running { name, kind, progress })
        })
        .collect()
}

impl Target {
    fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Splunk(_) => "splunk",
            Self::Elastic(_) => "elastic",
            Self::Webhook(_) => "webhook",
            Self::Syslog(_) => "syslog",
            Self::Otlp(_) => "otlp",
        }
    }

    /// At most so many states are sent together.
    fn batch(&self) -> usize {
        match self {
            // Its receivers take one thing at a time.
            Self::Webhook(_) => 1,
            _ => 256,
        }
    }

    /// Hands over states, oldest first: all of them, or what went wrong.
    async fn send(&mut self, rows: &[Row], timeout: Duration) -> Result<(), Failure> {
        let sending = async {
            match self {
                Self::File(file) => file.send(rows).await,
                Self::Splunk(splunk) => splunk.send(rows).await,
                Self::Elastic(elastic) => elastic.send(rows).await,
                Self::Webhook(webhook) => webhook.send(rows).await,
                Self::Syslog(syslog) => syslog.send(rows).await,
                Self::Otlp(otlp) => otlp.send(rows).await,
            }
        };
        tokio::time::timeout(timeout, sending).await.unwrap_or_else(|_| {
            Err(Failure::Unavailable(format!("no answer within {} s", timeout.as_secs())))
        })
    }
}
