//! An API key as the identity of a client, seen only as a keyed hash.
//!
//! Invariant: a key leaves this module as the first 64 bits of an HMAC-SHA256 under a secret of this installation,
//! and is written nowhere. Who knows the secret can tell whether a key that he has is a certain client's, and no more.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use httparse::Header;
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

/// Bytes of a secret.
const SECRET: usize = 32;

/// Tells clients apart by their API keys.
pub(super) struct ApiKeys(hmac::Key);

/// Where the secret is that keys are hashed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// In this file, which is made, and filled at random, if there is none.
    File(PathBuf),
    /// Nowhere: it is drawn at random, and forgotten at the end.
    Ephemeral,
}

/// There is no secret to hash keys with.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read or made.
    #[error("cannot use the secret in {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} is no secret of {SECRET} bytes or more: remove it, and one is made", path.display())]
    Short {
        /// The file.
        path: PathBuf,
    },
    /// The system has no random numbers.
    #[error("the system has no random numbers for a secret")]
    Random,
}

impl ApiKeys {
    /// With this secret.
    pub(super) fn open(secret: &Secret) -> Result<Self, SecretError> {
        match secret {
            Secret::File(path) => Self::from_file(path),
            Secret::Ephemeral => Ok(Self::new(&random()?)),
        }
    }

    fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    fn from_file(path: &Path) -> Result<Self, SecretError> {
        let file = |source| SecretError::File { path: path.to_owned(), source };
        match fs::read(path) {
            Ok(secret) if secret.len() >= SECRET => Ok(Self::new(&secret)),
            Ok(_) => Err(SecretError::Short { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = random()?;
                path.parent().map_or(Ok(()), fs::create_dir_all).map_err(file)?;
                let mut options = fs::OpenOptions::new();
                let mut made = options.write(true).create_new(true).mode(0o600).open(path).map_err(file)?;
                made.write_all(&secret).and_then(|()| made.sync_all()).map_err(file)?;
                Ok(Self::new(&secret))
            }
            Err(error) => Err(file(error)),
        }
    }

    /// The hash of the API key in the head of a request, if there is one: `Authorization: Bearer`, `x-api-key` or
    /// `api-key`.
    pub(super) fn identify(&self, fields: &[Header<'_>]) -> Option<u64> {
        let field = |name: &str| {
            fields
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case(name))
                .map(|field| field.value.trim_ascii())
        };
        let bearer = || {
            let (scheme, key) = field("authorization")?.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
        };
        let key = bearer().or_else(|| field("x-api-key")).or_else(|| field("api-key"))?;
        let tag = hmac::sign(&self.0, key);
        let first = *tag.as_ref().first_chunk()?;
        (!key.is_empty()).then_some(u64::from_be_bytes(first))
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKeys")
    }
}

fn random() -> Result<[u8; SECRET], SecretError> {
    let mut secret = [0; SECRET];
    SystemRandom::new().fill(&mut secret).map_err(|_| SecretError::Random)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn identify(keys: &ApiKeys, name: &str, value: &str) -> Option<u64> {
        keys.identify(&[Header { name, value: value.as_bytes() }])
    }

    #[test]
    fn a_key_is_the_same_client_wherever_it_stands_and_another_under_another_secret() {
        let (keys, others) = (ApiKeys::new(b"one"), ApiKeys::new(b"two"));
        let client = identify(&keys, "Authorization", "Bearer sk-123").unwrap();
        for (name, value) in
            [("authorization", "bearer  sk-123 "), ("X-Api-Key", "sk-123"), ("api-key", "sk-123")]
        {
            assert_eq!(identify(&keys, name, value), Some(client), "{name}: {value}");
        }
        assert_ne!(identify(&keys, "x-api-key", "sk-124"), Some(client));
        assert_ne!(identify(&others, "x-api-key", "sk-123"), Some(client));
        for (name, value) in
            [("authorization", "Basic c2s="), ("authorization", "x"), ("x-api-key", ""), ("cookie", "a")]
        {
            assert_eq!(identify(&keys, name, value), None, "{name}: {value}");
        }
    }

    #[test]
    fn a_secret_is_made_once_and_readable_by_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/api-keys.secret");
        let secret = Secret::File(path.clone());
        let client = identify(&ApiKeys::open(&secret).unwrap(), "x-api-key", "sk-123");
        assert_eq!(identify(&ApiKeys::open(&secret).unwrap(), "x-api-key", "sk-123"), client);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "short").unwrap();
        assert!(ApiKeys::open(&secret).unwrap_err().to_string().contains("no secret of 32 bytes"));
    }
}
