//! `hydrometer completions` and `hydrometer man`: what a shell and a reader of manuals know about the command line.
//!
//! In flows the definition of the command line itself, out flow a shell's script or a folder of pages.

use std::{fs, io, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, output};

/// Print the script by which a shell completes this command line
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell that is to complete
    shell: Shell,
}

/// Write a manual page for each command
#[derive(Args, Debug)]
pub struct ManArgs {
    /// Folder for the pages; made if there is none
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints the script.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hydrometer", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

/// Writes the pages.
pub fn man(args: &ManArgs) -> anyhow::Result<()> {
    let written = || -> io::Result<()> {
        fs::create_dir_all(&args.folder)?;
        clap_mangen::generate_to(Cli::command(), &args.folder)
    };
    written().with_context(|| format!("cannot write manual pages into {}", args.folder.display()))
}
