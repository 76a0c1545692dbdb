//! `cargo xtask fuzz`: every target in `fuzz/` for a while. A finding ends it, and its input is in `fuzz/artifacts`.

use std::{env, fs, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    setup,
    shell::{Profile, cargo, command, execute, programs, root},
    test::Extent,
};

/// Seconds that each target runs.
const USUAL: u32 = 5;
const FULL: u32 = 600;

/// The verb.
pub(crate) fn run(extent: Extent) -> Result<()> {
    setup::ensure();
    execute(&mut cargo("build --workspace --bins"))?;
    let folders = ["tests/fixtures", "../shared/pcaps"].map(|folder| root().join(folder));
    let seeds = programs(Profile::Debug)?.join("seeds");
    let folders = folders.iter().filter(|folder| folder.exists());
    execute(command(seeds, "").arg(root().join("fuzz/corpus")).args(folders))?;
    let seconds = if extent == Extent::Full { FULL } else { USUAL };
    for target in targets()? {
        // Ten seconds for an input of a few KiB are a hang.
        let options = format!("-max_total_time={seconds} -timeout=10 -print_final_stats=1 -verbosity=0");
        execute(&mut fuzz(&format!("run {target} -- {options}")))?;
    }
    Ok(())
}

/// The verb as a step of `cargo xtask test`.
pub(crate) fn step(extent: Extent) -> Result<Command> {
    let arguments = if extent == Extent::Full { "fuzz --full" } else { "fuzz" };
    Ok(command(env::current_exe().context("cannot tell the path of the running program")?, arguments))
}

/// The names of the targets.
fn targets() -> Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    ensure!(!names.is_empty(), "there are no targets in {}", folder.display());
    names.sort();
    Ok(names)
}

/// `cargo fuzz`. The sanitizers that it turns on are behind a gate that a stable compiler opens for this variable.
fn fuzz(arguments: &str) -> Command {
    let mut fuzz = cargo(&format!("fuzz {arguments}"));
    fuzz.env("RUSTC_BOOTSTRAP", "1");
    fuzz
}
