//! `cargo xtask bench`: what Hydrometer costs, as ratios to yardsticks of the same run.

use anyhow::Result;

use crate::{
    setup,
    shell::{cargo, execute, need_root},
};

/// The verb.
pub(crate) fn run(parts: &[String]) -> Result<()> {
    need_root("bench")?;
    setup::ensure();
    execute(cargo("run --release --package hydrometer-tests --bin bench --").args(parts))
}
