//! `hydrometer agent`: the daemon, or with `--check` only whether it would run.
//!
//! In flow settings from a file and from flags, out flows a line an interface and a line when ready.

use std::path::PathBuf;

use clap::Args;
use tracing::Level;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::{output, units};
use crate::{
    config::{Config, Settings},
    daemon,
    kernel::{self, Kernel, Unwatched},
};

/// Watch the services on this host.
#[derive(Args, Debug)]
pub struct AgentArgs {
    /// Read settings from this TOML file; flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Validate the settings, load and verify the programs, attach nothing
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Runs the agent until it is told to stop; its socket is `socket`, if given.
pub async fn run(args: AgentArgs, socket: Option<PathBuf>) -> anyhow::Result<()> {
    let file = args.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
    let config = args.settings.with_socket(socket).over(file).validate()?;
    log_to_stderr(&config);
    if args.check { check(&config).await } else { daemon::run(config).await }
}

/// How much nicer the agent is than whoever started it: where processors are short it has a tenth of what a server has
/// (setpriority(2)), which is enough for tens of thousands of exchanges a second.
const NICER: i32 = 10;

/// Those who serve come first. It holds for this thread and those that it starts from here on.
pub fn give_way() {
    // To be nicer is always allowed; where the limit is reached already, it stays.
    let _ = rustix::process::nice(NICER);
}

/// Each log has its own level: the daemon's, and that of the kernel programs.
fn log_to_stderr(config: &Config) {
    let filter = |level: Option<Level>| level.map_or(LevelFilter::OFF, LevelFilter::from_level);
    let levels = Targets::new()
        .with_default(filter(config.log.level()))
        .with_target(kernel::LOG_TARGET, filter(config.kernel.log_level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(levels).init();
}

/// Says what was found; attaches nothing.
async fn check(config: &Config) -> anyhow::Result<()> {
    let (interfaces, left_out) = kernel::choice(&config.kernel.interfaces).await?;
    let status = Kernel::load(&config.kernel)?.status()?;
    output::print(&format!(
        "configuration: node {}, interfaces {}, {} services, control plane {}\n",
        config.node,
        if interfaces.is_empty() { "none yet".to_owned() } else { interfaces.join(" ") },
        config.kernel.services.len(),
        config.control_plane.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
    ))?;
    for Unwatched { interface, reason } in left_out {
        output::print(&format!("{interface}: would not be watched: {reason}\n"))?;
    }
    for program in &status.programs {
        output::print(&format!(
            "program {}: verified in {} steps, {} of machine code\n",
            program.name,
            units::count(program.verified_instructions.into()),
            units::bytes(program.jited_bytes.into()),
        ))?;
    }
    output::print(&format!("maps: {} of kernel memory\n", units::bytes(status.map_bytes as f64)))?;
    let tables: u64 = status.tables.iter().map(|table| table.memory_bytes).sum();
    output::print(&format!("tables: up to {} of the agent's own\n", units::bytes(tables as f64)))?;
    output::print("hydrometer agent would run; nothing was attached\n")
}
