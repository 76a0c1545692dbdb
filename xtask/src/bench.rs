//! `cargo xtask bench`: what the kernel programs cost, in ns per packet and as ratios to fixed yardsticks.

use anyhow::Result;

use crate::{
    setup,
    shell::{cargo, execute, need_root},
};

/// The verb.
pub(crate) fn run() -> Result<()> {
    need_root("bench")?;
    setup::ensure();
    execute(&mut cargo("run --release --package hydrometer-tests --bin bench"))
}
