//! Everything an engine knows, as bytes, and back: one that was saved and loaded goes on as if it had never stopped.
//!
//! Saved is what was learnt: clients, baselines, open anomalies and campaigns, what was asked under contracts. Settings
//! are not, those at the loading hold; nor are the counts of losses, which begin anew.
//!
//! ```text
//! magic    8 bytes
//! version  u32, little-endian
//! check    u32, CRC-32 of the content
//! length   u64, of the content
//! content  the engine by serde, in the format of postcard, which has no names: any change of what is saved is
//!          another version
//! ```

use std::{collections::BTreeSet, sync::Mutex};

use serde::{Deserialize, Deserializer, de};

use crate::{Engine, EngineConfig};

const MAGIC: [u8; 8] = *b"HYDENGIN";

/// Raised whenever what is saved changes.
const VERSION: u32 = 1;

const HEAD: usize = MAGIC.len() + 16;

/// Why saved bytes make no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// They are something else.
    #[error("this is no saved engine")]
    Foreign,
    /// Another version wrote them.
    #[error(
        "the saved engine has version {found}, and this one reads {VERSION}; what it had learnt is learnt anew"
    )]
    Version {
        /// Theirs.
        found: u32,
    },
    /// They are cut off, or were changed.
    #[error("the saved engine is damaged: {0}; what it had learnt is learnt anew")]
    Damaged(String),
}

impl Engine {
    /// Everything it knows.
    ///
    /// # Errors
    /// None is known: memory is all it takes.
    pub fn save(&self) -> Result<Vec<u8>, postcard::Error> {
        let mut bytes = postcard::to_extend(self, vec![0; HEAD])?;
        let check = crc32fast::hash(&bytes[HEAD..]);
        let length = (bytes.len() - HEAD) as u64;
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&check.to_le_bytes());
        bytes[16..HEAD].copy_from_slice(&length.to_le_bytes());
        Ok(bytes)
    }

    /// The engine that was saved, under these settings, which should have passed [`EngineConfig::validate`].
    ///
    /// # Errors
    /// When the bytes are damaged, or from another version.
    pub fn load(config: EngineConfig, saved: &[u8]) -> Result<Self, LoadError> {
        let content = content(saved)?;
        let engine: Self =
            postcard::from_bytes(content).map_err(|error| LoadError::Damaged(error.to_string()))?;
        Ok(engine.resumed(config))
    }
}

/// What is behind the head, if the head is right about it.
fn content(saved: &[u8]) -> Result<&[u8], LoadError> {
    let damaged = |what: &str| LoadError::Damaged(what.to_owned());
    let behind = saved.strip_prefix(&MAGIC).ok_or(LoadError::Foreign)?;
    let (version, behind) = behind.split_first_chunk().ok_or_else(|| damaged("its head is cut off"))?;
    let found = u32::from_le_bytes(*version);
    if found != VERSION {
        return Err(LoadError::Version { found });
    }
    let (check, behind) = behind.split_first_chunk().ok_or_else(|| damaged("its head is cut off"))?;
    let (length, content) = behind.split_first_chunk().ok_or_else(|| damaged("its head is cut off"))?;
    if content.len() as u64 != u64::from_le_bytes(*length) {
        return Err(damaged("it is cut off, or something was appended"));
    }
    if crc32fast::hash(content) != u32::from_le_bytes(*check) {
        return Err(damaged("its checksum is wrong"));
    }
    Ok(content)
}

/// The longest name of a feature or unit.
const MAX_NAME: usize = 64;

/// Reads the name of a feature or a unit. In a running engine those are part of the program. Each one read is kept
/// for as long as the process lives, once: there are a few dozen.
pub(crate) fn name<'de, D: Deserializer<'de>>(from: D) -> Result<&'static str, D::Error> {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let name = <std::borrow::Cow<'de, str>>::deserialize(from)?;
    if name.len() > MAX_NAME {
        return Err(de::Error::custom("the name of a feature is too long"));
    }
    let mut names = NAMES.lock().map_err(|_| de::Error::custom("the names cannot be reached"))?;
    if let Some(known) = names.get(name.as_ref()) {
        return Ok(known);
    }
    let known: &'static str = Box::leak(name.into_owned().into_boxed_str());
    names.insert(known);
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_saved_engine_is_refused_with_the_reason() {
        let saved = Engine::new(EngineConfig::default()).save().unwrap();
        let load = |bytes: &[u8]| Engine::load(EngineConfig::default(), bytes).map(|_| ());
        assert_eq!(load(&saved), Ok(()));
        assert_eq!((load(&[]), load(b"hydrometer")), (Err(LoadError::Foreign), Err(LoadError::Foreign)));
        for cut in 8..saved.len() {
            assert!(matches!(load(&saved[..cut]), Err(LoadError::Damaged(_))), "cut at {cut}");
        }
        for at in 0..saved.len() {
            let mut wrong = saved.clone();
            wrong[at] ^= 1;
            assert!(load(&wrong).is_err(), "bit at {at}");
        }
        let mut newer = saved;
        newer[8] = VERSION as u8 + 1;
        assert_eq!(load(&newer), Err(LoadError::Version { found: VERSION + 1 }));
    }
}
