//! `hydrometer agent`: the daemon, or with `--check` only whether it would run.
//!
//! In flow settings from a file and from flags, out flows a line an interface and a line when ready.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
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
    kernel::{self, Kernel},
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
    if args.check { check(&config) } else { daemon::run(config).await }
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
fn check(config: &Config) -> anyhow::Result<()> {
    let probe = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    let absent: Vec<_> = config
        .interfaces
        .iter()
        .filter(|name| name_to_index(&probe, name).is_err())
        .map(String::as_str)
        .collect();
    if !absent.is_empty() {
        bail!("there is no network interface {}; `ip link` lists those that are there", absent.join(", "));
    }
    let status = Kernel::load(&config.kernel)?.status()?;
    output::print(&format!(
        "configuration: node {}, {} interfaces, {} services, control plane {}\n",
        config.node,
        config.interfaces.len(),
        config.kernel.services.len(),
        config.control_plane.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
    ))?;
    for program in &status.programs {
        output::print(&format!(
            "program {}: verified in {} steps, {} of machine code\n",
            program.name,
            units::count(program.verified_instructions.into()),
            units::bytes(program.jited_bytes.into()),
        ))?;
    }
    let memory: u64 = status.maps.iter().map(|map| map.memory_bytes).sum();
    output::print(&format!("maps: {} of kernel memory\n", units::bytes(memory as f64)))?;
    output::print("hydrometer agent would run; nothing was attached\n")
}
