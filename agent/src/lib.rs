//! The Hydrometer agent as a library, so that tests and benches reach its parts.
#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod kernel;
pub mod replay;
pub mod top;
mod wire;
