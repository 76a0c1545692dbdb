//! `cargo xtask VERB`: sets the machine up, builds, demonstrates, tests and measures Hydrometer.
//!
//! A file a verb. Each verb first sees to it that the machine has what it needs ([`setup`]), shows every command that
//! it runs, and ends with exit code 1 and the reason when something failed.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod deb;
mod demo;
mod ebpf;
mod eval;
mod fuzz;
mod initramfs;
mod kernels;
mod man;
mod manifests;
mod setup;
mod shell;
mod test;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// Set up, build, demonstrate, test and measure Hydrometer.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    /// Install what this machine lacks; quick when it lacks nothing
    Setup,
    /// Build the programs for release
    Build,
    /// Pack the programs for Debian, with units, manual pages and completions
    Deb {
        /// Folder of programs to pack instead of building them
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
        /// Folder for the packages [default: target/debian]
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
    /// Write manual pages and shell completions into target/share
    Man,
    /// Two minutes of real clients, two of them extracting a model, and what Hydrometer says (needs root)
    Demo,
    /// Check formatting, lints and licences, and run every test (needs root)
    Test {
        /// Also the long forms of the end-to-end tests
        #[arg(long)]
        full: bool,
    },
    /// Write deploy/kubernetes anew, from the Helm chart
    Manifests,
    /// Load, verify and run the kernel programs on this machine's kernel and on older ones (needs root)
    Kernels,
    /// Feed every parser, and the whole, with what nobody would send
    Fuzz {
        /// Ten minutes each instead of seconds
        #[arg(long)]
        full: bool,
    },
    /// Measure what the kernel programs and `hydrometer replay` cost (needs root)
    Bench {
        /// Only these parts: packets, tables, replay, engine, load; without any, all but engine and load, which takes minutes
        parts: Vec<String>,
    },
    /// Score the detectors by the labelled traffic in ../shared/eval
    Eval {
        /// Handed on; `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Verb::parse() {
        Verb::Setup => setup::run(),
        Verb::Build => build::run(),
        Verb::Deb { programs, output } => deb::run(programs, output),
        Verb::Man => man::run(),
        Verb::Demo => demo::run(),
        Verb::Test { full } => test::run(test::Extent::of(full)),
        Verb::Kernels => kernels::run(),
        Verb::Manifests => manifests::run(),
        Verb::Fuzz { full } => fuzz::run(test::Extent::of(full)),
        Verb::Bench { parts } => bench::run(&parts),
        Verb::Eval { arguments } => eval::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
