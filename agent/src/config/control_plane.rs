//! Where anomalies are reported to, and how the way there is protected.
//!
//! Invariant: clear text goes no further than this host; every other address has a certificate for
//! both sides.

use std::{fmt, fs::File, net::IpAddr, path::PathBuf};

use clap::Args;
use serde::Deserialize;
use tonic::transport::Uri;

use super::Problems;
use crate::spool::MIN_BYTES;

/// Where anomalies wait, unless told otherwise.
const SPOOL: &str = "/var/lib/hydrometer/spool";

/// A control plane and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlPlane {
    /// A unix socket on this host.
    Unix(PathBuf),
    /// Clear text on this host's loopback.
    Loopback(Uri),
    /// TLS with certificates on both sides.
    Tls {
        /// Where.
        uri: Uri,
        /// Who.
        files: TlsFiles,
    },
}

/// PEM files of a mutual TLS connection. They are read at each connect, so that a renewed
/// certificate needs no restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities that may sign the control plane's certificate.
    pub ca: PathBuf,
    /// This agent's certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Name in the control plane's certificate, where it is not the address's host.
    pub domain: Option<String>,
}

/// Where anomalies wait until the control plane has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolOptions {
    /// Directory of its files.
    pub directory: PathBuf,
    /// What they take at most, bytes.
    pub max_bytes: u64,
}

/// What a user may set about the control plane.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlPlaneSettings {
    /// Report anomalies there: unix:/path, http://127.0.0.1:7070 or https://host:port
    #[arg(long = "control-plane", id = "control_plane_address", value_name = "ADDRESS")]
    address: Option<String>,
    /// PEM file of the authorities that may sign the control plane's certificate
    #[arg(long = "control-plane-ca", id = "control_plane_ca", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file of this agent's certificate
    #[arg(long = "control-plane-cert", id = "control_plane_cert", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// PEM file of this agent's private key
    #[arg(long = "control-plane-key", id = "control_plane_key", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Name in the control plane's certificate [default: the address's host]
    #[arg(long = "control-plane-domain", id = "control_plane_domain", value_name = "NAME")]
    domain: Option<String>,
    /// Directory in which anomalies wait for the control plane [default: /var/lib/hydrometer/spool]
    #[arg(long = "control-plane-spool", id = "control_plane_spool", value_name = "DIR")]
    spool: Option<PathBuf>,
    /// What that directory may take, from 1048576 on; beyond it the oldest are given up, and counted
    /// [default: 67108864]
    #[arg(long = "control-plane-spool-bytes", id = "control_plane_spool_bytes", value_name = "BYTES")]
    spool_bytes: Option<u64>,
}

impl ControlPlaneSettings {
    pub(super) fn over(self, file: Self) -> Self {
        Self {
            address: self.address.or(file.address),
            ca: self.ca.or(file.ca),
            cert: self.cert.or(file.cert),
            key: self.key.or(file.key),
            domain: self.domain.or(file.domain),
            spool: self.spool.or(file.spool),
            spool_bytes: self.spool_bytes.or(file.spool_bytes),
        }
    }

    pub(super) fn spool(&self, problems: &mut Problems) -> SpoolOptions {
        let max_bytes = self.spool_bytes.unwrap_or(64 << 20);
        problems.check(max_bytes >= MIN_BYTES, || {
            format!("control_plane.spool_bytes {max_bytes} is too little: give at least {MIN_BYTES}")
        });
        SpoolOptions { directory: self.spool.clone().unwrap_or_else(|| SPOOL.into()), max_bytes }
    }

    /// `None` when there is none, or when it cannot be used, which is then a problem.
    pub(super) fn validate(self, problems: &mut Problems) -> Option<ControlPlane> {
        let Some(address) = self.address.clone() else {
            let is_orphan = self.ca.or(self.cert).or(self.key).is_some() || self.domain.is_some();
            problems.check(!is_orphan, || {
                "control_plane has certificates but no address: give --control-plane ADDRESS".to_owned()
            });
            return None;
        };
        if let Some(path) = address.strip_prefix("unix:") {
            problems.check(path.starts_with('/'), || {
                format!("control_plane.address {address} is no absolute path: write unix:/path/to/socket")
            });
            return Some(ControlPlane::Unix(path.into()));
        }
        let uri = address.parse::<Uri>().ok().filter(|uri| matches!(uri.path(), "" | "/"));
        match uri.as_ref().and_then(Uri::scheme_str) {
            Some("http") => {
                let uri = uri.filter(is_loopback);
                problems.check(uri.is_some(), || {
                    format!("control_plane.address {address} would carry clear text off this host: use https:// with ca, cert and key")
                });
                uri.map(ControlPlane::Loopback)
            }
            Some("https") => {
                uri.zip(self.tls(&address, problems)).map(|(uri, files)| ControlPlane::Tls { uri, files })
            }
            _ => {
                problems.add(format!(
                    "control_plane.address {address:?} is no address: write unix:/path, http://127.0.0.1:7070 or https://host:port"
                ));
                None
            }
        }
    }

    fn tls(self, address: &str, problems: &mut Problems) -> Option<TlsFiles> {
        let files = [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)];
        let missing: Vec<_> =
            files.iter().filter(|(_, path)| path.is_none()).map(|(name, _)| *name).collect();
        problems.check(missing.is_empty(), || {
            format!(
                "control_plane.address {address} needs certificates on both sides: set {} to PEM files",
                missing.join(", ")
            )
        });
        for (name, path) in files.iter().filter_map(|(name, path)| Some((name, path.as_ref()?))) {
            if let Err(error) = File::open(path) {
                problems.add(format!("control_plane.{name} {} cannot be read: {error}", path.display()));
            }
        }
        Some(TlsFiles { ca: self.ca?, cert: self.cert?, key: self.key?, domain: self.domain })
    }
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Display for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback(uri) | Self::Tls { uri, .. } => f.pad(uri.to_string().trim_end_matches('/')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(settings: ControlPlaneSettings) -> Result<Option<ControlPlane>, String> {
        let mut problems = Problems::default();
        let control_plane = settings.validate(&mut problems);
        if problems.0.is_empty() { Ok(control_plane) } else { Err(problems.0.join("; ")) }
    }

    fn at(address: &str) -> ControlPlaneSettings {
        ControlPlaneSettings { address: Some(address.to_owned()), ..ControlPlaneSettings::default() }
    }

    #[test]
    fn clear_text_stays_on_this_host() {
        for address in
            ["unix:/run/control.sock", "http://127.0.0.1:7070", "http://[::1]:7070", "http://localhost:7070"]
        {
            assert_eq!(validate(at(address)).unwrap().unwrap().to_string(), address);
        }
        for address in ["http://10.0.0.9:7070", "http://control:7070", "http://127.0.0.1.example:7070"] {
            assert!(validate(at(address)).unwrap_err().contains("off this host"), "{address}");
        }
        for address in ["control:7070", "ftp://127.0.0.1", "http://127.0.0.1:7070/report", "", "unix:run"] {
            assert!(validate(at(address)).is_err(), "{address}");
        }
    }

    #[test]
    fn another_host_needs_readable_certificates_on_both_sides() {
        let said = validate(at("https://control:7070")).unwrap_err();
        assert!(said.contains("set ca, cert, key"), "{said}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.pem");
        std::fs::write(&file, "").unwrap();
        let given = ControlPlaneSettings {
            ca: Some(file.clone()),
            cert: Some(file.clone()),
            key: Some(folder.path().join("absent.pem")),
            ..at("https://control:7070")
        };
        let said = validate(given.clone()).unwrap_err();
        assert!(
            said.starts_with("control_plane.key ") && !said.contains("set ") && said.contains("absent.pem"),
            "{said}"
        );
        let complete = ControlPlaneSettings { key: Some(file), ..given };
        assert!(matches!(validate(complete), Ok(Some(ControlPlane::Tls { .. }))));
    }

    #[test]
    fn certificates_without_an_address_are_a_mistake() {
        let orphan = ControlPlaneSettings { ca: Some("ca.pem".into()), ..ControlPlaneSettings::default() };
        assert!(validate(orphan).unwrap_err().contains("no address"));
        assert_eq!(validate(ControlPlaneSettings::default()), Ok(None));
    }
}
