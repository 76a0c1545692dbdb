//! The agent, running in a namespace, and what it answers.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use hydrometer_engine::ClientId;
use hydrometer_proto::v1::{
    Anomaly, Client, ClientCounters, ClientSort, GetClientRequest, GetClientResponse, GetStatusRequest,
    GetStatusResponse, ListClientsRequest, WatchAnomaliesRequest, agent_client::AgentClient,
};
use tonic::transport::Channel;

use crate::{
    binary,
    control::Control,
    net::{Namespace, SERVER_INTERFACE},
    nginx,
    process::Process,
    rpc::Rpc,
};

/// A running `hydrometer agent`. Dropped, it is asked to end and waited for.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    socket: PathBuf,
    rpc: Rpc,
}

/// What every agent here is started with: the server's interface and the proxy's port.
pub fn usual_arguments() -> [String; 4] {
    ["--iface".to_owned(), SERVER_INTERFACE.to_owned(), "--service".to_owned(), nginx::PORT.to_string()]
}

/// What makes one report to `control`, by a spool in `folder`.
pub fn reporting(control: &Control, folder: &Path) -> [String; 4] {
    let spool = folder.join("spool").display().to_string();
    ["--control-plane".to_owned(), control.address(), "--control-plane-spool".to_owned(), spool]
}

impl Agent {
    /// Starts one in `namespace` with `arguments` after `hydrometer agent --socket …`, and waits until it is attached
    /// and listens; its log, its socket and, unless told otherwise, its state are in `folder`.
    pub fn start<A: AsRef<str>>(
        namespace: &Namespace,
        folder: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        Self::start_with(namespace.command(binary::path("hydrometer")?), folder, arguments)
    }

    /// Starts one in the same way by `hydrometer`, a command that runs that program without arguments.
    pub fn start_with<A: AsRef<str>>(
        mut hydrometer: Command,
        folder: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("agent-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let socket = folder.join(format!("{name}.sock"));
        hydrometer.arg("agent").arg("--socket").arg(&socket);
        let mut keeps_state = false;
        for argument in arguments {
            keeps_state |= argument.as_ref() == "--state";
            hydrometer.arg(argument.as_ref());
        }
        if !keeps_state {
            // Agents of tests know nothing of each other.
            hydrometer.arg("--state").arg(folder.join(format!("{name}.state")));
        }
        let mut process = Process::spawn(&name, hydrometer, folder)?;
        process.ready(Duration::from_secs(30), |agent| {
            agent.output().contains("hydrometer agent listening on").then_some(())
        })?;
        let rpc = Rpc::new(&socket)?;
        Ok(Self { process, socket, rpc })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// `hydrometer ARGUMENTS` (separated by blanks), told to ask this agent.
    pub fn command(&self, arguments: &str) -> Result<Command> {
        let mut command = Command::new(binary::path("hydrometer")?);
        command.args(arguments.split_whitespace()).arg("--socket").arg(&self.socket);
        Ok(command)
    }

    /// All clients, sorted by address.
    pub fn clients(&self) -> Result<Vec<Client>> {
        let request = ListClientsRequest { sort: ClientSort::Address.into(), limit: u32::MAX };
        let answer = self.rpc.wait(self.client().list_clients(request)).context("cannot list the clients")?;
        Ok(answer.clients)
    }

    /// One client's counters; zeros when it was never seen.
    pub fn counters(&self, client: impl Into<ClientId>) -> Result<ClientCounters> {
        let address = client.into().to_string();
        let client = self.clients()?.into_iter().find(|other| other.address == address);
        Ok(client.and_then(|client| client.counters).unwrap_or_default())
    }

    /// All about one client.
    pub fn client_in_depth(&self, client: impl Into<ClientId>) -> Result<GetClientResponse> {
        let address = client.into().to_string();
        self.rpc
            .wait(self.client().get_client(GetClientRequest { address: address.clone() }))
            .with_context(|| format!("cannot read the client {address}"))
    }

    /// Its status.
    pub fn status(&self) -> Result<GetStatusResponse> {
        self.rpc.wait(self.client().get_status(GetStatusRequest {})).context("cannot read the status")
    }

    /// All anomalies that it knows, each in its last state.
    pub fn anomalies(&self) -> Result<Vec<Anomaly>> {
        let mut client = self.client();
        let mut stream = self
            .rpc
            .wait(client.watch_anomalies(WatchAnomaliesRequest::default()))
            .context("cannot list the anomalies")?;
        let mut anomalies = Vec::new();
        while let Some(message) = self.rpc.next(&mut stream)? {
            anomalies.extend(message.anomaly);
        }
        Ok(anomalies)
    }

    fn client(&self) -> AgentClient<Channel> {
        AgentClient::new(self.rpc.channel()).max_decoding_message_size(usize::MAX)
    }
}
