//! The command line: a file a command, and what the commands share.
//!
//! In flow arguments and the agent's socket, out flow text, JSON or an error with its remedy.

pub mod anomalies;
pub mod chart;
pub mod client;
pub mod clients;
pub mod connect;
pub mod output;
pub mod schema;
pub mod status;
pub mod units;
pub mod words;
