//! `cargo xtask demo`: builds for release and becomes the demo.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::{
    build,
    shell::{Profile, command, need_root, programs},
};

/// The verb. Returns only when the demo could not be started: a Ctrl-C then reaches the demo alone, and the shell
/// waits until it has cleaned up.
pub(crate) fn run() -> Result<()> {
    need_root("demo")?;
    build::release()?.result()?;
    let folder = programs(Profile::Release)?;
    let demo = folder.join("demo");
    let error = command(&demo, "").env("HYDROMETER_BIN_DIR", &folder).exec();
    Err(error).with_context(|| format!("cannot start {}", demo.display()))
}
