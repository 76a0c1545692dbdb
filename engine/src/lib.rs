//! From exchanges to anomalies.
//!
//! Exchanges and the time go in; features, baselines and anomalies come out. Nothing here reads a
//! clock, does I/O or spawns a task, so an agent, the control plane and a replay of a capture all
//! get the same answers from the same records.
#![forbid(unsafe_code)]

pub mod anomaly;
mod baseline;
mod client;
mod client_id;
mod config;
mod detector;
mod engine;
mod exchange;
mod lifecycle;
mod record;
mod time;
mod view;
mod window;

pub use client_id::{ClientId, ParseClientIdError};
pub use config::{
    EngineConfig, EngineConfigError, LifecycleConfig, LogitHarvestConfig, MachineCadenceConfig,
    RequestRateConfig,
};
pub use engine::Engine;
pub use exchange::{Accuracy, Ending, Exchange, Protocol, Service};
pub use record::{ExchangeRecord, ExchangeRecordError};
pub use time::Nanos;
pub use view::{ClientView, EngineLoss, EngineStats, Totals, WindowFeatures};
