//! A copy of the store, made while it is in use.
//!
//! The copy is one moment: everything that was acknowledged before it, and nothing that came after.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
};

use redb::{
    Database, Key, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition, Value,
    WriteTransaction, backends::FileBackend,
};

use super::{LOG, LOSSES, ORIGINS, SINKS, Store, StoreError, file::META};

impl Store {
    /// A file that holds a copy of the store. It has no name, and takes room on the store's disk until dropped.
    pub fn copy(&self) -> Result<File, StoreError> {
        let path = self.folder.join(format!("hydrometer-backup-{}", std::process::id()));
        let failed = |cause: io::Error| StoreError::Open { path: path.clone(), cause };
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        let backend = FileBackend::new(file.try_clone().map_err(failed)?)?;
        let copy = Database::builder().create_with_backend(backend)?;
        let (from, to) = (self.database.begin_read()?, copy.begin_write()?);
        copy_table(&from, &to, META)?;
        copy_table(&from, &to, LOG)?;
        copy_table(&from, &to, LOSSES)?;
        copy_table(&from, &to, ORIGINS)?;
        copy_table(&from, &to, SINKS)?;
        to.commit()?;
        drop(copy);
        Ok(file)
    }
}

fn copy_table<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    table: TableDefinition<'static, K, V>,
) -> Result<(), StoreError> {
    let mut target = to.open_table(table)?;
    for entry in from.open_table(table)?.iter()? {
        let (key, value) = entry?;
        target.insert(key.value(), value.value())?;
    }
    Ok(())
}
