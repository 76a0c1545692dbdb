//! The SOC's side of the demo: a subscriber process, and the JSON lines that it prints.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use hydrometer_tests::{binary, net::Namespace, process::Process};
use serde::Deserialize;

/// The running subscriber.
pub(crate) struct Soc {
    process: Process,
    read: usize,
}

/// One state of one anomaly, as far as the demo reads it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Anomaly {
    /// The same in all its states.
    pub(crate) id: String,
    /// Number of the state.
    pub(crate) revision: u32,
    /// `open`, `updated` or `closed`.
    pub(crate) state: String,
    /// Which detector.
    pub(crate) kind: String,
    /// `low` to `critical`.
    pub(crate) severity: String,
    /// The client's name.
    pub(crate) client: String,
    /// One sentence.
    pub(crate) summary: String,
    /// The whole line.
    #[serde(skip)]
    pub(crate) line: String,
}

#[derive(Deserialize)]
struct Line {
    anomaly: Anomaly,
}

impl Soc {
    /// Subscribes at the control plane on `socket`; the process ends with `namespace`.
    pub(crate) fn start(namespace: &Namespace, socket: &Path, folder: &Path) -> Result<Self> {
        let mut command = namespace.command(binary::path("subscriber")?);
        command.arg(socket);
        Ok(Self { process: Process::spawn("subscriber", command, folder)?, read: 0 })
    }

    /// What came since the last call.
    pub(crate) fn news(&mut self) -> Result<Vec<Anomaly>> {
        if let Some(status) = self.process.ended()? {
            anyhow::bail!("the subscriber ended ({status}); it said:\n{}", self.process.output());
        }
        let output = self.process.output();
        let unread = output.get(self.read..).unwrap_or_default();
        // The last line may be half written.
        let whole = unread.rfind('\n').map_or("", |end| &unread[..=end]);
        self.read += whole.len();
        whole.lines().map(parse).collect()
    }
}

fn parse(line: &str) -> Result<Anomaly> {
    let Line { anomaly } =
        serde_json::from_str(line).with_context(|| format!("not a line of the subscriber: {line}"))?;
    Ok(Anomaly { line: line.to_owned(), ..anomaly })
}

/// Fails when a state of an anomaly came twice.
pub(crate) fn each_once(received: &[Anomaly]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for Anomaly { id, revision, .. } in received {
        ensure!(seen.insert((id, revision)), "the subscriber got revision {revision} of anomaly {id} twice");
    }
    Ok(())
}

/// The last state of each anomaly.
pub(crate) fn last_states(received: &[Anomaly]) -> Vec<&Anomaly> {
    let by_id: BTreeMap<_, _> = received.iter().map(|anomaly| (&anomaly.id, anomaly)).collect();
    by_id.into_values().collect()
}
