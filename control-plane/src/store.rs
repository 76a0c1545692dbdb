//! The store: every state of every anomaly of the fleet, in one redb file.
//!
//! In flows a batch of what agents said, out flow pages of what is stored. Every call blocks on the
//! disk. Invariants: a batch is on disk as a whole when [`Store::commit`] returns; positions count
//! from 1 without gaps, and a later position was never stored at an earlier time; one (node,
//! boot_id, sequence) has at most one position.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use hydrometer_proto::v1::Anomaly;
use prost::Message as _;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable, TableDefinition, TableHandle as _,
    WriteTransaction, backends::FileBackend,
};
use tokio::sync::watch;

use crate::token::StoreId;

/// The store of one control plane.
pub struct Store {
    database: Database,
    id: StoreId,
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
        "the store {path} has format {found}, this version reads format {FORMAT}; update hydrometer-control"
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

const FORMAT: u128 = 1;
const META: TableDefinition<'_, &str, u128> = TableDefinition::new("meta");
/// Position to time stored (Unix nanoseconds) and encoded anomaly.
const LOG: TableDefinition<'_, u64, (i64, &[u8])> = TableDefinition::new("log");
/// (node, boot_id) to encoded [`OriginState`].
const ORIGINS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("origins");

/// Name of a sink to the position up to which everything is dealt with.
const SINKS: TableDefinition<'_, &str, u64> = TableDefinition::new("sinks");

/// Pages are cached up to this size; the newest end of the log is what is read most.
const CACHE_BYTES: usize = 64 << 20;
/// A page ends at whichever comes first.
const PAGE_ROWS: usize = 1024;
const PAGE_BYTES: usize = 256 << 10;

impl Store {
    /// Opens the store, or creates it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = open_database(path)?;
        let id = identify(&database, path)?;
        let newest = newest(&database)?;
        Ok(Self { database, id, newest: watch::Sender::new(newest) })
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
        let (receipts, newest) = apply(&transaction, reports, now)?;
        {
            let mut sinks = transaction.open_table(SINKS)?;
            for Cursor { sink, position } in cursors {
                sinks.insert(sink.as_str(), position)?;
            }
        }
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
        let log = self.database.begin_read()?.open_table(LOG)?;
        let mut rows = Vec::new();
        let mut size = 0;
        for entry in log.range(after.saturating_add(1)..=until)? {
            let (position, value) = entry?;
            let (position, (stored, bytes)) = (position.value(), value.value());
            let damaged = |_| StoreError::Damaged(format!("anomaly at position {position}"));
            let anomaly = Anomaly::decode(bytes).map_err(damaged)?;
            rows.push(Row { position, stored, anomaly });
            size += bytes.len();
            if rows.len() == PAGE_ROWS || size >= PAGE_BYTES {
                break;
            }
        }
        Ok(rows)
    }

    /// The last position that was stored before `time` (Unix nanoseconds); 0 when none.
    pub fn last_before(&self, time: i64) -> Result<u64, StoreError> {
        let log = self.database.begin_read()?.open_table(LOG)?;
        // Times never fall as positions rise, so bisection finds it: `low` was stored before.
        let (mut low, mut high) = (0, log.last()?.map_or(0, |(position, _)| position.value()) + 1);
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
        origin_state(&origins, origin)
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

fn origin_state(
    origins: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    origin: &Origin,
) -> Result<Option<OriginState>, StoreError> {
    let damaged = |_| StoreError::Damaged(format!("state of node {}", origin.node));
    let state = origins.get(key(origin))?;
    state.map(|state| OriginState::decode(state.value()).map_err(damaged)).transpose()
}

fn key(origin: &Origin) -> (&str, &str) {
    (&origin.node, &origin.boot_id)
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    let failed = |cause| StoreError::Open { path: path.to_owned(), cause };
    let mut options = OpenOptions::new();
    // Anomalies name clients: nobody else on the host reads them.
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(failed)?;
    sync_folder(path).map_err(failed)?;
    let opened = FileBackend::new(file)
        .and_then(|file| Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(file));
    opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Locked(path.to_owned()),
        DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() == io::ErrorKind::InvalidData =>
        {
            StoreError::Foreign(path.to_owned())
        }
        other => other.into(),
    })
}

/// A file just created must not vanish with a power cut after its content was acknowledged.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Reads the identity of the store, or gives one to a new file.
fn identify(database: &Database, path: &Path) -> Result<StoreId, StoreError> {
    let foreign = || StoreError::Foreign(path.to_owned());
    let transaction = database.begin_write()?;
    let tables: Vec<String> = transaction.list_tables()?.map(|table| table.name().to_owned()).collect();
    if !tables.is_empty() && !tables.iter().any(|table| table == META.name()) {
        return Err(foreign());
    }
    let id = {
        let mut meta = transaction.open_table(META).map_err(|_| foreign())?;
        if tables.is_empty() {
            meta.insert("format", FORMAT)?;
            meta.insert("id", random().map_err(|cause| StoreError::Open { path: path.to_owned(), cause })?)?;
        }
        let format = meta.get("format")?.ok_or_else(foreign)?.value();
        if format != FORMAT {
            return Err(StoreError::Format { path: path.to_owned(), found: format });
        }
        StoreId(meta.get("id")?.ok_or_else(foreign)?.value())
    };
    transaction.open_table(LOG)?;
    transaction.open_table(ORIGINS)?;
    transaction.open_table(SINKS)?;
    transaction.commit()?;
    Ok(id)
}

fn random() -> io::Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_ne_bytes(bytes))
}

fn newest(database: &Database) -> Result<u64, StoreError> {
    let log = database.begin_read()?.open_table(LOG)?;
    Ok(log.last()?.map_or(0, |(position, _)| position.value()))
}

/// Writes a batch into a transaction; the receipts and the newest position after it.
fn apply(
    transaction: &WriteTransaction,
    batch: &[Report],
    now: i64,
) -> Result<(Vec<Receipt>, u64), StoreError> {
    let mut log = transaction.open_table(LOG)?;
    let mut origins = transaction.open_table(ORIGINS)?;
    let last = log.last()?.map(|(position, row)| (position.value(), row.value().0));
    let (mut newest, last_stored) = last.unwrap_or((0, i64::MIN));
    // The clock of the host may step back; the order of the log must not.
    let stored = now.max(last_stored);
    let mut receipts = Vec::with_capacity(batch.len());
    for Report { origin, what } in batch {
        let mut state = origin_state(&origins, origin)?.unwrap_or_default();
        state.last_seen = now;
        let mut missing = 0;
        match what {
            What::Hello { version } => state.version.clone_from(version),
            What::Heartbeat { losses, clients } => (state.losses, state.clients) = (*losses, *clients),
            What::Anomaly { sequence, bytes } if *sequence > state.acked => {
                newest += 1;
                log.insert(newest, (stored, bytes.as_slice()))?;
                missing = sequence - state.acked - 1;
                state.missing = state.missing.saturating_add(missing);
                state.acked = *sequence;
            }
            What::Anomaly { .. } => {}
        }
        origins.insert(key(origin), state.encode_to_vec().as_slice())?;
        receipts.push(Receipt { acked: state.acked, missing });
    }
    Ok((receipts, newest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("control.redb")).unwrap();
        (folder, store)
    }

    fn origin(boot_id: &str) -> Arc<Origin> {
        Arc::new(Origin { node: "gpu-1".into(), boot_id: boot_id.into() })
    }

    fn anomaly(boot_id: &str, sequence: u64) -> Report {
        let bytes = Anomaly { id: format!("{boot_id}/{sequence}"), ..Anomaly::default() }.encode_to_vec();
        Report { origin: origin(boot_id), what: What::Anomaly { sequence, bytes } }
    }

    fn ids(store: &Store) -> Vec<String> {
        store.page(0, u64::MAX).unwrap().into_iter().map(|row| row.anomaly.id).collect()
    }

    #[test]
    fn a_sequence_number_is_stored_once_within_and_across_batches() {
        let (_folder, store) = store();
        store.commit(&[anomaly("a", 1), anomaly("a", 1), anomaly("b", 1)], &[], 0).unwrap();
        let receipts = store.commit(&[anomaly("a", 1), anomaly("a", 2)], &[], 0).unwrap();
        assert_eq!(ids(&store), ["a/1", "b/1", "a/2"]);
        assert_eq!(receipts, [Receipt { acked: 1, missing: 0 }, Receipt { acked: 2, missing: 0 }]);
    }

    #[test]
    fn a_gap_is_counted_and_what_follows_is_stored() {
        let (_folder, store) = store();
        let receipts = store.commit(&[anomaly("a", 1), anomaly("a", 5), anomaly("a", 3)], &[], 0).unwrap();
        assert_eq!(receipts.iter().map(|receipt| receipt.missing).collect::<Vec<_>>(), [0, 3, 0]);
        assert_eq!(ids(&store), ["a/1", "a/5"]);
        assert_eq!(store.origin(&origin("a")).unwrap().unwrap().missing, 3);
    }

    #[test]
    fn a_heartbeat_refreshes_the_node_and_stores_nothing() {
        let (_folder, store) = store();
        let hello = Report { origin: origin("a"), what: What::Hello { version: "0.1.0".into() } };
        let heartbeat = Report { origin: origin("a"), what: What::Heartbeat { losses: 7, clients: 9 } };
        store.commit(&[hello], &[], 10).unwrap();
        store.commit(&[heartbeat], &[], 20).unwrap();
        let expected = OriginState {
            last_seen: 20,
            version: "0.1.0".into(),
            losses: 7,
            clients: 9,
            ..OriginState::default()
        };
        assert_eq!(store.origin(&origin("a")).unwrap(), Some(expected));
        assert_eq!(ids(&store), Vec::<String>::new());
    }

    #[test]
    fn the_cursor_of_a_sink_is_kept_by_name_and_wakes_nobody() {
        let (folder, store) = store();
        let newest = store.newest();
        let cursor = |sink: &str, position| Cursor { sink: sink.into(), position };
        store.commit(&[], &[cursor("siem", 7), cursor("archive", 9), cursor("siem", 8)], 0).unwrap();
        assert!(!newest.has_changed().unwrap());
        drop(store);
        let store = Store::open(&folder.path().join("control.redb")).unwrap();
        assert_eq!(
            ["siem", "archive", "other"].map(|sink| store.cursor(sink).unwrap()),
            [Some(8), Some(9), None]
        );
    }

    #[test]
    fn everything_is_there_again_after_reopening() {
        let (folder, store) = store();
        store.commit(&[anomaly("a", 1), anomaly("a", 2)], &[], 5).unwrap();
        let (id, rows) = (store.id(), store.page(0, u64::MAX).unwrap());
        drop(store);
        let store = Store::open(&folder.path().join("control.redb")).unwrap();
        assert_eq!((store.id(), *store.newest().borrow()), (id, 2));
        assert_eq!(store.page(0, u64::MAX).unwrap(), rows);
    }

    #[test]
    fn pages_put_together_are_the_whole_log() {
        let (_folder, store) = store();
        let count = PAGE_ROWS as u64 * 2 + 1;
        store
            .commit(&(1..=count).map(|sequence| anomaly("a", sequence)).collect::<Vec<_>>(), &[], 0)
            .unwrap();
        let (mut positions, mut pages) = (Vec::new(), 0);
        loop {
            let page = store.page(positions.last().copied().unwrap_or(0), count).unwrap();
            if page.is_empty() {
                break;
            }
            pages += 1;
            positions.extend(page.iter().map(|row| row.position));
        }
        assert_eq!(positions, (1..=count).collect::<Vec<_>>());
        assert_eq!(pages, 3);
    }

    #[test]
    fn a_page_of_large_anomalies_is_short() {
        let (_folder, store) = store();
        let large = |sequence| {
            let anomaly = Anomaly { id: "x".repeat(PAGE_BYTES / 2), ..Anomaly::default() };
            Report { origin: origin("a"), what: What::Anomaly { sequence, bytes: anomaly.encode_to_vec() } }
        };
        store.commit(&(1..=5).map(large).collect::<Vec<_>>(), &[], 0).unwrap();
        assert_eq!(store.page(0, u64::MAX).unwrap().len(), 2);
    }

    #[test]
    fn a_time_finds_its_place_also_when_the_clock_stepped_back() {
        let (_folder, store) = store();
        assert_eq!(store.last_before(0).unwrap(), 0);
        for (sequence, now) in [(1, 10), (2, 20), (3, 15), (4, 20), (5, 30)] {
            store.commit(&[anomaly("a", sequence)], &[], now).unwrap();
        }
        let stored: Vec<i64> = store.page(0, u64::MAX).unwrap().iter().map(|row| row.stored).collect();
        assert_eq!(stored, [10, 20, 20, 20, 30]);
        for (time, expected) in
            [(i64::MIN, 0), (10, 0), (11, 1), (20, 1), (21, 4), (30, 4), (31, 5), (i64::MAX, 5)]
        {
            assert_eq!(store.last_before(time).unwrap(), expected, "before {time}");
        }
    }

    #[test]
    fn files_of_others_are_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("notes.txt");
        std::fs::write(&text, "not a store, but long enough to be read as one".repeat(1000)).unwrap();
        let other = folder.path().join("other.redb");
        let database = Database::create(&other).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(TableDefinition::<'_, u64, u64>::new("accounts")).unwrap();
        transaction.commit().unwrap();
        drop(database);
        for path in [text, other] {
            let before = std::fs::read(&path).unwrap();
            let error = Store::open(&path).err().unwrap();
            assert!(matches!(&error, StoreError::Foreign(named) if *named == path), "{error}");
            assert_eq!(std::fs::read(&path).unwrap().len(), before.len());
        }
    }

    #[test]
    fn a_store_of_a_later_format_is_refused() {
        let (folder, store) = store();
        let transaction = store.database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("format", FORMAT + 1).unwrap();
        transaction.commit().unwrap();
        drop(store);
        let error = Store::open(&folder.path().join("control.redb")).err().unwrap();
        assert!(error.to_string().contains("update hydrometer-control"), "{error}");
    }
}
