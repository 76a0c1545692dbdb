//! `cargo xtask build`: the programs, kernel programs included, as they are shipped.

use anyhow::Result;

use crate::{
    setup,
    shell::{Profile, cargo, execute, programs, say},
};

/// The verb.
pub(crate) fn run() -> Result<()> {
    let setup = release()?;
    say(&format!("built in {}", programs(Profile::Release)?.display()));
    setup.result()
}

/// Sets up and builds for release; tells what the setup lacks, since that may be of no concern to what was built.
pub(crate) fn release() -> Result<setup::Report> {
    let setup = setup::ensure();
    execute(&mut cargo("build --release --workspace --bins"))?;
    Ok(setup)
}
