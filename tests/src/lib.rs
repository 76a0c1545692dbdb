//! What the end-to-end tests and the demo stand on: network namespaces, a real model server behind a real TLS proxy,
//! and real clients.
//!
//! In flows nothing but the machine; out come a [`net::Network`] with two ends, processes that run in them, and what
//! the servers and clients themselves say they did: [`nginx::Access`] and [`openai::Call`] are the truth that
//! Hydrometer's figures are held against.
//!
//! Invariant: whatever a guard here made (namespace, process, folder) is gone when the guard is dropped, also after a
//! panic; what a killed run left behind is removed by the next one.
#![forbid(unsafe_code)]

pub mod agent;
pub mod attached;
pub mod binary;
pub mod capture;
pub mod control;
pub mod curl;
pub mod feed;
pub mod frames;
pub mod grpc;
pub mod llama;
pub mod net;
pub mod nginx;
pub mod openai;
pub mod process;
pub mod programs;
pub mod prometheus;
pub mod python;
pub mod relay;
mod rpc;
pub mod stack;
pub mod tunnels;
pub mod wire;
