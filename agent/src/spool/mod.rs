//! What waits for the control plane, on disk: it outlives the agent, and a loss of power.
//!
//! In flow encoded messages; out flow the same, each under a number of its own, until they are acknowledged.
//! Invariants: a number is given once within a numbering and ascends by one; what was given a number is
//! durable before anybody can read it, so nothing is sent that a restart could forget, and no number is used
//! again; the files never take more than the bound, and what it forces out, oldest first, is counted. Damaged
//! records are skipped and counted; a write that did not end was never sent, and is cut off.
//!
//! Every append is one `fdatasync`: what comes while the disk works is appended together.

mod record;
mod segment;

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use record::Tail;
use segment::{Numbering, Segment};

/// A spool has so many files, about.
const SEGMENTS: u64 = 16;
/// The longest record. The control plane takes no message above 256 KiB, of which the rest is its number.
pub const MAX_CONTENT: usize = (256 << 10) - 64;
/// The least that a spool may be bounded to, bytes.
pub const MIN_BYTES: u64 = 1 << 20;

/// A queue on disk.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    numbering: Numbering,
    max_bytes: u64,
    /// Oldest first; the last is written to. Never empty.
    segments: VecDeque<Segment>,
    acknowledged: u64,
    losses: Losses,
    /// Held for as long as the spool is open: one agent a spool.
    _lock: File,
}

/// What was lost, since the spool was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Records that the bound forced out before they were acknowledged.
    pub forced_out: u64,
    /// Stretches of damaged bytes that were skipped; each held one record or more.
    pub corrupt: u64,
    /// Writes that did not end.
    pub torn: u64,
}

/// Why a spool cannot be used.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// Another process has it open.
    #[error("the spool {0} is in use by another agent; give each its own with --control-plane-spool")]
    InUse(PathBuf),
    /// A record that no control plane would take.
    #[error("a record of {0} bytes is too long for the spool; at most {MAX_CONTENT} fit")]
    TooLong(usize),
    /// The file system refuses.
    #[error(
        "cannot {doing} the spool {path}: {error}; it must be a directory this agent may write to, with room"
    )]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

impl SpoolError {
    fn io(doing: &'static str, spool: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { doing, path: spool.to_owned(), error }
    }
}

impl Spool {
    /// Opens the spool in `directory`, which is made where it is not there. Its files take at most `max_bytes`, or
    /// [`MIN_BYTES`] where that is less.
    ///
    /// # Errors
    /// When another agent has it, or the file system refuses.
    pub fn open(directory: &Path, max_bytes: u64) -> Result<Self, SpoolError> {
        let failed = |doing| SpoolError::io(doing, directory);
        fs::create_dir_all(directory).map_err(failed("make"))?;
        let lock = File::create(directory.join("lock")).map_err(failed("lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => SpoolError::InUse(directory.to_owned()),
            fs::TryLockError::Error(error) => failed("lock")(error),
        })?;
        let mut losses = Losses::default();
        let (segments, numbering) = recover(directory, &mut losses).map_err(failed("read"))?;
        Ok(Self {
            directory: directory.to_owned(),
            numbering,
            max_bytes: max_bytes.max(MIN_BYTES),
            segments,
            acknowledged: 0,
            losses,
            _lock: lock,
        })
    }

    /// Identifies the numbering: the same for as long as the files are there.
    pub fn id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.numbering))
    }

    /// The number that was given last; 0 when none.
    pub fn last(&self) -> u64 {
        self.next() - 1
    }

    /// What its files take, bytes.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length as u64).sum()
    }

    /// Records that are not acknowledged.
    pub fn pending(&self) -> u64 {
        self.segments.iter().map(|segment| unacknowledged(segment, self.acknowledged)).sum()
    }

    /// What was lost.
    pub fn losses(&self) -> Losses {
        self.losses
    }

    /// Appends records, durably. Together they should take no more than half of the bound: one file holds them.
    ///
    /// # Errors
    /// When one is too long, or the disk refuses; then none was appended.
    pub fn append(&mut self, contents: &[Vec<u8>]) -> Result<(), SpoolError> {
        if let Some(content) = contents.iter().find(|content| content.len() > MAX_CONTENT) {
            return Err(SpoolError::TooLong(content.len()));
        }
        self.write(contents).map_err(SpoolError::io("write to", &self.directory))
    }

    fn write(&mut self, contents: &[Vec<u8>]) -> io::Result<()> {
        if self.segments.back().is_none_or(|last| last.length as u64 >= self.max_bytes / SEGMENTS) {
            self.segments.push_back(Segment::create(&self.directory, self.numbering, self.next())?);
        }
        // Room first: what is durable once has its numbers, and nothing may fail after that.
        let coming: usize = contents.iter().map(|content| record::length_with(content)).sum();
        while self.segments.len() > 1 && self.bytes() + coming as u64 > self.max_bytes {
            if let Some(oldest) = self.segments.pop_front() {
                self.losses.forced_out += unacknowledged(&oldest, self.acknowledged);
                oldest.remove()?;
            }
        }
        match self.segments.back_mut() {
            Some(last) => last.append(contents.iter().map(Vec::as_slice)),
            None => Ok(()),
        }
    }

    /// Reads the first record after the number `sequence`, if there is one.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn after(&self, sequence: u64) -> Result<Option<(u64, Vec<u8>)>, SpoolError> {
        for segment in &self.segments {
            if segment.next() > sequence + 1
                && let Some(found) =
                    segment.after(sequence).map_err(SpoolError::io("read", &self.directory))?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Everything up to the number `sequence` has arrived: files that hold no more than that go.
    ///
    /// # Errors
    /// When a file cannot be removed. It is not read again.
    pub fn acknowledge(&mut self, sequence: u64) -> Result<(), SpoolError> {
        // A control plane cannot have what was never sent.
        self.acknowledged = self.acknowledged.max(sequence.min(self.last()));
        while self.segments.len() > 1 && self.segments[0].next() <= self.acknowledged + 1 {
            if let Some(done) = self.segments.pop_front() {
                done.remove().map_err(SpoolError::io("remove files of", &self.directory))?;
            }
        }
        Ok(())
    }

    /// The number that is acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    fn next(&self) -> u64 {
        self.segments.back().map_or(1, Segment::next)
    }
}

fn unacknowledged(segment: &Segment, acknowledged: u64) -> u64 {
    (segment.places.len() - segment.places.partition_point(|place| place.sequence <= acknowledged)) as u64
}

/// The files of `directory` and their numbering; a first file where there is none.
fn recover(directory: &Path, losses: &mut Losses) -> io::Result<(VecDeque<Segment>, Numbering)> {
    let mut segments: VecDeque<Segment> = VecDeque::new();
    let mut numbering = None;
    // Numbers below have been given, perhaps.
    let mut skip = 1;
    for path in segment::list(directory)? {
        let Some((segment, its, damage)) = Segment::open(&path)? else {
            // Its head was torn when it was made, before anything was in it, or is damaged with all behind it.
            losses.torn += 1;
            fs::remove_file(&path)?;
            continue;
        };
        losses.corrupt += damage.corrupt;
        let is_next = segments.back().is_none_or(|last| last.next() <= segment.first);
        if numbering.is_none_or(|known| known == its) && is_next {
            numbering = Some(its);
            let next = segment.next();
            segments.push_back(segment);
            match damage.tail {
                Tail::Clean => {}
                Tail::Torn => losses.torn += 1,
                Tail::Damaged(records) => {
                    losses.corrupt += 1;
                    skip = next + records;
                }
            }
        } else {
            // Of another spool: its numbers mean nothing here.
            losses.corrupt += 1;
            segment.remove()?;
        }
    }
    let numbering = numbering.map_or_else(random, Ok)?;
    if segments.back().is_none_or(|last| last.next() < skip) {
        segments.push_back(Segment::create(directory, numbering, skip)?);
    }
    Ok((segments, numbering))
}

fn random() -> io::Result<Numbering> {
    let mut bytes = [0; size_of::<Numbering>()];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| io::Error::other("the system has no randomness"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(range: std::ops::Range<u32>) -> Vec<Vec<u8>> {
        range.map(|n| format!("record {n}").into_bytes()).collect()
    }

    fn all_after(spool: &Spool, mut sequence: u64) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        while let Some((next, content)) = spool.after(sequence).unwrap() {
            all.push((next, String::from_utf8(content).unwrap()));
            sequence = next;
        }
        all
    }

    fn files(directory: &Path) -> Vec<PathBuf> {
        segment::list(directory).unwrap()
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart_under_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), MIN_BYTES).unwrap();
        let id = spool.id();
        spool.append(&contents(1..3)).unwrap();
        assert!(matches!(Spool::open(folder.path(), MIN_BYTES), Err(SpoolError::InUse(_))));
        drop(spool);
        let mut spool = Spool::open(folder.path(), MIN_BYTES).unwrap();
        spool.append(&contents(3..4)).unwrap();
        assert_eq!((spool.id(), spool.last(), spool.losses()), (id, 3, Losses::default()));
        let third = (3, "record 3".to_owned());
        assert_eq!(
            all_after(&spool, 0),
            [(1, "record 1".to_owned()), (2, "record 2".to_owned()), third.clone()]
        );
        spool.acknowledge(2).unwrap();
        assert_eq!((spool.pending(), all_after(&spool, 2)), (1, vec![third]));
    }

    #[test]
    fn acknowledged_files_go_and_the_numbers_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), MIN_BYTES).unwrap();
        for _ in 0..7 {
            spool.append(&[vec![7; MAX_CONTENT / 2]]).unwrap();
        }
        assert_eq!(files(folder.path()).len(), 7);
        spool.acknowledge(99).unwrap();
        assert_eq!((spool.acknowledged(), spool.pending(), files(folder.path()).len()), (7, 0, 1));
        drop(spool);
        let mut spool = Spool::open(folder.path(), MIN_BYTES).unwrap();
        spool.append(&contents(8..9)).unwrap();
        assert_eq!(all_after(&spool, 7), [(8, "record 8".to_owned())]);
    }

    #[test]
    fn the_bound_forces_out_the_oldest_and_counts_what_was_not_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), MIN_BYTES).unwrap();
        spool.append(&[vec![7; MAX_CONTENT]]).unwrap();
        spool.acknowledge(1).unwrap();
        for _ in 0..20 {
            spool.append(&[vec![7; MAX_CONTENT]]).unwrap();
            assert!(spool.bytes() <= MIN_BYTES);
        }
        let kept = all_after(&spool, 0);
        assert_eq!(spool.losses().forced_out + kept.len() as u64, 20);
        assert_eq!(kept.last().unwrap().0, 21);
    }

    #[test]
    fn a_record_nobody_would_take_is_refused_and_the_others_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), MIN_BYTES).unwrap();
        let long = vec![0; MAX_CONTENT + 1];
        assert!(matches!(spool.append(&[Vec::new(), long]), Err(SpoolError::TooLong(_))));
        assert_eq!((spool.last(), spool.pending()), (0, 0));
    }

    #[test]
    fn a_torn_write_is_cut_off_and_its_number_given_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), MIN_BYTES).unwrap();
        spool.append(&contents(1..4)).unwrap();
        drop(spool);
        let file = &files(folder.path())[0];
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
        let mut spool = Spool::open(folder.path(), MIN_BYTES).unwrap();
        assert_eq!((spool.last(), spool.losses()), (2, Losses { torn: 1, ..Losses::default() }));
        spool.append(&contents(7..8)).unwrap();
        assert_eq!(all_after(&spool, 2), [(3, "record 7".to_owned())]);
    }

    #[test]
    fn damage_is_skipped_and_its_numbers_are_not_given_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), MIN_BYTES).unwrap();
        spool.append(&contents(1..4)).unwrap();
        drop(spool);
        let file = files(folder.path())[0].clone();
        let mut bytes = fs::read(&file).unwrap();
        let (first, last) = (40, bytes.len() - 1);
        bytes[first] ^= 1;
        bytes[last] ^= 1;
        fs::write(&file, bytes).unwrap();
        let mut spool = Spool::open(folder.path(), MIN_BYTES).unwrap();
        assert_eq!(spool.losses(), Losses { corrupt: 2, ..Losses::default() });
        spool.append(&contents(7..8)).unwrap();
        let kept = all_after(&spool, 0);
        assert_eq!(kept[0], (2, "record 2".to_owned()));
        assert_eq!((kept[1].0 > 3, kept[1].1.as_str()), (true, "record 7"));
    }

    #[test]
    fn files_of_others_are_no_reason_to_fail() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("00000000000000000001.spool"), "no head").unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let spool = Spool::open(folder.path(), MIN_BYTES).unwrap();
        assert_eq!((spool.last(), spool.losses().torn), (0, 1));
        assert!(folder.path().join("notes.txt").exists());
    }
}
