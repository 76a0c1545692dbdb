//! The project's own programs, `hydrometer` and `hydrometer-control`, as built from this tree.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// Set by `cargo xtask`, which has built them already: the folder with the programs.
pub const FOLDER_VARIABLE: &str = "HYDROMETER_BIN_DIR";

/// Path of `name`, built first when nobody did.
pub fn path(name: &str) -> Result<PathBuf> {
    let folder = match env::var_os(FOLDER_VARIABLE) {
        Some(folder) => folder.into(),
        None => build(name)?,
    };
    let path = folder.join(name);
    ensure!(path.exists(), "there is no {}; run `cargo xtask build`", path.display());
    Ok(path)
}

/// Builds `name` in the profile and the target folder of the running program, and returns the folder it is in.
fn build(name: &str) -> Result<PathBuf> {
    let running = env::current_exe().context("cannot tell the path of the running program")?;
    // A test is in target/PROFILE/deps, a program in target/PROFILE.
    let profile = running
        .ancestors()
        .skip(1)
        .find(|folder| folder.file_name().is_some_and(|name| name != "deps"))
        .with_context(|| format!("{} is not in a target folder", running.display()))?;
    let target = profile.parent().with_context(|| format!("{} has no parent", profile.display()))?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    cargo.args(["build", "--quiet", "--workspace", "--bin", name, "--target-dir"]).arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().context("cannot run cargo")?;
    ensure!(status.success(), "building {name} failed ({status})");
    Ok(profile.to_owned())
}
