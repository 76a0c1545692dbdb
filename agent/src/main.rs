//! `hydrometer`: reads the command line, runs one command, turns its error into one line.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use hydrometer_agent::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when stderr is closed.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
