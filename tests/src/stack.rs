//! The usual arrangement: a network, llama.cpp and nginx at its server end, and a folder for their files.

use std::{net::IpAddr, path::Path};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    llama::Llama,
    net::Network,
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
        let folder = tempfile::Builder::new()
            .prefix("hydrometer-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        let network = Network::new()?;
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
