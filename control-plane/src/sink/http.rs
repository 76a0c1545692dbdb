//! HTTP to destinations: one POST, and what its answer means.
//!
//! Redirects are not followed and proxies not asked: what goes out names clients and carries secrets, and
//! goes where the settings say.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tonic::codegen::{
    Bytes,
    http::{HeaderValue, Request, StatusCode, Uri, header},
};

use super::{Failure, tls::TlsOptions};
use crate::config::innermost;

/// Of an answer. That of Elastic has a line or two for each state.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Of an answer that is quoted in an error.
const QUOTE: usize = 200;

/// A place that takes POST requests.
#[derive(Debug)]
pub(super) struct Endpoint {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
}

/// What goes with a body.
pub(super) type Headers = Vec<(&'static str, String)>;

impl Endpoint {
    /// `url` with `path` behind it. Clear text only within this host.
    pub(super) fn new(url: &str, path: &str, tls: &TlsOptions) -> Result<Self, String> {
        let uri = destination(url, path)?;
        let https = HttpsConnectorBuilder::new().with_tls_config(super::tls::client(tls)?);
        let client =
            Client::builder(TokioExecutor::new()).build(https.https_or_http().enable_http1().build());
        Ok(Self { client, uri })
    }

    /// Sends `body`; the answer when it was taken.
    pub(super) async fn post(
        &self,
        content_type: &'static str,
        headers: Headers,
        body: String,
    ) -> Result<Bytes, Failure> {
        let mut request = Request::post(self.uri.clone()).header(header::CONTENT_TYPE, content_type);
        for (name, value) in headers {
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                Failure::Unavailable(format!("the secret for {name} has characters no header takes"))
            })?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::Unavailable(error.to_string()))?;
        let answer = self.client.request(request).await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| self.unreachable(error.as_ref()))?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(verdict(status, &body)) }
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        Failure::Unavailable(format!("cannot talk to {host}: {}", innermost(error)))
    }
}

/// What a status other than success says. Only what is wrong with the body is a refusal: a wrong password
/// or path is for the operator to set right, and nothing is to be lost until then.
fn verdict(status: StatusCode, body: &[u8]) -> Failure {
    let told = format!("HTTP {status}: {}", quote(body));
    match status {
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => Failure::Refused(told),
        _ => Failure::Unavailable(told),
    }
}

/// The begin of an answer, printable.
pub(super) fn quote(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * QUOTE)]);
    text.chars().filter(|character| !character.is_control()).take(QUOTE).collect()
}

fn destination(url: &str, path: &str) -> Result<Uri, String> {
    let uri: Uri = format!("{}{path}", url.trim_end_matches('/'))
        .parse()
        .map_err(|error| format!("`{url}` is not a URL: {error}"))?;
    let Some((scheme, authority)) = uri.scheme_str().zip(uri.authority()) else {
        return Err(format!("`{url}` is not a URL such as https://siem.example:8088"));
    };
    if authority.as_str().contains('@') {
        return Err("a URL must not hold a user or a password; secrets belong into files".to_owned());
    }
    match scheme {
        "https" => Ok(uri),
        "http" if is_loopback(authority.host()) => Ok(uri),
        "http" => Err(format!(
            "will not send secrets and clients' addresses to {authority} in clear text; use https"
        )),
        other => Err(format!("`{url}` begins with {other}; http and https are known")),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_with_the_body_is_a_refusal() {
        for (status, refused) in [
            (400, true),
            (413, true),
            (422, true),
            (401, false),
            (403, false),
            (404, false),
            (429, false),
            (500, false),
        ] {
            let verdict = verdict(StatusCode::from_u16(status).unwrap(), b"why\n");
            assert_eq!(matches!(verdict, Failure::Refused(_)), refused, "{status}: {verdict:?}");
        }
    }

    #[test]
    fn secrets_do_not_leave_this_host_in_clear_text() {
        for url in ["https://siem.example", "http://127.0.0.1:9", "http://[::1]:9/", "http://localhost:9"] {
            assert!(destination(url, "/x").is_ok(), "{url}");
        }
        for url in [
            "http://siem.example",
            "http://10.0.0.1:8088",
            "https://user:hunter2@siem.example",
            "ftp://a",
            "siem",
            "",
        ] {
            let said = destination(url, "/x").unwrap_err();
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
