//! What the operator has said of anomalies on the command line: mutes and acknowledgements, kept in a file.
//!
//! In flows one remark at a time; out flow all that hold, to the engine and into the file. Invariant: the file holds
//! what the engine was told, also when the machine loses its power in between: it is written beside, synced and put in
//! place before anybody is told.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use hydrometer_engine::{
    Acknowledgement, Context, Ipv6Prefix, Mute, Nanos, Said, Target,
    anomaly::{AnomalyKind, Remark},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Mutes that hold at a time: each is held against each anomaly that is open.
pub const MAX_MUTES: usize = 1_000;
/// Acknowledgements that hold at a time.
const MAX_ACKNOWLEDGEMENTS: usize = 10_000;

/// What was said, and where it is kept.
#[derive(Clone, Debug)]
pub struct Mutes {
    path: PathBuf,
    /// Those of the settings, which are not kept here.
    settings: Vec<Mute>,
    held: Vec<Mute>,
    acknowledgements: Vec<Acknowledgement>,
}

/// A mute, and where it was said.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The mute.
    pub mute: Mute,
    /// Whether in the settings.
    pub is_set: bool,
}

/// Why a remark cannot be kept, or those kept cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MutesError {
    /// The file is there and cannot be read.
    #[error("cannot read the mutes in {}: {source}; let the agent read it, or give --mutes", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no mutes: {problem}; mend it, or remove it and mute anew", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// The file cannot be written.
    #[error("cannot keep it in {}: {source}; nothing was changed", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are too many.
    #[error("{0} are held already, and that is the most: end some, or name a network")]
    Full(usize),
}

impl Mutes {
    /// Reads those that were kept; of clients' IPv6 addresses `prefix` counts.
    pub fn open(path: &Path, context: &Context, prefix: Ipv6Prefix) -> Result<Self, MutesError> {
        let mut mutes = Self {
            path: path.to_owned(),
            settings: context.mutes.clone(),
            held: Vec::new(),
            acknowledgements: Vec::new(),
        };
        match fs::read_to_string(path) {
            Ok(text) => {
                let kept = Kept::read(&text, prefix);
                let kept = kept.map_err(|problem| MutesError::Parse { path: path.to_owned(), problem })?;
                (mutes.held, mutes.acknowledgements) = kept;
                Ok(mutes)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(mutes),
            Err(source) => Err(MutesError::Read { path: path.to_owned(), source }),
        }
    }

    /// What was said, for the engine.
    pub fn said(&self) -> Said {
        Said { mutes: self.held.clone(), acknowledgements: self.acknowledgements.clone() }
    }

    /// The mutes that hold at `now`, those that end first, first.
    pub fn standing(&self, now: Nanos) -> Vec<Standing> {
        let of = |mutes: &[Mute], is_set| -> Vec<Standing> {
            let holding = mutes.iter().filter(|mute| mute.remark.holds(now));
            holding.map(|mute| Standing { mute: mute.clone(), is_set }).collect()
        };
        let mut standing = of(&self.settings, true);
        standing.extend(of(&self.held, false));
        standing.sort_by_key(|standing| standing.mute.remark.until);
        standing
    }

    /// The same with `mute`, in place of what was said of the same target and kind, in the file as well.
    pub fn with(mut self, mute: Mute) -> Result<Self, MutesError> {
        self.expire(mute.remark.at);
        self.held.retain(|held| (&held.target, held.kind) != (&mute.target, mute.kind));
        if self.held.len() + self.settings.len() >= MAX_MUTES {
            return Err(MutesError::Full(MAX_MUTES));
        }
        self.held.push(mute);
        self.keep()
    }

    /// The same without the mutes of this target and kind (of all kinds when `None`), which are returned.
    pub fn without(
        mut self,
        target: &Target,
        kind: Option<AnomalyKind>,
        now: Nanos,
    ) -> Result<(Self, Vec<Mute>), MutesError> {
        self.expire(now);
        let is_meant =
            |held: &Mute| held.target == *target && kind.is_none_or(|kind| held.kind == Some(kind));
        let ended: Vec<Mute> = self.held.extract_if(.., |held| is_meant(held)).collect();
        let mutes = if ended.is_empty() { self } else { self.keep()? };
        Ok((mutes, ended))
    }

    /// The same with `acknowledgement`, in place of what was said of the same anomaly, in the file as well.
    pub fn acknowledging(mut self, acknowledgement: Acknowledgement) -> Result<Self, MutesError> {
        self.expire(acknowledgement.remark.at);
        self.acknowledgements.retain(|held| held.anomaly != acknowledgement.anomaly);
        if self.acknowledgements.len() >= MAX_ACKNOWLEDGEMENTS {
            return Err(MutesError::Full(MAX_ACKNOWLEDGEMENTS));
        }
        self.acknowledgements.push(acknowledgement);
        self.keep()
    }

    fn expire(&mut self, now: Nanos) {
        self.held.retain(|mute| mute.remark.holds(now));
        self.acknowledgements.retain(|known| known.remark.holds(now));
    }

    /// Puts all of it into the file at once.
    fn keep(self) -> Result<Self, MutesError> {
        let text = Kept::write(&self);
        let beside = self.path.with_extension("new");
        let write = || {
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            fs::create_dir_all(folder)?;
            let mut file = File::create(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)?;
            File::open(folder)?.sync_all()
        };
        match write() {
            Ok(()) => Ok(self),
            Err(source) => Err(MutesError::Write { path: self.path, source }),
        }
    }
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    mutes: Vec<KeptMute>,
    acknowledgements: Vec<KeptAcknowledgement>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptMute {
    target: String,
    kind: Option<AnomalyKind>,
    by: String,
    reason: String,
    at: Timestamp,
    until: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptAcknowledgement {
    anomaly: String,
    by: String,
    reason: String,
    at: Timestamp,
    until: Timestamp,
}

impl Kept {
    fn read(text: &str, prefix: Ipv6Prefix) -> Result<(Vec<Mute>, Vec<Acknowledgement>), String> {
        let kept: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut mutes = Vec::new();
        for KeptMute { target, kind, by, reason, at, until } in kept.mutes {
            let target = Target::parse(&target, prefix).map_err(|error| error.to_string())?;
            let remark = Remark { by, reason, at: nanos(at)?, until: nanos(until)? };
            mutes.push(Mute { target, kind, remark });
        }
        let mut acknowledgements = Vec::new();
        for KeptAcknowledgement { anomaly, by, reason, at, until } in kept.acknowledgements {
            let remark = Remark { by, reason, at: nanos(at)?, until: nanos(until)? };
            acknowledgements.push(Acknowledgement { anomaly, remark });
        }
        Ok((mutes, acknowledgements))
    }

    fn write(mutes: &Mutes) -> String {
        let kept = Self {
            mutes: mutes
                .held
                .iter()
                .map(|Mute { target, kind, remark }| KeptMute {
                    target: target.to_string(),
                    kind: *kind,
                    by: remark.by.clone(),
                    reason: remark.reason.clone(),
                    at: timestamp(remark.at),
                    until: timestamp(remark.until),
                })
                .collect(),
            acknowledgements: mutes
                .acknowledgements
                .iter()
                .map(|Acknowledgement { anomaly, remark }| KeptAcknowledgement {
                    anomaly: anomaly.clone(),
                    by: remark.by.clone(),
                    reason: remark.reason.clone(),
                    at: timestamp(remark.at),
                    until: timestamp(remark.until),
                })
                .collect(),
        };
        // Strings, numbers and lists of them: nothing in it can fail to be written.
        serde_json::to_string_pretty(&kept).unwrap_or_default()
    }
}

fn nanos(at: Timestamp) -> Result<Nanos, String> {
    u64::try_from(at.as_nanosecond()).map(Nanos).map_err(|_| format!("{at} is before 1970"))
}

/// What is beyond the calendar is its end.
fn timestamp(at: Nanos) -> Timestamp {
    Timestamp::from_nanosecond(at.0.into()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn mute(target: &str, kind: Option<AnomalyKind>, until: u64) -> Mute {
        let remark = Remark {
            by: "ann".to_owned(),
            reason: "nightly \"batch\"".to_owned(),
            at: Nanos(SECOND),
            until: Nanos(until * SECOND),
        };
        Mute { target: Target::parse(target, Ipv6Prefix::default()).unwrap(), kind, remark }
    }

    fn open(path: &Path) -> Result<Mutes, MutesError> {
        Mutes::open(path, &Context::default(), Ipv6Prefix::default())
    }

    #[test]
    fn what_was_said_is_there_after_a_restart_until_it_expires() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/mutes.json");
        let flood = Some(AnomalyKind::Flood);
        let mutes = open(&path).unwrap();
        let mutes = mutes.with(mute("2001:db8:1:2::42", None, 9)).unwrap();
        let mutes = mutes.with(mute("203.0.113.0/24", flood, 5)).unwrap();
        let mutes = mutes.with(mute("203.0.113.0/24", flood, 7)).unwrap();
        let remark = mute("203.0.113.7", None, 9).remark;
        let mutes = mutes.acknowledging(Acknowledgement { anomaly: "a1".to_owned(), remark }).unwrap();
        let again = open(&path).unwrap();
        assert_eq!(again.said(), mutes.said());
        assert_eq!(again.said().mutes.len(), 2, "the second has taken the place of the first");
        let until = |at: u64| -> Vec<u64> {
            let standing = again.standing(Nanos(at * SECOND)).into_iter();
            standing.map(|standing| standing.mute.remark.until.0 / SECOND).collect()
        };
        assert_eq!((until(6), until(7), until(9)), (vec![7, 9], vec![9], vec![]));

        let target = Target::parse("203.0.113.0/24", Ipv6Prefix::default()).unwrap();
        let (same, ended) = again.without(&target, Some(AnomalyKind::Hydra), Nanos(2)).unwrap();
        assert_eq!(ended, []);
        let (_, ended) = same.without(&target, None, Nanos(2)).unwrap();
        assert_eq!(ended, [mute("203.0.113.0/24", flood, 7)]);
        assert_eq!(open(&path).unwrap().said().mutes, [mute("2001:db8:1:2::42", None, 9)]);
    }

    #[test]
    fn a_file_that_holds_something_else_is_named_with_its_fault_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mutes.json");
        let whole = Kept::write(&open(&path).unwrap().with(mute("203.0.113.7", None, 9)).unwrap());
        for (text, fault) in [
            (String::new(), "EOF"),
            (whole[..whole.len() / 2].to_owned(), "line"),
            (whole.replace("203.0.113.7", "nobody"), "\"nobody\" is not a client"),
            (whole.replace("reason", "why"), "unknown field `why`"),
        ] {
            fs::write(&path, &text).unwrap();
            let said = open(&path).unwrap_err().to_string();
            assert!(said.contains("mutes.json holds no mutes") && said.contains(fault), "{said}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused_and_there_is_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let in_the_way = folder.path().join("file");
        fs::write(&in_the_way, "").unwrap();
        let mut mutes = open(&folder.path().join("mutes.json")).unwrap();
        mutes.path = in_the_way.join("mutes.json");
        let said = mutes.clone().with(mute("203.0.113.7", None, 9)).unwrap_err().to_string();
        assert!(said.contains("nothing was changed"), "{said}");
        mutes.held = vec![mute("203.0.113.7", None, 9); MAX_MUTES];
        let full = mutes.with(mute("203.0.113.8", None, 9));
        assert!(matches!(full, Err(MutesError::Full(MAX_MUTES))));
    }
}
