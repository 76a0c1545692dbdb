//! The promises of `hydrometer-control`, kept by the real program on real sockets.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail")]

mod agent;
mod authority;
mod crash;
mod feed;
mod ingest;
mod process;
mod program;
mod settings;
mod sinks;
mod sockets;
mod store;
mod subscriber;
mod tls;
