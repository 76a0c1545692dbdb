//! The command line: a file a command, and what the commands share.
//!
//! In flow arguments and the agent's socket, out flow text, JSON or an error with its remedy.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::runtime;

pub mod acknowledge;
pub mod agent;
pub mod anomalies;
pub mod chart;
pub mod client;
pub mod clients;
pub mod completions;
pub mod connect;
pub mod detect;
pub mod evaluate;
pub mod fingerprint;
pub mod mute;
pub mod output;
pub mod recording;
pub mod replay;
pub mod schema;
pub mod status;
pub mod tune;
pub mod units;
pub mod words;

use crate::top;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/hydrometer/agent.sock";

/// See from the wire who queries a model server, and how.
#[derive(Debug, Parser)]
#[command(name = "hydrometer", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Unix socket of the agent [default: /run/hydrometer/agent.sock]
    #[arg(long, global = true, value_name = "PATH", env = "HYDROMETER_SOCKET")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(Box<agent::AgentArgs>),
    Clients(clients::ClientsArgs),
    Client(client::ClientArgs),
    Top(top::TopArgs),
    Anomalies(anomalies::AnomaliesArgs),
    Mute(mute::MuteArgs),
    Unmute(mute::UnmuteArgs),
    Mutes(mute::MutesArgs),
    Acknowledge(acknowledge::AcknowledgeArgs),
    Status(status::StatusArgs),
    Replay(replay::ReplayArgs),
    Detect(detect::DetectArgs),
    Evaluate(evaluate::EvaluateArgs),
    Tune(tune::TuneArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Man(completions::ManArgs),
}

impl Cli {
    /// Runs the command to its end.
    pub fn run(self) -> anyhow::Result<()> {
        let socket = self.socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into());
        match self.command {
            Command::Agent(args) => {
                agent::give_way();
                wait(agent::run(*args, self.socket))
            }
            Command::Clients(args) => wait(clients::run(args, &socket)),
            Command::Client(args) => wait(client::run(args, &socket)),
            Command::Top(args) => wait(top::run(args, &socket)),
            Command::Anomalies(args) => wait(anomalies::run(args, &socket)),
            Command::Mute(args) => wait(mute::mute(args, &socket)),
            Command::Unmute(args) => wait(mute::unmute(args, &socket)),
            Command::Mutes(args) => wait(mute::list(args, &socket)),
            Command::Acknowledge(args) => wait(acknowledge::run(args, &socket)),
            Command::Status(args) => wait(status::run(args, &socket)),
            Command::Replay(args) => replay::run(&args),
            Command::Detect(args) => detect::run(&args),
            Command::Evaluate(args) => evaluate::run(&args),
            Command::Tune(args) => tune::run(&args),
            Command::Completions(args) => completions::completions(&args),
            Command::Man(args) => completions::man(&args),
        }
    }
}

fn wait(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(command)
}
