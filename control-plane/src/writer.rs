//! Group commits: what has arrived from all agents goes to disk together.
//!
//! In flow [`Job`]s through a bounded queue, out flow acknowledgements. One blocking task owns all
//! writing: it takes what is queued, commits once, tells each session, and starts again, so the
//! batch grows with the load and one sync pays for all of it. Invariant: an acknowledgement is
//! published only after the commit that made it true.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::store::{Receipt, Report, Store, StoreError};

/// At most this many reports wait, and share a commit.
const QUEUE: usize = 256;

/// A report and who wants to know when it is on disk.
pub struct Job {
    /// What to store.
    pub report: Report,
    /// Told the newest stored sequence number of the report's origin.
    pub acked: Option<watch::Sender<u64>>,
}

/// The way to the writing task. The task ends when all of these are gone, or the disk fails.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<Job>,
}

/// The writing task has ended: nothing can be stored any more.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

impl Writer {
    /// Starts the writing task. Its handle yields an error when the store fails.
    pub fn start(store: Arc<Store>) -> (Self, JoinHandle<Result<(), StoreError>>) {
        let (queue, jobs) = mpsc::channel(QUEUE);
        (Self { queue }, tokio::task::spawn_blocking(move || write(&store, jobs)))
    }

    /// Hands in a job; waits while the queue is full.
    pub async fn submit(&self, job: Job) -> Result<(), Gone> {
        self.queue.send(job).await.map_err(|_| Gone)
    }

    /// Returns when the writing task has ended.
    pub async fn gone(&self) {
        self.queue.closed().await;
    }
}

fn write(store: &Store, mut jobs: mpsc::Receiver<Job>) -> Result<(), StoreError> {
    while let Some(first) = jobs.blocking_recv() {
        let mut listeners = vec![first.acked];
        let mut batch = vec![first.report];
        while let Ok(job) = jobs.try_recv() {
            listeners.push(job.acked);
            batch.push(job.report);
            if batch.len() == QUEUE {
                break;
            }
        }
        let receipts = store.commit(&batch, unix_nanos())?;
        for ((report, receipt), listener) in batch.iter().zip(receipts).zip(listeners) {
            settle(report, receipt, listener);
        }
    }
    Ok(())
}

fn settle(report: &Report, receipt: Receipt, listener: Option<watch::Sender<u64>>) {
    let Receipt { acked, missing } = receipt;
    if missing > 0 {
        let origin = &report.origin;
        tracing::warn!(node = origin.node, boot_id = origin.boot_id, missing, acked, "anomalies never came");
    }
    if let Some(listener) = listener {
        listener.send_replace(acked);
    }
}

fn unix_nanos() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}
