//! Where Prometheus and probes are answered, and whom that names.

use std::net::SocketAddr;

use clap::Args;
use serde::Deserialize;

use super::Problems;

/// Clients that may be named: each is three series of every scrape.
const MAX_CLIENTS: u32 = 1_000;

/// The port for Prometheus and for probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where it listens, in clear text.
    pub address: SocketAddr,
    /// How many of the busiest clients are named there.
    pub clients: u32,
}

/// What a user may set about it.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Answer Prometheus (/metrics) and probes (/livez, /readyz, grpc.health.v1) there, in clear text: ADDRESS:PORT
    #[arg(long = "metrics", id = "metrics_address", value_name = "ADDRESS")]
    address: Option<SocketAddr>,
    /// Name this many of the busiest clients there, the rest together as "other" [default: 0]
    #[arg(long = "metrics-clients", id = "metrics_clients", value_name = "COUNT")]
    clients: Option<u32>,
}

impl MetricsSettings {
    pub(super) fn over(self, file: Self) -> Self {
        Self { address: self.address.or(file.address), clients: self.clients.or(file.clients) }
    }

    /// `None` when nobody is to be answered.
    pub(super) fn validate(self, problems: &mut Problems) -> Option<Metrics> {
        let clients = self.clients.unwrap_or(0);
        problems.check(clients <= MAX_CLIENTS, || {
            format!("metrics.clients is {clients}: set it to {MAX_CLIENTS} or less")
        });
        problems.check(self.address.is_some() || self.clients.is_none(), || {
            "metrics names clients but no address: give --metrics ADDRESS:PORT".to_owned()
        });
        self.address.map(|address| Metrics { address, clients })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(address: Option<&str>, clients: Option<u32>) -> Result<Option<Metrics>, String> {
        let mut problems = Problems::default();
        let address = address.map(|address| address.parse().unwrap());
        let metrics = MetricsSettings { address, clients }.validate(&mut problems);
        problems.none_or(metrics).map_err(|error| error.to_string())
    }

    #[test]
    fn clients_are_named_only_by_choice_and_within_a_bound() {
        assert_eq!(validate(None, None), Ok(None));
        let metrics = validate(Some("127.0.0.1:9464"), None).unwrap().unwrap();
        assert_eq!((metrics.address.port(), metrics.clients), (9464, 0));
        assert_eq!(validate(Some("[::]:9464"), Some(20)).unwrap().unwrap().clients, 20);
        assert!(validate(Some("[::]:9464"), Some(1_001)).unwrap_err().contains("1000 or less"));
        assert!(validate(None, Some(20)).unwrap_err().contains("--metrics ADDRESS:PORT"));
    }
}
