//! Settings: flags over a TOML file over defaults, validated as a whole.
//!
//! In flow [`Options`] from both places, out flow [`Settings`] that can be acted on. Invariant:
//! settings never make an anomaly reachable from other hosts without mutual TLS. (`metrics` is figures without names.)

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::{
    listen::Address,
    sink::{
        Sink,
        options::{self, SinkOptions},
    },
    store::Retention,
};

/// What can be set, by flag (`--tls-key`) or by file (`tls_key`).
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where to listen: unix:/PATH or ADDR:PORT; may be given several times. An address other than
    /// loopback needs the three --tls flags [default: unix:/run/hydrometer/control.sock]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<Address>,
    /// File that keeps the anomalies; created when missing [default: /var/lib/hydrometer/control.redb]
    #[arg(long, value_name = "FILE")]
    pub store: Option<PathBuf>,
    /// Our certificate chain, PEM. With TLS, every TCP address demands a client certificate
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Certificate authorities of the agents and subscribers, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Seconds after which a subscriber that takes nothing is cut off [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub subscriber_patience_s: Option<u64>,
    /// Days after which stored states are removed [default: 400]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    pub retain_days: Option<u32>,
    /// Bytes of stored states beyond which the oldest are removed; the file takes up to about half more
    /// [default: 8589934592]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub retain_bytes: Option<u64>,
    /// Answer Prometheus (/metrics) and probes (/livez, /readyz, grpc.health.v1) there, in clear text: ADDR:PORT
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<SocketAddr>,
    /// What to log on standard error [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<LogLevel>,
    /// Where the SOC gets what is stored; in the file only, a table `[[sink]]` each.
    #[arg(skip)]
    #[serde(rename = "sink")]
    pub sinks: Vec<SinkOptions>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What stops or loses something.
    Error,
    /// What needs a look.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// What happens.
    Debug,
    /// Everything.
    Trace,
}

/// Valid settings.
#[derive(Debug)]
pub struct Settings {
    /// Where to listen; at least one.
    pub listen: Vec<Address>,
    /// The store's file.
    pub store: PathBuf,
    /// Mutual TLS for the TCP addresses; none means that they are all loopback.
    pub tls: Option<ServerTlsConfig>,
    /// How much is kept.
    pub retention: Retention,
    /// After this a subscriber that takes nothing is cut off.
    pub subscriber_patience: Duration,
    /// Where Prometheus and probes are answered, in clear text.
    pub metrics: Option<SocketAddr>,
    /// What to log.
    pub log: LogLevel,
    /// Where the SOC gets what is stored.
    pub sinks: Vec<Sink>,
}

/// Everything that is wrong with the settings, a line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(Vec<String>);

const DEFAULT_LISTEN: &str = "/run/hydrometer/control.sock";
const DEFAULT_RETAIN_DAYS: u32 = 400;
const DEFAULT_RETAIN_BYTES: u64 = 8 << 30;
const NANOS_PER_DAY: i64 = 86_400_000_000_000;
const DEFAULT_PATIENCE_S: u64 = 60;
const DEFAULT_STORE: &str = "/var/lib/hydrometer/control.redb";

impl Options {
    /// Reads a TOML file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|error| unreadable("settings", path, &error))?;
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            ConfigError(vec![format!("{}:{line}: {}", path.display(), error.message().replace('\n', "; "))])
        })
    }

    /// These options where given, those of `other` where not.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            listen: if self.listen.is_empty() { other.listen } else { self.listen },
            store: self.store.or(other.store),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            tls_client_ca: self.tls_client_ca.or(other.tls_client_ca),
            subscriber_patience_s: self.subscriber_patience_s.or(other.subscriber_patience_s),
            retain_days: self.retain_days.or(other.retain_days),
            retain_bytes: self.retain_bytes.or(other.retain_bytes),
            metrics: self.metrics.or(other.metrics),
            log: self.log.or(other.log),
            sinks: if self.sinks.is_empty() { other.sinks } else { self.sinks },
        }
    }

    /// Checks all settings and reads the TLS files.
    pub fn validate(self) -> Result<Settings, ConfigError> {
        let mut errors = Vec::new();
        let tls = match (self.tls_cert, self.tls_key, self.tls_client_ca) {
            (None, None, None) => {
                errors.extend(self.listen.iter().filter(|address| reachable(address)).map(refuse_plain));
                None
            }
            (Some(cert), Some(key), Some(ca)) => {
                read_tls(&cert, &key, &ca).map_err(|e| errors.extend(e.0)).ok()
            }
            _ => {
                errors.push(
                    "--tls-cert, --tls-key and --tls-client-ca belong together; give all three".to_owned(),
                );
                None
            }
        };
        let listen = match self.listen {
            none if none.is_empty() => vec![Address::Unix(DEFAULT_LISTEN.into())],
            some => some,
        };
        let store = self.store.unwrap_or_else(|| DEFAULT_STORE.into());
        let subscriber_patience =
            Duration::from_secs(self.subscriber_patience_s.unwrap_or(DEFAULT_PATIENCE_S));
        if subscriber_patience.is_zero() {
            errors.push("subscriber_patience_s is 1 at least".to_owned());
        }
        let retention = Retention {
            max_age: i64::from(self.retain_days.unwrap_or(DEFAULT_RETAIN_DAYS)) * NANOS_PER_DAY,
            max_bytes: self.retain_bytes.unwrap_or(DEFAULT_RETAIN_BYTES),
        };
        if retention.max_age == 0 || retention.max_bytes == 0 {
            errors.push("retain_days and retain_bytes are 1 at least".to_owned());
        }
        let log = self.log.unwrap_or_default();
        let sinks = options::validate(self.sinks, &store).map_err(|e| errors.extend(e)).unwrap_or_default();
        if errors.is_empty() {
            Ok(Settings {
                listen,
                store,
                tls,
                retention,
                subscriber_patience,
                metrics: self.metrics,
                log,
                sinks,
            })
        } else {
            Err(ConfigError(errors))
        }
    }
}

fn reachable(address: &Address) -> bool {
    matches!(address, Address::Tcp(socket) if !socket.ip().is_loopback())
}

fn refuse_plain(address: &Address) -> String {
    format!(
        "will not listen on {address} without mutual TLS; give --tls-cert, --tls-key and --tls-client-ca, or \
         listen on a unix socket or a loopback address"
    )
}

fn read_tls(cert: &Path, key: &Path, ca: &Path) -> Result<ServerTlsConfig, ConfigError> {
    let files =
        [("certificate", cert, "CERTIFICATE"), ("key", key, "PRIVATE KEY"), ("client CA", ca, "CERTIFICATE")];
    let mut errors = Vec::new();
    let [cert, key, ca] = files.map(|(what, path, label)| {
        read_pem(what, path, label).map_err(|error| errors.extend(error.0)).unwrap_or_default()
    });
    if !errors.is_empty() {
        return Err(ConfigError(errors));
    }
    let config = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(ca));
    // Building a server is what parses the files.
    match tonic::transport::Server::builder().tls_config(config.clone()) {
        Ok(_) => Ok(config),
        Err(error) => Err(ConfigError(vec![format!(
            "the TLS files do not fit together: {}; is {} the key of {}?",
            innermost(&error),
            files[1].1.display(),
            files[0].1.display()
        )])),
    }
}

fn read_pem(what: &str, path: &Path, label: &str) -> Result<String, ConfigError> {
    let text = fs::read_to_string(path).map_err(|error| unreadable(&format!("TLS {what}"), path, &error))?;
    if text.contains("-----BEGIN ") && text.contains(&format!("{label}-----")) {
        return Ok(text);
    }
    Err(ConfigError(vec![format!("the TLS {what} {} holds no {label} in PEM form", path.display())]))
}

fn unreadable(what: &str, path: &Path, error: &io::Error) -> ConfigError {
    ConfigError(vec![format!("cannot read the {what} {}: {error}", path.display())])
}

/// The cause at the bottom of an error, without the layers that only say that there is one.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}
