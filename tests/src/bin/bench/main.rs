//! `cargo xtask bench`: what Hydrometer costs. A file a part; each prints ratios to yardsticks that were measured in
//! the same run, and fails when something costs more than it may.

mod engine;
mod load;
mod memory;
mod packets;
mod paths;
mod replay;
mod tables;

use anyhow::Result;
use clap::{Parser, ValueEnum};

/// Measure what Hydrometer costs.
#[derive(Parser)]
struct Args {
    /// Only these parts; without any, all but the load, which takes minutes, and the engine
    #[arg(value_enum)]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A packet in the kernel programs
    Packets,
    /// A million flows and clients
    Tables,
    /// A packet of a capture
    Replay,
    /// An exchange in the engine, with up to 100,000 clients
    Engine,
    /// A request of a real server under load
    Load,
}

fn main() -> Result<()> {
    let Args { parts } = Args::parse();
    for part in if parts.is_empty() { &[Part::Packets, Part::Tables, Part::Replay] } else { &parts[..] } {
        match part {
            Part::Packets => packets::run()?,
            Part::Tables => tables::run()?,
            Part::Replay => replay::run()?,
            Part::Engine => engine::run()?,
            Part::Load => load::run()?,
        }
    }
    Ok(())
}
