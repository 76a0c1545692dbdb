//! A capture through the library that runs in the kernel, without root: the same packets give the
//! same exchanges.

pub mod pcap;
mod table;
mod tables;

pub use tables::{Captured, Replay};
