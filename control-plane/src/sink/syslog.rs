//! Syslog: RFC 5424 messages with octet counting (RFC 6587, RFC 5425) over TCP or TLS, as OCSF or CEF.
//!
//! Syslog has no acknowledgements: a message counts as delivered when it has been handed to the connection.
//! Whether the receiver has closed it is looked at before each batch. What its host had not read when it
//! died is lost, as with every sender of syslog.

use std::{future::Future as _, io, pin::Pin, str::FromStr, sync::Arc, task::Poll};

use hydrometer_proto::v1::{AnomalyState, Severity};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    Failure, cef,
    finding::Finding,
    ocsf,
    tls::{self, TlsOptions},
};
use crate::store::Row;

/// Settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyslogOptions {
    /// tls://HOST:PORT or tcp://HOST:PORT.
    pub address: SyslogAddress,
    /// What a message holds.
    #[serde(default)]
    pub format: SyslogFormat,
    /// The longest message that the receiver takes. A finding that would be longer leaves its series out.
    #[serde(default = "default_max_bytes")]
    pub max_bytes: usize,
    /// TLS.
    #[serde(default)]
    pub tls: TlsOptions,
}

/// What a message holds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyslogFormat {
    /// OCSF as JSON.
    #[default]
    Ocsf,
    /// ArcSight's Common Event Format.
    Cef,
}

/// Where a receiver is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SyslogAddress {
    secure: bool,
    host: String,
    port: u16,
}

/// A receiver.
pub(super) struct Syslog {
    address: SyslogAddress,
    format: SyslogFormat,
    max_bytes: usize,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connection: Option<Connection>,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}
type Connection = Box<dyn Duplex>;

/// What rsyslog takes where nothing else is set.
const fn default_max_bytes() -> usize {
    8192
}

/// Every receiver must take so much (RFC 5425, 4.3.1).
const LEAST_MAX_BYTES: usize = 2048;

/// Facility of security messages.
const FACILITY_AUTH: u8 = 4;

impl Syslog {
    pub(super) fn new(options: SyslogOptions) -> Result<Self, String> {
        let SyslogOptions { address, format, max_bytes, tls } = options;
        if max_bytes < LEAST_MAX_BYTES {
            return Err(format!("max_bytes is {max_bytes}; {LEAST_MAX_BYTES} is the least"));
        }
        let tls = address.secure.then(|| connector(&address.host, &tls)).transpose()?;
        Ok(Self { address, format, max_bytes, tls, connection: None })
    }

    pub(super) async fn send(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let mut frames = String::new();
        for finding in rows.iter().map(Finding::of) {
            let message = self.message(finding)?;
            frames.push_str(&message.len().to_string());
            frames.push(' ');
            frames.push_str(&message);
        }
        // Taken out, so that one whose writing fails or is given up half way is not used again.
        let mut connection = match self.connection.take() {
            Some(connection) => open(connection).await,
            None => None,
        };
        if connection.is_none() {
            connection = Some(self.connect().await.map_err(|error| self.unavailable(&error))?);
        }
        if let Some(mut connection) = connection {
            let written = async {
                connection.write_all(frames.as_bytes()).await?;
                connection.flush().await
            };
            written.await.map_err(|error| self.unavailable(&error))?;
            self.connection = Some(connection);
        }
        Ok(())
    }

    async fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect((self.address.host.as_str(), self.address.port)).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
            None => Box::new(stream),
        })
    }

    fn unavailable(&self, error: &io::Error) -> Failure {
        Failure::Unavailable(format!("cannot send to {}:{}: {error}", self.address.host, self.address.port))
    }

    /// A message of at most `max_bytes`.
    fn message(&self, finding: Finding<'_>) -> Result<String, Failure> {
        let header = header(finding);
        let room = self.max_bytes.saturating_sub(header.len());
        let content = match self.format {
            SyslogFormat::Ocsf => ocsf::render(finding, room),
            SyslogFormat::Cef => {
                Some(cef::render(finding)).filter(|line| line.len() <= room).ok_or(self.max_bytes + 1)
            }
        };
        content.map(|content| header + &content).map_err(|length| {
            Failure::Refused(format!("it takes {length} bytes at least, and max_bytes is {}", self.max_bytes))
        })
    }
}

/// Everything before the content. The node is where the message comes from.
fn header(finding: Finding<'_>) -> String {
    let priority = FACILITY_AUTH * 8 + severity(finding);
    let time = jiff::Timestamp::from_microsecond(finding.time().div_euclid(1000)).unwrap_or_default();
    let node = token(&finding.anomaly().node, 255);
    let kind = token(&finding.kind(), 32);
    format!("<{priority}>1 {time:.6} {node} hydrometer - {kind} - ")
}

fn severity(finding: Finding<'_>) -> u8 {
    match (finding.state(), finding.severity()) {
        (AnomalyState::Closed, _) | (_, Severity::Unspecified) => 6,
        (_, Severity::Low) => 5,
        (_, Severity::Medium) => 4,
        (_, Severity::High) => 3,
        (_, Severity::Critical) => 2,
    }
}

/// Printable ASCII without blanks, or "-" for nothing.
fn token(text: &str, longest: usize) -> String {
    let token: String = text.chars().filter(char::is_ascii_graphic).take(longest).collect();
    if token.is_empty() { "-".to_owned() } else { token }
}

/// The connection, unless the other side has closed it.
async fn open(mut connection: Connection) -> Option<Connection> {
    let mut answer = [0; 512];
    loop {
        let looked = {
            let mut reading = Box::pin(connection.read(&mut answer));
            std::future::poll_fn(|context| {
                Poll::Ready(match Pin::new(&mut reading).poll(context) {
                    Poll::Ready(read) => Some(read),
                    Poll::Pending => None,
                })
            })
            .await
        };
        match looked {
            None => return Some(connection),
            // Receivers have nothing to say; what they say is passed over.
            Some(Ok(length)) if length > 0 => {}
            Some(_) => return None,
        }
    }
}

fn connector(host: &str, options: &TlsOptions) -> Result<(TlsConnector, ServerName<'static>), String> {
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| format!("`{host}` is not a name to verify"))?;
    Ok((TlsConnector::from(Arc::new(tls::client(options)?)), name))
}

impl FromStr for SyslogAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is neither tls://HOST:PORT nor tcp://HOST:PORT");
        let (scheme, rest) = text.split_once("://").ok_or_else(refuse)?;
        let secure = match scheme {
            "tls" => true,
            "tcp" => false,
            _ => return Err(refuse()),
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(refuse)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().map_err(|_| refuse())?;
        if host.is_empty() || host.contains(['/', '@']) {
            return Err(refuse());
        }
        Ok(Self { secure, host: host.to_owned(), port })
    }
}

impl TryFrom<String> for SyslogAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::fmt::Debug for Syslog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Syslog({:?})", self.address)
    }
}

#[cfg(test)]
mod tests {
    use hydrometer_proto::v1::{Anomaly, AnomalyKind, CampaignMember, Evidence, Series};
    use prost_types::Timestamp;

    use super::*;

    fn row(anomaly: Anomaly) -> Row {
        Row { position: 1, stored: 0, anomaly, lost: None }
    }

    fn syslog(format: SyslogFormat) -> Syslog {
        let address = "tcp://127.0.0.1:1".parse().unwrap();
        Syslog::new(SyslogOptions { address, format, max_bytes: 8192, tls: TlsOptions::default() }).unwrap()
    }

    #[test]
    fn the_header_is_of_rfc_5424() {
        let anomaly = Anomaly {
            kind: AnomalyKind::Flood.into(),
            severity: Severity::High.into(),
            node: "gpu 07\n".into(),
            last_seen: Some(Timestamp { seconds: 1_700_000_000, nanos: 1_500_000 }),
            ..Anomaly::default()
        };
        let header = header(Finding::of(&row(anomaly)));
        assert_eq!(header, "<35>1 2023-11-14T22:13:20.001500Z gpu07 hydrometer - flood - ");
    }

    #[test]
    fn a_finding_too_long_for_the_receiver_is_told_briefly_and_says_so() {
        let series = Series { values: vec![0.123_456_789; 4000], ..Series::default() };
        let member = |number| CampaignMember {
            client: format!("10.0.0.{number}"),
            reason: "alike".into(),
            anomalies: Vec::new(),
        };
        let row = row(Anomaly {
            id: "a".into(),
            evidence: Some(Evidence { series: vec![series], ..Evidence::default() }),
            members: (0..200).map(member).collect(),
            ..Anomaly::default()
        });
        let message = syslog(SyslogFormat::Ocsf).message(Finding::of(&row)).unwrap();
        assert!(message.len() <= 8192 && message.contains("\"is_truncated\":true"), "{message}");
        let cef = syslog(SyslogFormat::Cef).message(Finding::of(&row)).unwrap();
        assert!(cef.contains("and 190 more"), "{cef}");
    }

    #[test]
    fn what_cannot_be_shortened_is_refused() {
        let row = row(Anomaly { client: "x".repeat(9000), ..Anomaly::default() });
        let refused = syslog(SyslogFormat::Ocsf).message(Finding::of(&row));
        assert!(matches!(refused, Err(Failure::Refused(_))), "{refused:?}");
    }

    #[test]
    fn addresses_say_whether_they_are_secure() {
        let address = |text: &str| text.parse::<SyslogAddress>();
        let expected = SyslogAddress { secure: true, host: "::1".into(), port: 6514 };
        assert_eq!(address("tls://[::1]:6514"), Ok(expected));
        assert!(!address("tcp://siem.example:601").unwrap().secure);
        for text in ["siem:514", "udp://siem:514", "tls://siem", "tls://:1", "tls://a@b:1", "tls://siem:x"] {
            assert!(address(text).unwrap_err().contains(text), "{text}");
        }
    }
}
