//! Takes a backup of a running control plane.
//!
//! Invariant: the file of the name that was asked for is a whole backup, or what it was before.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use hydrometer_proto::v1::{BackupRequest, operations_client::OperationsClient};
use tonic::transport::Channel;

use crate::{health, listen::Address};

/// For the whole backup.
const TIMEOUT: Duration = Duration::from_hours(1);

/// Writes what the control plane at `address` has stored to `file`.
pub async fn take(address: &Address, file: &Path) -> anyhow::Result<()> {
    let channel = health::connect(address, TIMEOUT).await?;
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let result = receive(channel, &part).await.and_then(|bytes| {
        fs::rename(&part, file)?;
        Ok(bytes)
    });
    let bytes = result.with_context(|| {
        // What there is of it is of no use.
        let _ = fs::remove_file(&part);
        format!("cannot take a backup from {address} to {}", file.display())
    })?;
    println!("{bytes} bytes in {}", file.display());
    Ok(())
}

async fn receive(channel: Channel, part: &Path) -> anyhow::Result<u64> {
    let mut file = create(part)?;
    let refused = |status: tonic::Status| anyhow!("{}", status.message());
    let mut pieces =
        OperationsClient::new(channel).backup(BackupRequest {}).await.map_err(refused)?.into_inner();
    let mut bytes = 0;
    while let Some(piece) = pieces.message().await.map_err(refused)? {
        file.write_all(&piece.content)?;
        bytes += piece.content.len() as u64;
    }
    file.sync_all()?;
    Ok(bytes)
}

/// For nobody else on the host: anomalies name clients.
fn create(path: &Path) -> anyhow::Result<File> {
    Ok(OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?)
}
