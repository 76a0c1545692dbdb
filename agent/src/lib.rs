//! The Hydrometer agent as a library, so that tests and benches reach its parts.

pub mod cli;
pub mod kernel;
pub mod top;
