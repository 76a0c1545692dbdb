//! A capture through the library that runs in the kernel, without root: the same packets give the
//! same exchanges.

pub mod pcap;
mod reading;
mod table;
mod tables;

pub(crate) use reading::MAX_FLOWS;
pub use reading::Reading;
pub use tables::{Captured, Replay};
