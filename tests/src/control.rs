//! The control plane on a unix socket, with a store that outlives it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;

use crate::{binary, net::Namespace, process::Process};

/// A running `hydrometer-control`. Dropped, it is asked to end and waited for.
#[derive(Debug)]
pub struct Control {
    process: Process,
    folder: PathBuf,
}

impl Control {
    /// Starts one whose socket, store and log are in `folder`; it goes on with a store that is there. It needs nothing
    /// of `namespace` but to end with it.
    pub fn start(namespace: &Namespace, folder: &Path) -> Result<Self> {
        Ok(Self { process: spawn(namespace, folder)?, folder: folder.to_owned() })
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        socket(&self.folder)
    }

    /// The agent's `--control-plane`.
    pub fn address(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it as a crash does (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// Starts it again, after [`Control::kill`], with the same socket and store.
    pub fn restart(&mut self, namespace: &Namespace) -> Result<()> {
        self.process = spawn(namespace, &self.folder)?;
        Ok(())
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("control.sock")
}

fn spawn(namespace: &Namespace, folder: &Path) -> Result<Process> {
    let mut command = namespace.command(binary::path("hydrometer-control")?);
    command.arg("--listen").arg(format!("unix:{}", socket(folder).display()));
    command.arg("--store").arg(folder.join("control.redb"));
    let mut process = Process::spawn("control", command, folder)?;
    process.ready(Duration::from_secs(30), |control| {
        control.output().contains("hydrometer-control listening on").then_some(())
    })?;
    Ok(process)
}
