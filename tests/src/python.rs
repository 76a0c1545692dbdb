//! The Python programs of this crate, in the environment that `cargo xtask setup` made.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The interpreter of the project's virtual environment.
pub fn interpreter() -> Result<PathBuf> {
    let path = root().join(".venv/bin/python");
    ensure!(path.exists(), "there is no {}; run `cargo xtask setup`", path.display());
    Ok(path)
}

/// A program in `tests/python`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}
