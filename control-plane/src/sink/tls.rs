//! TLS towards destinations: whom to believe, and who we are.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde::Deserialize;

/// Settings of TLS.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsOptions {
    /// Certificate authorities of the destination, PEM; none means those of this host.
    pub ca: Option<PathBuf>,
    /// Our certificate chain, PEM, where the destination asks for one.
    pub cert: Option<PathBuf>,
    /// The private key of `cert`, PEM.
    pub key: Option<PathBuf>,
}

/// The configuration that these settings mean.
pub(super) fn client(options: &TlsOptions) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("cannot set up TLS: {error}"))?
        .with_root_certificates(roots(options)?);
    let (Some(cert), Some(key)) = (&options.cert, &options.key) else {
        if options.cert.is_some() || options.key.is_some() {
            return Err("tls.cert and tls.key belong together; give both".to_owned());
        }
        return Ok(builder.with_no_client_auth());
    };
    let unreadable = |path: &PathBuf, error| format!("cannot read {}: {error}", path.display());
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(cert, error))?;
    let own_key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
    builder
        .with_client_auth_cert(chain, own_key)
        .map_err(|error| format!("{} and {} do not fit together: {error}", cert.display(), key.display()))
}

fn roots(options: &TlsOptions) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = &options.ca else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(
                "this host has no certificate authorities; install ca-certificates or give tls.ca".to_owned()
            );
        }
        return Ok(roots);
    };
    let refuse = |error: String| format!("cannot use the certificate authorities {}: {error}", ca.display());
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| refuse(error.to_string()))? {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() { Err(refuse("there is none in it".to_owned())) } else { Ok(roots) }
}
