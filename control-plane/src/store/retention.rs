//! How much is kept: what is older than an age, and the oldest beyond a size, is removed.
//!
//! Invariant: the newest state always stays, so that positions go on counting from where they were.

use std::{sync::Arc, time::Duration};

use redb::{ReadableTable, WriteTransaction};
use tokio_util::sync::CancellationToken;

use super::{LOG, LOSSES, Store, StoreError, blocking, file::META};
use crate::writer::unix_nanos;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// What was stored longer ago is removed, nanoseconds.
    pub max_age: i64,
    /// Bytes of states beyond which the oldest are removed. The file takes up to about half more.
    pub max_bytes: u64,
}

/// Looks every so often for what is too much.
const INTERVAL: Duration = Duration::from_mins(1);
/// Removed in one transaction: agents wait for it.
const CHUNK: usize = 2048;
/// Name of the sum of the bytes of all states in [`META`].
const BYTES: &str = "log_bytes";

/// Removes what is too much, again and again, until `stopping` or until the store fails.
pub async fn keep(
    store: Arc<Store>,
    retention: Retention,
    stopping: CancellationToken,
) -> Result<(), StoreError> {
    loop {
        let mut removed = 0;
        while !stopping.is_cancelled() {
            match blocking(&store, move |store| store.remove_oldest(retention, unix_nanos())).await? {
                0 => break,
                count => removed += count,
            }
        }
        if removed > 0 {
            tracing::info!(removed, "states that were too old or too many are removed");
        }
        if stopping.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_none() {
            return Ok(());
        }
    }
}

impl Store {
    /// Removes what is too much at `now` (Unix nanoseconds), a bounded piece of it; how many states that were. 0 when
    /// there is nothing left to remove.
    pub fn remove_oldest(&self, retention: Retention, now: i64) -> Result<u64, StoreError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_quick_repair(true);
        let removed = remove(&transaction, retention, now.saturating_sub(retention.max_age))?;
        if removed > 0 {
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        Ok(removed)
    }
}

fn remove(transaction: &WriteTransaction, retention: Retention, cutoff: i64) -> Result<u64, StoreError> {
    let (mut log, mut losses) = (transaction.open_table(LOG)?, transaction.open_table(LOSSES)?);
    let newest = log.last()?.map_or(0, |(position, _)| position.value());
    let mut bytes = size(&transaction.open_table(META)?)?;
    let mut doomed = Vec::new();
    for entry in log.range(..newest)? {
        let (position, row) = entry?;
        let (stored, state) = row.value();
        if (stored >= cutoff && bytes <= retention.max_bytes) || doomed.len() == CHUNK {
            break;
        }
        bytes -= bytes.min(state.len() as u64);
        doomed.push(position.value());
    }
    for position in &doomed {
        log.remove(position)?;
        losses.remove(position)?;
    }
    set_size(transaction, bytes)?;
    Ok(doomed.len() as u64)
}

/// Bytes of all states.
pub(super) fn size(meta: &impl ReadableTable<&'static str, u128>) -> Result<u64, StoreError> {
    let bytes = meta.get(BYTES)?.map_or(0, |bytes| bytes.value());
    Ok(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// Remembers the bytes of all states.
pub(super) fn set_size(transaction: &WriteTransaction, bytes: u64) -> Result<(), StoreError> {
    transaction.open_table(META)?.insert(BYTES, u128::from(bytes))?;
    Ok(())
}

/// Adds up the bytes of all states, for a store that did not know.
pub(super) fn measure(transaction: &WriteTransaction) -> Result<(), StoreError> {
    let mut bytes = 0;
    for entry in transaction.open_table(LOG)?.iter()? {
        bytes += entry?.1.value().1.len() as u64;
    }
    set_size(transaction, bytes)
}
