//! gRPC: a real server, without a service definition, and clients whose messages have known lengths.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{net::Namespace, process::Process, python};

/// Where the server listens inside the namespace, for the proxy only.
pub const PORT: u16 = 8081;
/// What the paths of its methods begin with.
pub const PATH: &str = "/hydrometer.test.Echo/";

/// The running server.
#[derive(Debug)]
pub struct Server {
    process: Process,
}

impl Server {
    /// Starts it; files go into `folder`.
    pub fn start(namespace: &Namespace, folder: &Path) -> Result<Self> {
        let mut command = namespace.command(python::interpreter()?);
        command.arg(python::script("grpc_echo.py")).args(["serve", &format!("127.0.0.1:{PORT}")]);
        let mut process = Process::spawn("grpc", command, folder)?;
        process.ready(Duration::from_secs(20), |server| {
            server.output().lines().any(|line| line == "ready").then_some(())
        })?;
        Ok(Self { process })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Makes `rounds` rounds of a unary call, an answer in several messages and a question in several, and then as many
/// unary calls at once, all on one connection to `server`. Returns the number of calls.
pub fn ask(namespace: &Namespace, server: SocketAddr, rounds: u32) -> Result<u32> {
    let mut command = namespace.command(python::interpreter()?);
    command.arg(python::script("grpc_echo.py")).args(["ask", &server.to_string(), &rounds.to_string()]);
    let output = command.output().context("cannot run the gRPC client")?;
    ensure!(output.status.success(), "gRPC failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().with_context(|| format!("the gRPC client said {text:?}"))
}
