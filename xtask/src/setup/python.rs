//! The Python environment of the end-to-end tests and the demo: `.venv`, with exactly what
//! `tests/python/requirements.txt` lists. A copy of that list in the environment tells that it is complete.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::shell::{ask, command, execute, root};

/// The oldest release that the requirements run on.
const SUITABLE: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))";

/// A Python that can make the environment.
pub(super) fn base() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| ask(command(python, "-c").arg(SUITABLE)).is_some())
}

/// Whether the environment is absent, broken or of another list.
pub(super) fn missing() -> Option<String> {
    let complete =
        fs::read(stamp()).is_ok_and(|made_of| fs::read(requirements()).is_ok_and(|now| now == made_of));
    let works = || ask(command(interpreter(), "-c").arg("")).is_some();
    (!complete || !works()).then(|| "about a minute".to_owned())
}

/// Makes it anew.
pub(super) fn install() -> Result<()> {
    let base = base().context("there is no Python 3.11 or later with the module venv")?;
    unlink(&environment())?;
    execute(command(base, "-m venv --clear").arg(environment()))?;
    execute(
        command(interpreter(), "-m pip install --disable-pip-version-check --requirement")
            .arg(requirements()),
    )?;
    fs::copy(requirements(), stamp()).with_context(|| format!("cannot write {}", stamp().display()))?;
    Ok(())
}

/// Removes a link, to the environment of another checkout for instance: emptied is what is here, and not what is there.
fn unlink(environment: &Path) -> Result<()> {
    if environment.is_symlink() {
        fs::remove_file(environment).with_context(|| format!("cannot remove {}", environment.display()))?;
    }
    Ok(())
}

fn environment() -> PathBuf {
    root().join(".venv")
}

fn interpreter() -> PathBuf {
    environment().join("bin/python")
}

fn requirements() -> PathBuf {
    root().join("tests/python/requirements.txt")
}

fn stamp() -> PathBuf {
    environment().join("requirements.txt")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_is_replaced_and_what_it_leads_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let [theirs, ours] = ["theirs", "ours"].map(|name| folder.path().join(name));
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("requirements.txt"), "a").unwrap();
        for target in [&theirs, &folder.path().join("gone")] {
            symlink(target, &ours).unwrap();
            unlink(&ours).unwrap();
            assert!(!ours.is_symlink() && theirs.join("requirements.txt").exists());
        }
        // An environment, or none, is left to whoever makes it anew.
        unlink(&ours).unwrap();
        unlink(&theirs).unwrap();
        assert!(theirs.exists());
    }
}
