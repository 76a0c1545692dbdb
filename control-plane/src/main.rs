//! `hydrometer-control`: reads settings, serves, and stops when told to.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use hydrometer_control_plane::{
    backup,
    config::{LogLevel, Options, Settings},
    health,
    listen::Address,
    server, status,
};
use tracing_subscriber::EnvFilter;

/// Receives the anomalies of many agents, stores them and feeds the SOC
#[derive(Parser)]
#[command(name = "hydrometer-control", version, args_conflicts_with_subcommands = true)]
struct Cli {
    /// TOML file with the same settings as the flags, which win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings and the TLS files, then exit
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a running control plane whether it serves; exit with 0 if so
    Health {
        /// Where it listens without TLS
        #[arg(long, value_name = "ADDRESS", default_value = "unix:/run/hydrometer/control.sock")]
        address: Address,
    },
    /// Copy the store of a running control plane to a file, with which another can be started
    Backup {
        /// Where to; a file that is there is replaced once the copy is whole
        file: PathBuf,
        /// Where the control plane listens without TLS
        #[arg(long, value_name = "ADDRESS", default_value = "unix:/run/hydrometer/control.sock")]
        address: Address,
    },
    /// Print the script by which a shell completes this command line
    Completions {
        /// The shell that is to complete
        shell: Shell,
    },
    /// Write a manual page for each command
    #[command(hide = true)]
    Man {
        /// Folder for the pages; made if there is none
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Show how a running control plane fares: its store and its sinks
    Status {
        /// Where it listens without TLS
        #[arg(long, value_name = "ADDRESS", default_value = "unix:/run/hydrometer/control.sock")]
        address: Address,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hydrometer-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Some(Command::Health { address }) => return health::check(&address).await,
        Some(Command::Backup { file, address }) => return backup::take(&address, &file).await,
        Some(Command::Status { address }) => return status::show(&address).await,
        Some(Command::Completions { shell }) => return completions(shell),
        Some(Command::Man { folder }) => return man(&folder),
        None => {}
    }
    let file = cli.config.as_deref().map(Options::read).transpose()?.unwrap_or_default();
    let settings = cli.options.or(file).validate()?;
    if cli.check {
        println!("{}", summary(&settings));
        return Ok(());
    }
    log(settings.log);
    server::run(settings).await
}

fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hydrometer-control", &mut script);
    io::stdout().write_all(&script).context("cannot print the script")
}

fn man(folder: &Path) -> anyhow::Result<()> {
    let written = fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    written.with_context(|| format!("cannot write manual pages into {}", folder.display()))
}

fn summary(settings: &Settings) -> String {
    let listen: Vec<String> = settings.listen.iter().map(ToString::to_string).collect();
    let tls = if settings.tls.is_some() { "with mutual TLS on TCP" } else { "without TLS" };
    let sinks = match settings.sinks.iter().map(|sink| sink.name.as_str()).collect::<Vec<_>>() {
        none if none.is_empty() => "no sinks".to_owned(),
        some => format!("sinks {}", some.join(", ")),
    };
    format!(
        "settings are valid: listen on {} {tls}, store in {}, {sinks}",
        listen.join(", "),
        settings.store.display()
    )
}

/// Logs to standard error, of libraries only what is wrong.
fn log(level: LogLevel) {
    let filter = EnvFilter::new(format!("error,hydrometer_control_plane={level}"));
    let terminal = io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let output = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(colour).with_target(false);
    output.with_env_filter(filter).init();
}
