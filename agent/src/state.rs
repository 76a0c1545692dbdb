//! What the agent remembers across restarts: the engine, and the anomalies that it shows.
//!
//! In flow an engine and anomalies, out flows one file, written whole beside the old one and then put in its place, so
//! that a kill or a loss of power leaves one or the other. The engine is turned into bytes between two drains of the
//! kernel; writing them is another thread's work.
//!
//! ```text
//! engine     as `Engine::save` writes it
//! anomalies  each an hydrometer.v1.Anomaly with its length before it
//! check      u32, little-endian, CRC-32 of the anomalies
//! length     u64, little-endian, of the engine
//! ```

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hydrometer_engine::{Engine, EngineConfig, LoadError, Nanos};
use hydrometer_proto::v1;
use prost::Message as _;
use thiserror::Error;
use tokio::{task::JoinHandle, time::Instant};

use crate::convert;

/// A change of an anomaly is written this soon.
const SOON: Duration = Duration::from_secs(10);

/// Turning the engine into bytes takes this share of the pipeline's time at most.
const SHARE: u32 = 50;

/// The file, which is this process's for as long as this is held.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    _lock: File,
}

/// What was remembered.
#[derive(Debug)]
pub struct Memory {
    /// The engine, as it was.
    pub engine: Engine,
    /// The anomalies, each in its newest state.
    pub anomalies: Vec<v1::Anomaly>,
}

/// Why a state cannot be kept.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another process has it.
    #[error("the state {0} is in use by another agent; give each its own with --state FILE, or --state none")]
    InUse(PathBuf),
    /// The file system refuses.
    #[error(
        "cannot {doing} the state {path}: {error}; its folder must be there or makeable, writable, and have room \
         (--state FILE, or --state none to learn anew at every start)"
    )]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is damaged, or from another version.
    #[error("cannot use the state {path}: {reason}")]
    Unusable {
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: LoadError,
    },
}

impl StateFile {
    /// Takes the file at `path`; its folder is made where it is not there.
    ///
    /// # Errors
    /// When another agent has it, or the file system refuses.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |error| io_error("make the folder of", path, error);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock = beside(path, ".lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock);
        let lock = lock.map_err(|error| io_error("lock", path, error))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => StateError::InUse(path.to_owned()),
            fs::TryLockError::Error(error) => io_error("lock", path, error),
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was written last, under these settings; `None` where nothing was.
    ///
    /// # Errors
    /// When the file system refuses, or what is there cannot be used.
    pub fn read(&self, config: EngineConfig) -> Result<Option<Memory>, StateError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &self.path, error)),
        };
        decode(config, &bytes)
            .map(Some)
            .map_err(|reason| StateError::Unusable { path: self.path.clone(), reason })
    }

    /// Puts `bytes` in place of what was written before.
    ///
    /// # Errors
    /// When the file system refuses; what was written before is still there.
    pub fn write(&self, bytes: &[u8]) -> Result<(), StateError> {
        self.replace(bytes).map_err(|error| io_error("write", &self.path, error))
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let new = beside(&self.path, ".new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn io_error(doing: &'static str, path: &Path, error: io::Error) -> StateError {
    StateError::Io { doing, path: path.to_owned(), error }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The bytes of a file that remembers these; `None` when the engine cannot be turned into any.
pub fn encode<'a>(engine: &Engine, anomalies: impl Iterator<Item = &'a v1::Anomaly>) -> Option<Vec<u8>> {
    // The engine is by far the most, and is not copied.
    let mut bytes = engine.save().ok()?;
    let length = bytes.len();
    for anomaly in anomalies {
        bytes.extend(anomaly.encode_length_delimited_to_vec());
    }
    let check = crc32fast::hash(&bytes[length..]);
    bytes.extend(check.to_le_bytes());
    bytes.extend((length as u64).to_le_bytes());
    Some(bytes)
}

fn decode(config: EngineConfig, bytes: &[u8]) -> Result<Memory, LoadError> {
    let damaged = || LoadError::Damaged("its anomalies cannot be read".to_owned());
    let (before, length) = bytes.split_last_chunk().ok_or(LoadError::Foreign)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let (engine, behind) = before.split_at(length.min(before.len()));
    let engine = Engine::load(config, engine)?;
    let (mut rest, check) = behind.split_last_chunk().ok_or_else(damaged)?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*check) {
        return Err(damaged());
    }
    let mut anomalies = Vec::new();
    while !rest.is_empty() {
        anomalies.push(v1::Anomaly::decode_length_delimited(&mut rest).map_err(|_| damaged())?);
    }
    Ok(Memory { engine, anomalies })
}

/// Decides when the state is written, and has it written.
#[derive(Debug)]
pub struct Keeper {
    file: Arc<StateFile>,
    every: Duration,
    due: Instant,
    /// Not sooner, however much changes.
    earliest: Instant,
    writing: Option<JoinHandle<Result<usize, StateError>>>,
    account: StateAccount,
}

/// The keeper's own account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateAccount {
    /// Where.
    pub path: PathBuf,
    /// When it was last written since the start.
    pub saved: Option<Nanos>,
    /// Its length then.
    pub bytes: u64,
    /// Whether the agent went on with what it had remembered.
    pub resumed: bool,
    /// How often it could not be written.
    pub failed: u64,
    /// Whether what was there could not be used.
    pub discarded: bool,
}

impl Keeper {
    /// Writes `file` after each `every`.
    pub fn new(file: StateFile, every: Duration) -> Self {
        let now = Instant::now();
        let account = StateAccount { path: file.path().to_owned(), ..StateAccount::default() };
        Self { file: Arc::new(file), every, due: now + every, earliest: now, writing: None, account }
    }

    /// What was remembered; what cannot be used is said, counted, and learnt anew.
    pub fn recall(&mut self, config: EngineConfig) -> Option<Memory> {
        match self.file.read(config) {
            Ok(memory) => {
                self.account.resumed = memory.is_some();
                memory
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "starting without a memory");
                self.account.discarded = true;
                None
            }
        }
    }

    /// An anomaly changed, and should not be forgotten.
    pub fn hurry(&mut self) {
        self.due = self.due.min(Instant::now() + SOON);
    }

    /// Whether it is time to write.
    pub async fn is_due(&mut self) -> bool {
        if self.writing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.settle().await;
        }
        let now = Instant::now();
        self.writing.is_none() && now >= self.due && now >= self.earliest
    }

    /// Writes these bytes, which it took so long to make.
    pub fn write(&mut self, bytes: Vec<u8>, took: Duration) {
        let now = Instant::now();
        self.due = now + self.every;
        self.earliest = now + took * SHARE;
        let file = Arc::clone(&self.file);
        self.writing = Some(tokio::task::spawn_blocking(move || file.write(&bytes).map(|()| bytes.len())));
    }

    /// Waits until what is being written is.
    pub async fn settle(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        match writing.await {
            Ok(Ok(bytes)) => {
                self.account.saved = Some(crate::pipeline::now());
                self.account.bytes = bytes as u64;
            }
            Ok(Err(error)) => self.failed(&error),
            Err(error) => self.failed(&error),
        }
    }

    /// What it has to say.
    pub fn account(&self) -> &StateAccount {
        &self.account
    }

    fn failed(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.account.failed += 1;
        tracing::warn!(error, failures = self.account.failed, "the state was not written");
    }
}

/// The account as a message.
pub fn status(account: &StateAccount) -> v1::StateStatus {
    v1::StateStatus {
        path: account.path.display().to_string(),
        saved: account.saved.map(convert::timestamp),
        bytes: account.bytes,
        resumed: account.resumed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anomaly(id: &str) -> v1::Anomaly {
        v1::Anomaly { id: id.to_owned(), revision: 3, ..v1::Anomaly::default() }
    }

    fn saved() -> Vec<u8> {
        let anomalies = [anomaly("a"), anomaly("b")];
        encode(&Engine::new(EngineConfig::default()), anomalies.iter()).unwrap()
    }

    #[test]
    fn what_was_written_is_remembered_by_the_next_agent_and_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("engine.state");
        let file = StateFile::open(&path).unwrap();
        assert!(matches!(StateFile::open(&path), Err(StateError::InUse(_))));
        assert!(file.read(EngineConfig::default()).unwrap().is_none());
        file.write(b"an older one, and longer than what comes after it").unwrap();
        file.write(&saved()).unwrap();
        drop(file);
        let memory = StateFile::open(&path).unwrap().read(EngineConfig::default()).unwrap().unwrap();
        assert_eq!(memory.anomalies, [anomaly("a"), anomaly("b")]);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "the file and its lock");
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_the_damage_is() {
        let whole = saved();
        for at in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[at] ^= 1;
            assert!(decode(EngineConfig::default(), &wrong).is_err(), "bit at {at}");
            assert!(decode(EngineConfig::default(), &whole[..at]).is_err(), "cut at {at}");
        }
    }

    #[tokio::test]
    async fn an_unusable_file_is_counted_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engine.state");
        fs::write(&path, "no state").unwrap();
        let mut keeper = Keeper::new(StateFile::open(&path).unwrap(), Duration::from_hours(1));
        assert!(keeper.recall(EngineConfig::default()).is_none());
        assert!(keeper.account().discarded && !keeper.is_due().await);
        keeper.write(saved(), Duration::ZERO);
        keeper.settle().await;
        assert!(keeper.account().saved.is_some() && keeper.account().failed == 0);
        assert!(keeper.recall(EngineConfig::default()).is_some());
    }
}
