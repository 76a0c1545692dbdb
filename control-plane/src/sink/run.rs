//! One sink at work: read after the cursor, hand over, move the cursor; when that fails, wait and try again.
//!
//! A destination that refuses a batch gets its states one at a time, so that what it will not take is
//! found; that goes to the dead-letter file after a few tries, and the sink goes on. Everything else that
//! goes wrong is tried for ever, ever more rarely.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::watch;

use super::{Failure, From, Progress, Sink, file, finding::Finding};
use crate::{
    store::{self, Cursor, Row, Store, StoreError},
    writer::Writer,
};

const MIN_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_mins(1);
/// A dead-letter file that grew to this is for a person to look at; the sink waits until it is moved away.
const MAX_DEAD_LETTERS: u64 = 64 << 20;

/// A sink and where it is.
pub(super) struct Runner {
    sink: Sink,
    store: Arc<Store>,
    writer: Writer,
    newest: watch::Receiver<u64>,
    progress: watch::Sender<Progress>,
    delays: ExponentialBackoff,
    /// Up to this position states go one at a time: there is one among them that was refused.
    alone_until: u64,
    /// How often the state after the cursor was refused.
    refusals: u32,
}

/// The sink cannot go on right now.
enum Pause {
    /// For the reason given.
    Failed(String),
    /// The control plane cannot store any more, and ends.
    Ending,
}

impl Runner {
    /// Takes up where the sink of this name left off.
    pub(super) fn new(sink: Sink, store: Arc<Store>, writer: Writer) -> Result<Self, StoreError> {
        let newest = store.newest();
        let end = *newest.borrow();
        let begin = match sink.from {
            From::Oldest => store.bounds()?.0.saturating_sub(1),
            From::Now => end,
        };
        let position = store.cursor(&sink.name)?.unwrap_or(begin);
        let progress = watch::Sender::new(Progress { position, ..Progress::default() });
        Ok(Self { sink, store, writer, newest, progress, delays: delays(), alone_until: 0, refusals: 0 })
    }

    /// How it fares.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Works for ever, or until nothing can be stored any more.
    pub(super) async fn run(mut self) {
        // So that "now" stays the same moment after a restart.
        let mut result = self.advance(self.position()).await;
        loop {
            match result {
                Ok(()) => {}
                Err(Pause::Ending) => return,
                Err(Pause::Failed(error)) => self.pause(error).await,
            }
            result = self.step().await;
        }
    }

    /// Deals with what comes next, as much as goes together.
    async fn step(&mut self) -> Result<(), Pause> {
        let after = self.position();
        let end = match self.newest.wait_for(|&newest| newest > after).await {
            Ok(newest) => *newest,
            Err(_) => return Err(Pause::Ending),
        };
        let mut rows = store::blocking(&self.store, move |store| store.page(after, end)).await?;
        let missed = rows.first().map_or(end, |row| row.position - 1) - after;
        rows.truncate(if after < self.alone_until { 1 } else { self.sink.target.batch() });
        let last = rows.last().map_or(end, |row| row.position);
        rows.retain(|row| row.anomaly.severity >= self.sink.min_severity as i32);
        let taken = if rows.is_empty() { Taken::default() } else { self.deliver(&rows).await? };
        if taken.delivered + taken.dead_lettered == rows.len() as u64 {
            self.progress.send_modify(|progress| progress.missed += missed);
            self.advance(last).await?;
            self.progress.send_modify(|progress| {
                progress.delivered += taken.delivered;
                progress.dead_lettered += taken.dead_lettered;
            });
        }
        Ok(())
    }

    /// Hands states over; nothing of them is dealt with when they are to go one at a time from now on.
    async fn deliver(&mut self, rows: &[Row]) -> Result<Taken, Pause> {
        let (first, count) = (&rows[0], rows.len() as u64);
        match self.sink.target.send(rows, self.sink.timeout).await {
            Ok(()) => Ok(Taken { delivered: count, ..Taken::default() }),
            Err(Failure::Refused(_)) if rows.len() > 1 => {
                self.alone_until = rows[rows.len() - 1].position;
                Ok(Taken::default())
            }
            Err(Failure::Refused(reason)) => {
                self.refusals += 1;
                if self.refusals < self.sink.refusals {
                    return Err(Pause::Failed(format!("refused: {reason}")));
                }
                self.bury(first, &reason).await?;
                Ok(Taken { dead_lettered: 1, ..Taken::default() })
            }
            Err(Failure::Unavailable(reason)) => Err(Pause::Failed(reason)),
        }
    }

    /// Writes a state to the dead-letter file.
    async fn bury(&self, row: &Row, reason: &str) -> Result<(), Pause> {
        let finding = Finding::of(row);
        let letter = serde_json::json!({
            "position": row.position,
            "reason": reason,
            "uid": finding.uid(),
            "event": super::ocsf::event(finding, super::ocsf::Detail::Full),
        });
        let path = self.sink.dead_letter.clone();
        tracing::warn!(sink = self.sink.name, id = row.anomaly.id, reason, file = %path.display(), "dead letter");
        file::append(path, format!("{letter}\n"), file::Bound::Full(MAX_DEAD_LETTERS)).await.map_err(
            |error| {
                Pause::Failed(format!("refused ({reason}), and the dead-letter file takes it not: {error}"))
            },
        )
    }

    /// Everything up to `position` is dealt with: true after a restart, too, once this returns.
    async fn advance(&mut self, position: u64) -> Result<(), Pause> {
        let cursor = Cursor { sink: self.sink.name.clone(), position };
        self.writer.store_cursor(cursor).await.map_err(|_| Pause::Ending)?;
        self.refusals = 0;
        self.delays = delays();
        self.progress.send_modify(|progress| {
            progress.position = position;
            if progress.error.take().is_some() {
                tracing::info!(sink = self.sink.name, position, "sink goes on");
            }
        });
        Ok(())
    }

    /// Tells what is wrong, and waits before the next try.
    async fn pause(&mut self, error: String) {
        self.progress.send_modify(|progress| {
            progress.retries += 1;
            if progress.error.as_ref() != Some(&error) {
                tracing::warn!(sink = self.sink.name, position = progress.position, error, "sink waits");
            }
            progress.error = Some(error);
        });
        tokio::time::sleep(self.delays.next().unwrap_or(MAX_DELAY)).await;
    }

    fn position(&self) -> u64 {
        self.progress.borrow().position
    }
}

/// What became of some states.
#[derive(Clone, Copy, Default)]
struct Taken {
    delivered: u64,
    dead_lettered: u64,
}

impl std::convert::From<StoreError> for Pause {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Stopping => Self::Ending,
            other => Self::Failed(other.to_string()),
        }
    }
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(MIN_DELAY)
        .with_max_delay(MAX_DELAY)
        .with_jitter()
        .without_max_times()
        .build()
}
