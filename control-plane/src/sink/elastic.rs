//! Elasticsearch's and OpenSearch's bulk API.
//!
//! A document's identifier is that of the state, so one that is sent again is not stored again.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Failure,
    finding::Finding,
    http::{Endpoint, quote},
    ocsf::{self, Detail},
    secret::Secret,
    tls::TlsOptions,
};
use crate::store::Row;

/// Settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElasticOptions {
    /// Where the cluster is, such as https://elastic.example:9200.
    pub url: String,
    /// Index or data stream.
    pub index: String,
    /// File with an API key, as Elastic encodes it; none means that no key is sent.
    pub api_key_file: Option<std::path::PathBuf>,
    /// TLS.
    #[serde(default)]
    pub tls: TlsOptions,
}

/// An index.
#[derive(Debug)]
pub(super) struct Elastic {
    endpoint: Endpoint,
    api_key: Option<Secret>,
}

/// It is there already.
const CONFLICT: u64 = 409;

impl Elastic {
    pub(super) fn new(options: ElasticOptions) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if options.index.is_empty() || !options.index.chars().all(plain) {
            return Err(format!("`{}` is not the name of an index", options.index));
        }
        let endpoint = Endpoint::new(&options.url, &format!("/{}/_bulk", options.index), &options.tls)?;
        Ok(Self { endpoint, api_key: options.api_key_file.map(Secret::open).transpose()? })
    }

    pub(super) async fn send(&self, rows: &[Row]) -> Result<(), Failure> {
        let body = rows.iter().map(Finding::of).map(document).collect();
        let headers = match &self.api_key {
            Some(key) => vec![("authorization", format!("ApiKey {}", key.read()?))],
            None => Vec::new(),
        };
        let answer = self.endpoint.post("application/x-ndjson", headers, body).await?;
        settle(&answer)
    }
}

fn document(finding: Finding<'_>) -> String {
    let mut document = ocsf::event(finding, Detail::Full);
    // Data streams want a time of this name.
    document["@timestamp"] = document["time"].clone();
    format!("{}\n{document}\n", json!({ "create": { "_id": finding.uid() } }))
}

/// The answer has a status for each document.
fn settle(answer: &[u8]) -> Result<(), Failure> {
    let unreadable =
        || Failure::Unavailable(format!("this is no answer to a bulk request: {}", quote(answer)));
    let answer: Value = serde_json::from_slice(answer).map_err(|_| unreadable())?;
    let items = answer["items"].as_array().ok_or_else(unreadable)?;
    let mut refused = None;
    for item in items.iter().map(|item| &item["create"]) {
        let status = item["status"].as_u64().unwrap_or(0);
        let told = || format!("status {status}: {}", quote(item["error"].to_string().as_bytes()));
        match status {
            200..=299 | CONFLICT => {}
            400..=499 if status != 429 => refused = refused.or_else(|| Some(told())),
            _ => return Err(Failure::Unavailable(told())),
        }
    }
    refused.map_or(Ok(()), |told| Err(Failure::Refused(told)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_worst_document() {
        let of = |statuses: &[u32]| {
            let items: Vec<Value> = statuses
                .iter()
                .map(|status| json!({ "create": { "status": status, "error": "e" } }))
                .collect();
            settle(json!({ "errors": true, "items": items }).to_string().as_bytes())
        };
        assert_eq!(of(&[201, 409, 200]), Ok(()));
        assert!(matches!(of(&[201, 400]), Err(Failure::Refused(_))));
        assert!(matches!(of(&[400, 429, 201]), Err(Failure::Unavailable(_))));
        assert!(matches!(of(&[503]), Err(Failure::Unavailable(_))));
        assert!(matches!(settle(b"<html>"), Err(Failure::Unavailable(_))));
        assert!(matches!(settle(b"{}"), Err(Failure::Unavailable(_))));
    }
}
