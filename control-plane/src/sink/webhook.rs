//! Any HTTP receiver: a POST for each state, signed.
//!
//! The header `X-Hydrometer-Signature` is `t=SECONDS,v1=HEX`: HMAC-SHA256, under the shared secret, of the
//! seconds, a full stop and the body. A receiver that checks it, and the time, takes nothing forged or old.

use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use ring::hmac;
use serde::Deserialize;

use super::{Failure, finding::Finding, http::Endpoint, ocsf, secret::Secret, tls::TlsOptions};
use crate::store::Row;

/// Settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookOptions {
    /// Where to POST to.
    pub url: String,
    /// File with the secret that signs.
    pub secret_file: std::path::PathBuf,
    /// TLS.
    #[serde(default)]
    pub tls: TlsOptions,
}

/// A receiver.
#[derive(Debug)]
pub(super) struct Webhook {
    endpoint: Endpoint,
    secret: Secret,
}

impl Webhook {
    pub(super) fn new(options: WebhookOptions) -> Result<Self, String> {
        let endpoint = Endpoint::new(&options.url, "", &options.tls)?;
        Ok(Self { endpoint, secret: Secret::open(options.secret_file)? })
    }

    pub(super) async fn send(&self, rows: &[Row]) -> Result<(), Failure> {
        for finding in rows.iter().map(Finding::of) {
            let body = ocsf::render(finding, usize::MAX).unwrap_or_default();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let signature = sign(&self.secret.read()?, now, &body);
            let headers =
                vec![("x-hydrometer-signature", signature), ("x-hydrometer-delivery", finding.uid())];
            self.endpoint.post("application/json", headers, body).await?;
        }
        Ok(())
    }
}

fn sign(secret: &str, seconds: u64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{seconds}.{body}").as_bytes());
    let mut signature = format!("t={seconds},v1=");
    for byte in tag.as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(signature, "{byte:02x}");
    }
    signature
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_others_compute() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        let expected = "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686";
        assert_eq!(sign("secret", 1_700_000_000, "{\"a\":1}"), expected);
    }
}
