//! `cargo xtask setup`: installs what this machine lacks.
//!
//! Every part is looked at before anything is done, so that a second run is quick; a part that cannot be installed is
//! said plainly, with what does not work without it, and the others are installed all the same.

mod cargo_tools;
mod guests;
mod kernel;
mod packages;
mod python;

use std::time::Instant;

use anyhow::{Result, bail, ensure};

pub(crate) use self::{
    cargo_tools::{has_cargo_fuzz, has_nextest},
    guests::{GUEST_KERNELS, GuestKernel},
};
use crate::shell::say;

/// One thing that a machine may lack.
struct Part {
    name: &'static str,
    /// What does not work without it.
    without: &'static str,
    /// What of it is missing; none when it is all there.
    missing: fn() -> Option<String>,
    install: fn() -> Result<()>,
}

const PARTS: &[Part] = &[
    Part {
        name: "system packages",
        without: "there is no demo and no end-to-end test",
        missing: packages::missing,
        install: packages::install,
    },
    Part {
        name: "a compiler for the kernel programs",
        without: "nothing can be built",
        missing: kernel::compiler_missing,
        install: kernel::install_compiler,
    },
    Part {
        name: "bpf-linker",
        without: "nothing can be built",
        missing: kernel::linker_missing,
        install: kernel::install_linker,
    },
    Part {
        name: "rustfmt and clippy",
        without: "formatting and lints cannot be checked",
        missing: cargo_tools::components_missing,
        install: cargo_tools::install_components,
    },
    Part {
        name: "the Python environment",
        without: "there is no demo and no end-to-end test",
        missing: python::missing,
        install: python::install,
    },
    Part {
        name: "cargo-nextest",
        without: "tests run with `cargo test`, more slowly",
        missing: cargo_tools::nextest_missing,
        install: cargo_tools::install_nextest,
    },
    Part {
        name: "cargo-fuzz",
        without: "the fuzz targets are not run",
        missing: cargo_tools::cargo_fuzz_missing,
        install: cargo_tools::install_cargo_fuzz,
    },
    Part {
        name: "older kernels",
        without: "the programs are tried on the kernel of this machine alone",
        missing: guests::missing,
        install: guests::install,
    },
];

/// What could not be installed.
pub(crate) struct Report {
    /// Names of the parts.
    pub(crate) failures: Vec<&'static str>,
}

impl Report {
    /// Fails when a part did.
    pub(crate) fn result(&self) -> Result<()> {
        ensure!(self.failures.is_empty(), "setup could not install: {}", self.failures.join(", "));
        Ok(())
    }
}

/// The verb.
pub(crate) fn run() -> Result<()> {
    let begun = Instant::now();
    let report = ensure();
    report.result()?;
    say(&format!("this machine has all it needs ({:.1} s)", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// Installs what is missing; silent when nothing is.
pub(crate) fn ensure() -> Report {
    let missing: Vec<_> = PARTS.iter().filter_map(|part| (part.missing)().map(|what| (part, what))).collect();
    let mut failures = Vec::new();
    for (done, (part, what)) in missing.iter().enumerate() {
        say(&format!("setup {} of {}: {} ({what})", done + 1, missing.len(), part.name));
        if let Err(error) = part.complete() {
            say(&format!("setup could not install {}: {error:#}; without it {}", part.name, part.without));
            failures.push(part.name);
        }
    }
    Report { failures }
}

impl Part {
    fn complete(&self) -> Result<()> {
        (self.install)()?;
        match (self.missing)() {
            Some(what) => bail!("it was installed without an error, but is still not right ({what})"),
            None => Ok(()),
        }
    }
}
