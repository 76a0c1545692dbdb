//! cargo's helpers: rustfmt, clippy and nextest.

use anyhow::Result;

use crate::shell::{ask, cargo, command, execute};

/// Those of rustup's components that a minimal installation lacks.
pub(super) fn components_missing() -> Option<String> {
    let missing: Vec<_> = [("rustfmt", "fmt --version"), ("clippy", "clippy --version")]
        .into_iter()
        .filter(|(_, version)| ask(&mut cargo(version)).is_none())
        .map(|(component, _)| component)
        .collect();
    (!missing.is_empty()).then(|| missing.join(" "))
}

/// Installs them.
pub(super) fn install_components() -> Result<()> {
    execute(&mut command("rustup", &format!("component add {}", components_missing().unwrap_or_default())))
}

/// Whether tests can be run with it.
pub(crate) fn has_nextest() -> bool {
    ask(&mut cargo("nextest --version")).is_some()
}

/// nextest, when it is not there.
pub(super) fn nextest_missing() -> Option<String> {
    (!has_nextest()).then(|| "three minutes or more".to_owned())
}

/// Builds and installs it.
pub(super) fn install_nextest() -> Result<()> {
    execute(&mut cargo("install cargo-nextest --locked"))
}
