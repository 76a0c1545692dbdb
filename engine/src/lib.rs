//! From exchanges to anomalies.
//!
//! Exchanges and the time go in; features, baselines and anomalies come out. Nothing here reads a
//! clock, does I/O or spawns a task, so an agent, the control plane and a replay of a capture all
//! get the same answers from the same records.
#![forbid(unsafe_code)]

pub mod anomaly;
mod client_id;
mod exchange;
mod time;

pub use client_id::{ClientId, ParseClientIdError};
pub use exchange::{Accuracy, Ending, Exchange, Protocol, Service};
pub use time::Nanos;
