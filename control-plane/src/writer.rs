//! Group commits: what has arrived from all agents goes to disk together.
//!
//! In flow reports and the cursors of sinks through a bounded queue, out flow acknowledgements. One blocking task owns all
//! writing: it takes what is queued, commits once, tells each session, and starts again, so the
//! batch grows with the load and one sync pays for all of it. Invariant: an acknowledgement is
//! published only after the commit that made it true.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::store::{Cursor, Receipt, Report, Store, StoreError};

/// At most this many reports wait, and share a commit.
const QUEUE: usize = 256;

/// Something to store, and who wants to know when it is on disk.
enum Job {
    /// What an agent said; told the newest stored sequence number of its origin.
    Report(Report, Option<watch::Sender<u64>>),
    /// How far a sink has got.
    Cursor(Cursor, oneshot::Sender<()>),
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

    /// Hands in what an agent said; waits while the queue is full. `acked` is told the newest stored sequence
    /// number of its origin once it is on disk.
    pub async fn submit(&self, report: Report, acked: Option<watch::Sender<u64>>) -> Result<(), Gone> {
        self.queue.send(Job::Report(report, acked)).await.map_err(|_| Gone)
    }

    /// Returns when it is on disk how far a sink has got.
    pub async fn store_cursor(&self, cursor: Cursor) -> Result<(), Gone> {
        let (stored, on_disk) = oneshot::channel();
        self.queue.send(Job::Cursor(cursor, stored)).await.map_err(|_| Gone)?;
        on_disk.await.map_err(|_| Gone)
    }

    /// Returns when the writing task has ended.
    pub async fn gone(&self) {
        self.queue.closed().await;
    }
}

fn write(store: &Store, mut jobs: mpsc::Receiver<Job>) -> Result<(), StoreError> {
    while let Some(first) = jobs.blocking_recv() {
        let (mut reports, mut listeners, mut cursors, mut waiting) = (vec![], vec![], vec![], vec![]);
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Report(report, listener) => {
                    reports.push(report);
                    listeners.push(listener);
                }
                Job::Cursor(cursor, stored) => {
                    cursors.push(cursor);
                    waiting.push(stored);
                }
            }
            next = if reports.len() < QUEUE { jobs.try_recv().ok() } else { None };
        }
        let receipts = store.commit(&reports, &cursors, unix_nanos())?;
        for ((report, receipt), listener) in reports.iter().zip(receipts).zip(listeners) {
            settle(report, receipt, listener);
        }
        for sink in waiting {
            // A sink that was stopped does not wait any more.
            let _ = sink.send(());
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

/// The time, Unix nanoseconds.
pub(crate) fn unix_nanos() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}
