//! `cargo xtask test`: everything that has to hold. It goes on after a failure and ends with the list of all.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{
    ebpf, fuzz, kernels, setup,
    shell::{Profile, ask, cargo, execute, need_root, programs, say},
};

/// How much of the end-to-end tests is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Enough to show every promise kept.
    Usual,
    /// Also the long runs.
    Full,
}

impl Extent {
    /// `--full` or not.
    pub(crate) fn of(full: bool) -> Self {
        if full { Self::Full } else { Self::Usual }
    }
}

/// The verb.
pub(crate) fn run(extent: Extent) -> Result<()> {
    need_root("test")?;
    let mut failed: Vec<String> =
        setup::ensure().failures.iter().map(|part| format!("setup of {part}")).collect();
    for (name, mut command) in steps(extent)? {
        say(&format!("\n== {name}"));
        if let Err(error) = execute(&mut command) {
            say(&format!("{name}: {error:#}"));
            failed.push(name.to_owned());
        }
    }
    ensure!(failed.is_empty(), "these failed: {}", failed.join(", "));
    say("\neverything passed");
    Ok(())
}

/// What is run, in this order: what fails soonest first.
fn steps(extent: Extent) -> Result<Vec<(&'static str, Command)>> {
    let mut steps = vec![
        ("formatting", cargo("fmt --all --check")),
        ("formatting of the fuzz targets", cargo("fmt --manifest-path fuzz/Cargo.toml --check")),
        ("lints", cargo("clippy --workspace --all-targets -- -D warnings")),
        ("lints of the kernel programs", ebpf::clippy()),
    ];
    if ask(&mut cargo("deny --version")).is_some() {
        steps.push(("licences and sources", cargo("deny check licenses bans sources")));
    } else {
        say("licences and sources: skipped, since cargo-deny is not installed (`cargo install cargo-deny`)");
    }
    steps.push(("programs", cargo("build --workspace --bins")));
    steps.push(("tests", tests(extent)?));
    steps.push(("kernels", kernels::step()?));
    if setup::has_cargo_fuzz() {
        steps.push(("fuzz targets", fuzz::step(extent)?));
    } else {
        say("fuzz targets: skipped, since cargo-fuzz could not be installed");
    }
    steps.push(("documentation examples", cargo("test --workspace --doc")));
    Ok(steps)
}

fn tests(extent: Extent) -> Result<Command> {
    let mut tests = if setup::has_nextest() {
        let profile = if extent == Extent::Full { "full" } else { "default" };
        cargo(&format!("nextest run --workspace --no-fail-fast --profile {profile}"))
    } else {
        say("tests run with `cargo test`, one at a time: cargo-nextest could not be installed");
        let mut tests = cargo("test --workspace --all-targets --no-fail-fast");
        tests.env("RUST_TEST_THREADS", "1");
        tests
    };
    tests.env("HYDROMETER_BIN_DIR", programs(Profile::Debug)?);
    if extent == Extent::Full {
        tests.env("HYDROMETER_FULL", "1");
    }
    Ok(tests)
}
