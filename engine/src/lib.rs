//! From exchanges to anomalies.
//!
//! Exchanges and the time go in; features, baselines and anomalies come out. Nothing here reads a
//! clock, does I/O or spawns a task, so an agent, the control plane and a replay of a capture all
//! get the same answers from the same records.
#![forbid(unsafe_code)]

pub mod anomaly;
mod attention;
mod baseline;
mod cadence;
mod campaign;
mod cap;
mod client;
mod client_id;
mod clients;
mod config;
pub mod connections;
mod context;
mod counts;
mod detector;
mod engine;
pub mod evaluation;
mod exchange;
pub mod fingerprint;
pub mod histogram;
mod impact;
mod ledger;
mod lifecycle;
mod pace;
mod record;
mod short;
mod state;
mod time;
mod tokens;
mod trail;
mod view;
mod window;

pub use attention::{Acknowledgement, Mute, Said, Target};
pub use cap::{AnswerKind, AnswerLengths, tell_truncated};
pub use client_id::{ClientId, Ipv6Network, Ipv6Prefix, ParseClientIdError};
pub use config::{EngineConfig, EngineConfigError, LifecycleConfig, LogitHarvestConfig, Release};
pub use context::{Context, Contract, Infrastructure, Limits, ParseSelectorError, Selector};
pub use engine::Engine;
pub use exchange::{Accuracy, Ending, Exchange, Head, Heads, Identity, Protocol, RoundTrips, Service};
pub use fingerprint::Fingerprint;
pub use impact::{Impact, ImpactConfig, ServicePrice};
pub use record::{ExchangeRecord, ExchangeRecordError};
pub use state::LoadError;
pub use time::Nanos;
pub use view::{ClientView, EngineLoss, EngineStats, Totals, WindowFeatures};

#[cfg(test)]
fn test_exchange() -> Exchange {
    Exchange {
        start: Nanos(0),
        client: ClientId::V4(std::net::Ipv4Addr::LOCALHOST),
        client_port: 40_000,
        service: Service { address: None, port: 8443 },
        flow: 1,
        request_bytes: 900,
        answer_bytes: 3000,
        time_to_first_byte: None,
        time_to_first_token: None,
        duration: std::time::Duration::from_millis(100),
        records: 3,
        record_median: 242,
        protocol: Protocol::Tls,
        accuracy: Accuracy::Derived,
        confidence: None,
        ending: Ending::Complete,
        truncated: None,
        heads: Heads::default(),
        ja4: None,
        round_trips: RoundTrips::default(),
        identity: Identity::Direct,
    }
}
