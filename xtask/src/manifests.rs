//! `cargo xtask manifests`: deploy/kubernetes, as the Helm chart renders it.

use anyhow::Result;

use crate::{
    setup,
    shell::{command, execute, root},
};

/// The verb.
pub(crate) fn run() -> Result<()> {
    setup::ensure();
    let script = root().join("tests/python/manifests.py");
    execute(command(root().join(".venv/bin/python"), "").arg(script).arg("write"))
}
