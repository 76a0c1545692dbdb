//! The control plane: the fleet-side process that agents stream to and a SOC reads from.
//!
//! ```text
//! agents ──Report──► ingest.rs ──► writer.rs ──► store/ ────► feed/ ───Subscribe──► SOC
//!           ◄─acks── (a session    (group        (one file,   (a cursor a
//!                     an agent)     commits)      durable)     subscriber)
//! ```
//!
//! `sink/` hands the same states to the SOC in its own formats; `operations.rs` tells how all of it fares.
//! `config.rs` says where to listen and with what, `listen.rs` opens those sockets, `server.rs` serves
//! on them until it is told to stop; `token.rs` is how a subscriber says where it was; `health.rs` asks
//! a running control plane whether it serves; `watch.rs` says it to Prometheus and to probes. Invariant: an anomaly is acknowledged only once it is on disk, is
//! on disk once, and reaches a subscriber only from there.
#![forbid(unsafe_code)]

pub mod backup;
pub mod config;
pub mod feed;
pub mod health;
pub mod ingest;
pub mod listen;
pub mod operations;
pub mod server;
pub mod sink;
pub mod status;
pub mod store;
pub mod token;
pub mod watch;
pub mod writer;
