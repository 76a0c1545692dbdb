//! The file behind the store: opened or created, identified, and brought to the present format.
//!
//! A format is a set of tables and what their bytes mean. An older one is changed into the present one,
//! in the transaction that says so; a newer one is refused and left alone.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use redb::{
    Database, DatabaseError, ReadableTable as _, TableDefinition, TableHandle as _, WriteTransaction,
    backends::FileBackend,
};

use super::{LOG, LOSSES, ORIGINS, SINKS, StoreError, retention};
use crate::token::StoreId;

/// The present format. 1 had neither cursors of sinks nor losses, and did not know its size.
pub(super) const FORMAT: u128 = 2;
pub(super) const META: TableDefinition<'_, &str, u128> = TableDefinition::new("meta");
/// Pages are cached up to this size; the newest end of the log is what is read most.
const CACHE_BYTES: usize = 64 << 20;

/// Opens the file, or creates it.
pub(super) fn open(path: &Path) -> Result<(Database, StoreId), StoreError> {
    let database = open_database(path)?;
    let id = identify(&database, path)?;
    Ok((database, id))
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
    let (id, format_before) = {
        let mut meta = transaction.open_table(META).map_err(|_| foreign())?;
        if tables.is_empty() {
            meta.insert("format", FORMAT)?;
            meta.insert("id", random().map_err(|cause| StoreError::Open { path: path.to_owned(), cause })?)?;
        }
        let format = meta.get("format")?.ok_or_else(foreign)?.value();
        if format > FORMAT {
            return Err(StoreError::Format { path: path.to_owned(), found: format });
        }
        if format < FORMAT {
            tracing::info!(store = %path.display(), from = format, to = FORMAT, "store is brought to a new format");
            meta.insert("format", FORMAT)?;
        }
        (StoreId(meta.get("id")?.ok_or_else(foreign)?.value()), format)
    };
    create_tables(&transaction)?;
    if !tables.is_empty() && format_before < 2 {
        retention::measure(&transaction)?;
    }
    transaction.commit()?;
    Ok(id)
}

/// All tables of the present format: those of older formats mean the same, and new ones begin empty.
fn create_tables(transaction: &WriteTransaction) -> Result<(), StoreError> {
    transaction.open_table(LOG)?;
    transaction.open_table(LOSSES)?;
    transaction.open_table(ORIGINS)?;
    transaction.open_table(SINKS)?;
    Ok(())
}

fn random() -> io::Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_ne_bytes(bytes))
}
