//! `cargo xtask eval`: what the detectors find in the labelled traffic beside the clone, and what it costs.

use anyhow::Result;

use crate::shell::{cargo, execute};

/// The verb.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    execute(cargo("run --release --package hydrometer-engine --example eval --").args(arguments))
}
