//! The Hydrometer agent as a library, so that tests and benches reach its parts.
#![deny(unsafe_code)]

pub mod api;
mod assembly;
pub mod cli;
pub mod config;
pub mod convert;
pub mod daemon;
pub mod findings;
mod heads;
pub mod hello;
pub mod identity;
pub mod judge;
pub mod kernel;
pub mod known;
pub mod mutes;
mod ordered;
pub mod outbox;
pub mod pipeline;
mod pipelining;
mod recent;
pub mod records;
pub mod replay;
pub mod report;
pub mod socket;
pub mod spool;
pub mod state;
pub mod status;
pub mod top;
pub mod traffic;
pub mod watch;
mod wire;
