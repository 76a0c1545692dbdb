//! The usual arrangement: a network, llama.cpp and nginx at its server end, and a folder for their files.

use std::{env, fs, io, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    llama::Llama,
    net::{Network, is_of_the_dead},
    nginx::{Nginx, Security},
    openai::{Behaviour, Client},
};

/// A served model. Dropped in the order of the fields: processes before the namespaces they run in.
#[derive(Debug)]
pub struct Stack {
    /// The proxy that clients talk to.
    pub nginx: Nginx,
    /// The model server behind it.
    pub llama: Llama,
    /// The namespaces.
    pub network: Network,
    folder: TempDir,
}

impl Stack {
    /// Starts everything, with room for `slots` answers at a time.
    pub fn start(security: Security, slots: usize) -> Result<Self> {
        let network = Network::new()?;
        sweep_folders()?;
        let folder = tempfile::Builder::new()
            .prefix(&folder_prefix(std::process::id()))
            .tempdir()
            .context("cannot make a temporary folder")?;
        let llama = Llama::start(network.server(), folder.path(), slots)?;
        let nginx = Nginx::start(network.server(), folder.path(), security)?;
        Ok(Self { nginx, llama, network, folder })
    }

    /// Starts a client at one of the network's client addresses.
    pub fn client(&self, address: impl Into<IpAddr>, behaviour: &Behaviour) -> Result<Client> {
        Client::start(self.network.client(), &self.nginx, self.folder.path(), address.into(), behaviour)
    }

    /// Where all files are; removed with the stack.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// First part of the names of all folders here.
const PREFIX: &str = "hydrometer-";

/// How the folder of the process `pid` is called, up to a random end.
pub fn folder_prefix(pid: u32) -> String {
    format!("{PREFIX}{pid}-")
}

/// Removes folders that runs now dead have left behind.
pub fn sweep_folders() -> Result<()> {
    let place = env::temp_dir();
    let entries = fs::read_dir(&place).with_context(|| format!("cannot list {}", place.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", place.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(PREFIX).is_some_and(is_of_the_dead)
            && let Err(error) = fs::remove_dir_all(entry.path())
            // Another test may be sweeping the same one at this moment.
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("cannot remove {}", entry.path().display()));
        }
    }
    Ok(())
}
