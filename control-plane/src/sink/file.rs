//! JSON lines in a file that is rotated by its size, and the file of dead letters.
//!
//! Invariant: when [`append`] has returned, the lines are on disk as a whole. What an earlier write left
//! unfinished, when the disk was full or the power went, is cut off first: it was never counted as delivered.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{Failure, finding::Finding, ocsf};
use crate::store::Row;

/// A file of JSON lines.
#[derive(Debug)]
pub(super) struct Lines {
    /// The newest file; older ones are called `path.1`, `path.2`, ….
    pub(super) path: PathBuf,
    /// Size that a file does not exceed.
    pub(super) max_bytes: u64,
    /// How many older files are kept.
    pub(super) keep: u32,
}

/// What happens when a file has grown to its bound, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// It becomes `path.1`, and so many older files are kept.
    Rotate(u64, u32),
    /// Nothing more is taken.
    Full(u64),
}

impl Lines {
    pub(super) async fn send(&self, rows: &[Row]) -> Result<(), Failure> {
        let mut text = String::new();
        for row in rows {
            text += &ocsf::render(Finding::of(row), usize::MAX).unwrap_or_default();
            text.push('\n');
        }
        append(self.path.clone(), text, Bound::Rotate(self.max_bytes, self.keep))
            .await
            .map_err(|error| Failure::Unavailable(error.to_string()))
    }
}

/// Appends whole lines, durably.
pub(super) async fn append(path: PathBuf, text: String, bound: Bound) -> io::Result<()> {
    let named = path.display().to_string();
    let writing = tokio::task::spawn_blocking(move || write(&path, &text, bound));
    let result = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    result.map_err(|error| io::Error::new(error.kind(), format!("cannot write {named}: {error}")))
}

fn write(path: &Path, text: &str, bound: Bound) -> io::Result<()> {
    let mut file = open(path)?;
    let length = mend(&mut file)?;
    match bound {
        Bound::Rotate(max, keep) if length > 0 && length + text.len() as u64 > max => {
            rotate(path, keep)?;
            file = open(path)?;
        }
        Bound::Full(max) if length + text.len() as u64 > max => {
            return Err(io::Error::other("it is full; look at what is in it, and move it away"));
        }
        _ => {}
    }
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

/// Cuts off a line without an end; the length after that.
fn mend(file: &mut File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let whole = end;
    let mut block = [0; 4096];
    while end > 0 {
        let begin = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - begin) as usize];
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(part)?;
        if let Some(line_end) = part.iter().rposition(|&byte| byte == b'\n') {
            end = begin + line_end as u64 + 1;
            break;
        }
        end = begin;
    }
    if end < whole {
        file.set_len(end)?;
    }
    Ok(end)
}

/// Makes room for a new file; the oldest goes.
fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    if keep == 0 {
        return std::fs::remove_file(path);
    }
    for number in (1..keep).rev() {
        match std::fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_rotate_by_size_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        for number in 0..10 {
            write(&path, &format!("line {number}\n"), Bound::Rotate(14, 2)).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("a.jsonl"), "line 8\nline 9\n");
        assert_eq!(read("a.jsonl.1"), "line 6\nline 7\n");
        assert_eq!(read("a.jsonl.2"), "line 4\nline 5\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_line_that_was_not_finished_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let torn = "x".repeat(10_000);
        for (before, after) in
            [(String::new(), ""), (torn.clone(), ""), (format!("whole\n{torn}"), "whole\n")]
        {
            std::fs::write(&path, before).unwrap();
            write(&path, "next\n", Bound::Full(100)).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{after}next\n"));
        }
    }

    #[test]
    fn a_full_file_takes_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        write(&path, "12345\n", Bound::Full(10)).unwrap();
        let error = write(&path, "12345\n", Bound::Full(10)).unwrap_err();
        assert!(error.to_string().contains("full"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "12345\n");
    }
}
