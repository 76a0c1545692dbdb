//! The store: every state of every anomaly of the fleet, in one redb file.
//!
//! In flows a batch of what agents said, out flow pages of what is stored. Every call blocks on the
//! disk. Invariants: a batch is on disk as a whole when [`Store::commit`] returns; positions count
//! from 1 without gaps, and a later position was never stored at an earlier time; one (node,
//! boot_id, sequence) has at most one position.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use hydrometer_proto::v1::{Anomaly, LostStates};
use prost::Message as _;
use redb::{AccessGuard, Database, ReadableDatabase as _, ReadableTable, TableDefinition};
use tokio::sync::watch;

use crate::token::StoreId;

mod backup;
mod file;
mod retention;
mod write;

pub use retention::{Retention, keep};

/// The store of one control plane.
pub struct Store {
    database: Database,
    id: StoreId,
    folder: PathBuf,
    newest: watch::Sender<u64>,
}

/// One run of one agent; sequence numbers count within it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Node name.
    pub node: String,
    /// Random identifier of that run.
    pub boot_id: String,
}

/// One thing an agent said.
#[derive(Clone, Debug)]
pub struct Report {
    /// Who said it.
    pub origin: Arc<Origin>,
    /// What.
    pub what: What,
}

/// What an agent can say.
#[derive(Clone, Debug)]
pub enum What {
    /// It has connected.
    Hello {
        /// Version of the agent.
        version: String,
    },
    /// It raised, renewed or closed an anomaly.
    Anomaly {
        /// Place in the stream, from 1.
        sequence: u64,
        /// The encoded [`Anomaly`].
        bytes: Vec<u8>,
    },
    /// It is alive.
    Heartbeat {
        /// Sum of its losses of all stages.
        losses: u64,
        /// Clients it knows.
        clients: u64,
    },
}

/// What became of one [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The newest stored sequence number of the origin, after this report; 0 when none.
    pub acked: u64,
    /// Sequence numbers that never came before this one. They are taken as lost: should they come
    /// later they count as duplicates.
    pub missing: u64,
}

/// How far a sink has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Name of the sink.
    pub sink: String,
    /// Everything up to this position is dealt with.
    pub position: u64,
}

/// What is known of an origin.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct OriginState {
    /// The newest stored sequence number; 0 when none.
    #[prost(uint64, tag = "1")]
    pub acked: u64,
    /// Sequence numbers that never came.
    #[prost(uint64, tag = "2")]
    pub missing: u64,
    /// When it was last heard of, Unix nanoseconds.
    #[prost(int64, tag = "3")]
    pub last_seen: i64,
    /// Version of the agent.
    #[prost(string, tag = "4")]
    pub version: String,
    /// Sum of the agent's losses, at its last heartbeat.
    #[prost(uint64, tag = "5")]
    pub losses: u64,
    /// Clients the agent knew, at its last heartbeat.
    #[prost(uint64, tag = "6")]
    pub clients: u64,
}

/// One stored state of one anomaly.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its place in the store, from 1.
    pub position: u64,
    /// When it was stored, Unix nanoseconds.
    pub stored: i64,
    /// The anomaly.
    pub anomaly: Anomaly,
    /// What was found to be lost when it came.
    pub lost: Option<LostStates>,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error(
        "the store {0} is in use by another process; stop the other hydrometer-control or give another --store"
    )]
    Locked(PathBuf),
    /// The file is something else.
    #[error("{0} is not a store of hydrometer-control; give another --store")]
    Foreign(PathBuf),
    /// The file is of a later version.
    #[error(
        "the store {path} has format {found}, this version reads formats up to {}; update hydrometer-control",
        file::FORMAT
    )]
    Format {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u128,
    },
    /// The file cannot be opened or created.
    #[error(
        "cannot open the store {path}: {cause}; create its folder, permit writing there, or give another --store"
    )]
    Open {
        /// The store.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Something stored cannot be read.
    #[error("the stored {0} is damaged; restore the store from a backup")]
    Damaged(String),
    /// There is no time left to read.
    #[error("the control plane is stopping")]
    Stopping,
    /// Reading or writing failed.
    #[error("the store failed: {0}; check the disk and its free space")]
    Database(Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// Position to time stored (Unix nanoseconds) and encoded anomaly.
const LOG: TableDefinition<'_, u64, (i64, &[u8])> = TableDefinition::new("log");
/// Position of a state to the encoded [`LostStates`] that were found missing when it came.
const LOSSES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("losses");
/// (node, boot_id) to encoded [`OriginState`].
const ORIGINS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("origins");

/// Name of a sink to the position up to which everything is dealt with.
const SINKS: TableDefinition<'_, &str, u64> = TableDefinition::new("sinks");

/// A page ends at whichever comes first.
const PAGE_ROWS: usize = 1024;
const PAGE_BYTES: usize = 256 << 10;

impl Store {
    /// Opens the store, or creates it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (database, id) = file::open(path)?;
        let newest = newest(&database)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        Ok(Self { database, id, folder, newest: watch::Sender::new(newest) })
    }

    /// Which store this is.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// Position of the newest stored state; 0 when none. It changes after each commit.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Positions of the oldest and the newest state that is stored; 0 when none.
    pub fn bounds(&self) -> Result<(u64, u64), StoreError> {
        let log = self.database.begin_read()?.open_table(LOG)?;
        let oldest = log.first()?.map_or(0, |(position, _)| position.value());
        Ok((oldest, log.last()?.map_or(0, |(position, _)| position.value())))
    }

    /// Bytes of all states, as the retention counts them.
    pub fn size(&self) -> Result<u64, StoreError> {
        retention::size(&self.database.begin_read()?.open_table(file::META)?)
    }

    /// Stores reports durably, leaving out what is stored already, and how far sinks have got; one receipt
    /// a report, in order. `now` is Unix nanoseconds.
    pub fn commit(
        &self,
        reports: &[Report],
        cursors: &[Cursor],
        now: i64,
    ) -> Result<Vec<Receipt>, StoreError> {
        let mut transaction = self.database.begin_write()?;
        // Opening after a crash must not read the whole store first.
        transaction.set_quick_repair(true);
        let (receipts, newest) = write::apply(&transaction, reports, cursors, now)?;
        transaction.commit()?;
        self.newest.send_if_modified(|known| std::mem::replace(known, newest) != newest);
        Ok(receipts)
    }

    /// The position up to which a sink has dealt with everything; nothing when it has never been here.
    pub fn cursor(&self, sink: &str) -> Result<Option<u64>, StoreError> {
        let sinks = self.database.begin_read()?.open_table(SINKS)?;
        Ok(sinks.get(sink)?.map(|position| position.value()))
    }

    /// What is stored after position `after`, up to and including `until`, oldest first. Not
    /// necessarily all of it: a page is bounded. Empty when there is nothing.
    pub fn page(&self, after: u64, until: u64) -> Result<Vec<Row>, StoreError> {
        let transaction = self.database.begin_read()?;
        let (log, losses) = (transaction.open_table(LOG)?, transaction.open_table(LOSSES)?);
        read_page(log.range(after.saturating_add(1)..=until)?, &losses)
    }

    /// What is stored before position `before`, newest first. Not necessarily all of it: a page is bounded. Empty
    /// when there is nothing.
    pub fn page_back(&self, before: u64) -> Result<Vec<Row>, StoreError> {
        let transaction = self.database.begin_read()?;
        let (log, losses) = (transaction.open_table(LOG)?, transaction.open_table(LOSSES)?);
        read_page(log.range(..before)?.rev(), &losses)
    }

    /// The last position that was stored before `time` (Unix nanoseconds); 0 when none.
    pub fn last_before(&self, time: i64) -> Result<u64, StoreError> {
        let log = self.database.begin_read()?.open_table(LOG)?;
        // Times never fall as positions rise, so bisection finds it: `low` was stored before.
        let oldest = log.first()?.map_or(1, |(position, _)| position.value());
        let (mut low, mut high) = (oldest - 1, log.last()?.map_or(0, |(position, _)| position.value()) + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match log.get(middle)? {
                Some(row) if row.value().0 < time => low = middle,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// What is known of an origin; nothing when it never reported.
    pub fn origin(&self, origin: &Origin) -> Result<Option<OriginState>, StoreError> {
        let origins = self.database.begin_read()?.open_table(ORIGINS)?;
        write::origin_state(&origins, origin)
    }
}

/// Runs a read of the store where it may block.
pub async fn blocking<T: Send + 'static>(
    store: &Arc<Store>,
    read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || read(&store)).await.unwrap_or(Err(StoreError::Stopping))
}

/// The begin of `entries` that makes a page.
fn read_page<'a>(
    entries: impl Iterator<Item = Result<Entry<'a>, redb::StorageError>>,
    losses: &impl ReadableTable<u64, &'static [u8]>,
) -> Result<Vec<Row>, StoreError> {
    let (mut rows, mut size) = (Vec::new(), 0);
    for entry in entries {
        let (position, value) = entry?;
        let (position, (stored, bytes)) = (position.value(), value.value());
        let damaged = |_| StoreError::Damaged(format!("anomaly at position {position}"));
        let anomaly = Anomaly::decode(bytes).map_err(damaged)?;
        let lost = losses
            .get(position)?
            .map(|lost| LostStates::decode(lost.value()).map_err(damaged))
            .transpose()?;
        rows.push(Row { position, stored, anomaly, lost });
        size += bytes.len();
        if rows.len() == PAGE_ROWS || size >= PAGE_BYTES {
            break;
        }
    }
    Ok(rows)
}

type Entry<'a> = (AccessGuard<'a, u64>, AccessGuard<'a, (i64, &'static [u8])>);

fn newest(database: &Database) -> Result<u64, StoreError> {
    let log = database.begin_read()?.open_table(LOG)?;
    Ok(log.last()?.map_or(0, |(position, _)| position.value()))
}

#[cfg(test)]
mod tests;
