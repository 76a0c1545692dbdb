//! cargo's helpers: rustfmt, clippy, nextest and cargo-fuzz.

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

/// Whether the fuzz targets can be run.
pub(crate) fn has_cargo_fuzz() -> bool {
    ask(&mut cargo("fuzz --version")).is_some()
}

/// cargo-fuzz, when it is not there.
pub(super) fn cargo_fuzz_missing() -> Option<String> {
    (!has_cargo_fuzz()).then(|| "about a minute".to_owned())
}

/// Builds and installs it.
pub(super) fn install_cargo_fuzz() -> Result<()> {
    execute(&mut cargo("install cargo-fuzz --locked"))
}
