//! One file of the spool: a head, and records that ascend.
//!
//! The head is a magic of 8 bytes, which holds the version, and the identifier of the numbering, 16 bytes.
//! The file's name is the number that its first record has or would have, so an empty file remembers it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::record::{self, Place, Tail};

/// Identifies a numbering: every number is given once within it.
pub(super) type Numbering = [u8; 16];

const MAGIC: [u8; 8] = *b"HYDSPL\0\x01";
const HEAD: usize = MAGIC.len() + size_of::<Numbering>();
const EXTENSION: &str = "spool";

/// An open file of the spool.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    /// Number of the first record, there or to come.
    pub(super) first: u64,
    /// Its records.
    pub(super) places: Vec<Place>,
    /// Its length, bytes.
    pub(super) length: usize,
}

/// What was wrong with a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Damage {
    /// Stretches that were skipped.
    pub(super) corrupt: u64,
    /// What was behind the last whole record.
    pub(super) tail: Tail,
}

impl Segment {
    /// Makes an empty file whose first record will have the number `first`.
    pub(super) fn create(directory: &Path, numbering: Numbering, first: u64) -> io::Result<Self> {
        let path = directory.join(format!("{first:020}.{EXTENSION}"));
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(&MAGIC)?;
        file.write_all(&numbering)?;
        file.sync_all()?;
        File::open(directory)?.sync_all()?;
        Ok(Self { path, file, first, places: Vec::new(), length: HEAD })
    }

    /// Opens the file at `path`, and cuts off what is behind its last whole record. `None` where this is no spool
    /// file, or its head was never written.
    pub(super) fn open(path: &Path) -> io::Result<Option<(Self, Numbering, Damage)>> {
        let Some(first) = number(path) else { return Ok(None) };
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let bytes = fs::read(path)?;
        let Some(numbering) = bytes.get(..HEAD).and_then(|head| head.strip_prefix(&MAGIC)) else {
            return Ok(None);
        };
        let Ok(numbering) = numbering.try_into() else { return Ok(None) };
        let found = record::scan(&bytes, HEAD);
        if found.tail != Tail::Clean {
            file.set_len(found.end as u64)?;
            file.sync_all()?;
        }
        let damage = Damage { corrupt: found.corrupt, tail: found.tail };
        let segment = Self { path: path.to_owned(), file, first, places: found.places, length: found.end };
        Ok(Some((segment, numbering, damage)))
    }

    /// Number after that of its last record.
    pub(super) fn next(&self) -> u64 {
        self.places.last().map_or(self.first, |place| place.sequence + 1)
    }

    /// Appends `contents` under the numbers from [`next`](Self::next) on, durably: when this returns, no loss of
    /// power takes them back. After an error the file is as it was.
    pub(super) fn append<'a>(&mut self, contents: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        for (content, sequence) in contents.zip(self.next()..) {
            record::write(&mut bytes, sequence, content);
            let end = self.length + bytes.len();
            places.push(Place { sequence, content: end - content.len()..end });
        }
        let written = self.file.write_all_at(&bytes, self.length as u64).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What was written in part must not be found by a later start.
            self.file.set_len(self.length as u64)?;
            return Err(error);
        }
        self.length += bytes.len();
        self.places.append(&mut places);
        Ok(())
    }

    /// Reads the first record after the number `sequence`.
    pub(super) fn after(&self, sequence: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        let next = self.places.partition_point(|place| place.sequence <= sequence);
        let Some(place) = self.places.get(next) else { return Ok(None) };
        let mut content = vec![0; place.content.len()];
        self.file.read_exact_at(&mut content, place.content.start as u64)?;
        Ok(Some((place.sequence, content)))
    }

    /// Removes the file.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Spool files of `directory`, oldest first.
pub(super) fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if number(&path).is_some() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn number(path: &Path) -> Option<u64> {
    if path.extension()? != EXTENSION {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}
