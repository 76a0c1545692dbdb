//! curl: a client for tests that need bytes on the wire, and not a conversation with a model.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

use crate::{net::Namespace, nginx::Nginx};

/// Asks `nginx` on one connection from `address`, once for each of `uploads`, with so many bytes of body; every answer
/// must be a success. Files go into `folder`.
pub fn ask(
    namespace: &Namespace,
    nginx: &Nginx,
    folder: &Path,
    address: IpAddr,
    uploads: &[usize],
) -> Result<()> {
    ask_through(namespace, nginx, folder, address, uploads, None)
}

/// Likewise, through a relay.
pub fn ask_through(
    namespace: &Namespace,
    nginx: &Nginx,
    folder: &Path,
    address: IpAddr,
    uploads: &[usize],
    relay: Option<SocketAddr>,
) -> Result<()> {
    let mut command = namespace.command("curl");
    for (n, &bytes) in uploads.iter().enumerate() {
        if n > 0 {
            command.arg("--next");
        }
        command.args(["--silent", "--show-error", "--fail", "--max-time", "120", "--output", "/dev/null"]);
        command.args(["--interface", &address.to_string(), "--cacert"]).arg(nginx.certificate());
        // It would wait for a `100 Continue` before a long body, and nginx sends none.
        command.args(["--header", "Expect:"]);
        if let Some(relay) = relay {
            command.arg("--connect-to").arg(format!("::{relay}"));
        }
        if bytes > 0 {
            let body = upload(folder, bytes)?;
            command.arg("--data-binary").arg(format!("@{}", body.display()));
        }
        command.arg(nginx.base_url(address));
    }
    let output = command.output().context("cannot run curl; install it (`cargo xtask setup`)")?;
    ensure!(output.status.success(), "curl failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// A file of so many bytes. It appears whole: others may be reading one of the same name.
fn upload(folder: &Path, bytes: usize) -> Result<PathBuf> {
    let path = folder.join(format!("upload-{bytes}"));
    let write = || {
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(&vec![b'u'; bytes])?;
        file.persist(&path).map_err(|error| error.error)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
