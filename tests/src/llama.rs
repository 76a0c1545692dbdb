//! A real llama.cpp server with a tiny model, speaking clear-text HTTP on the server namespace's loopback.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{net::Namespace, process::Process, python};

/// Where it listens inside the namespace, for the proxy only.
pub const PORT: u16 = 8080;

/// The running server.
#[derive(Debug)]
pub struct Llama {
    process: Process,
}

impl Llama {
    /// Writes the model into `folder` and starts the server with room for `slots` answers at a time.
    pub fn start(namespace: &Namespace, folder: &Path, slots: usize) -> Result<Self> {
        let python = python::interpreter()?;
        let model = folder.join("model.gguf");
        let made = std::process::Command::new(&python)
            .arg(python::script("make_model.py"))
            .arg(&model)
            .status()
            .with_context(|| format!("cannot run {}", python.display()))?;
        ensure!(made.success(), "writing the model to {} failed ({made})", model.display());
        let mut command = namespace.command(&python);
        command.arg(python::script("llama_server.py")).arg(&model);
        command.args(["127.0.0.1", &PORT.to_string(), &slots.to_string()]);
        let mut process = Process::spawn("llama", command, folder)?;
        process.ready(Duration::from_mins(1), |server| {
            server.output().lines().any(|line| line.starts_with("ready ")).then_some(())
        })?;
        Ok(Self { process })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
