//! Secrets lie in files of their own, are read when they are used, and are shown to nobody.

use std::{fmt, path::PathBuf};

use super::Failure;

/// A file that holds one secret, and perhaps a line break.
#[derive(Clone)]
pub(super) struct Secret(PathBuf);

impl Secret {
    /// A file that can be read and is not empty.
    pub(super) fn open(path: PathBuf) -> Result<Self, String> {
        let secret = Self(path);
        secret.content().map(|_| secret)
    }

    /// Its content now: a secret that was changed is used from the next attempt on.
    pub(super) fn read(&self) -> Result<String, Failure> {
        self.content().map_err(Failure::Unavailable)
    }

    fn content(&self) -> Result<String, String> {
        let path = self.0.display();
        let text = std::fs::read_to_string(&self.0)
            .map_err(|error| format!("cannot read the secret {path}: {error}"))?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(format!("the secret {path} is empty")),
            secret if secret.chars().any(char::is_control) => {
                Err(format!("the secret {path} is not one line"))
            }
            secret => Ok(secret.to_owned()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.0.display())
    }
}
