//! Splunk's HTTP Event Collector.

use serde::Deserialize;
use serde_json::json;

use super::{
    Failure,
    finding::Finding,
    http::Endpoint,
    ocsf::{self, Detail},
    secret::Secret,
    tls::TlsOptions,
};
use crate::store::Row;

/// Settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplunkOptions {
    /// Where the collector is, such as https://splunk.example:8088.
    pub url: String,
    /// File with the collector's token.
    pub token_file: std::path::PathBuf,
    /// Index; none means the token's own.
    pub index: Option<String>,
    /// TLS.
    #[serde(default)]
    pub tls: TlsOptions,
}

/// A collector.
#[derive(Debug)]
pub(super) struct Splunk {
    endpoint: Endpoint,
    token: Secret,
    index: Option<String>,
}

impl Splunk {
    pub(super) fn new(options: SplunkOptions) -> Result<Self, String> {
        let endpoint = Endpoint::new(&options.url, "/services/collector/event", &options.tls)?;
        Ok(Self { endpoint, token: Secret::open(options.token_file)?, index: options.index })
    }

    pub(super) async fn send(&self, rows: &[Row]) -> Result<(), Failure> {
        let body = rows.iter().map(Finding::of).map(|finding| self.event(finding)).collect();
        let headers = vec![("authorization", format!("Splunk {}", self.token.read()?))];
        self.endpoint.post("application/json", headers, body).await.map(drop)
    }

    fn event(&self, finding: Finding<'_>) -> String {
        let mut event = json!({
            "time": finding.time().div_euclid(1_000_000) as f64 / 1e3,
            "host": finding.anomaly().node,
            "source": "hydrometer",
            "sourcetype": "ocsf:detection_finding",
            "event": ocsf::event(finding, Detail::Full),
        });
        if let Some(index) = &self.index {
            event["index"] = index.as_str().into();
        }
        format!("{event}\n")
    }
}
