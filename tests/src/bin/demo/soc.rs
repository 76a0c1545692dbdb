//! The SOC's side of the demo: a subscriber process, and the JSON lines that it prints.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, ensure};
use hydrometer_tests::{binary, net::Namespace, process::Process};
use jiff::Timestamp;
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
    /// When it was opened.
    pub(crate) raised: Timestamp,
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

pub(crate) fn parse(line: &str) -> Result<Anomaly> {
    let Line { anomaly } =
        serde_json::from_str(line).with_context(|| format!("not a line of the subscriber: {line}"))?;
    Ok(Anomaly { line: line.to_owned(), ..anomaly })
}

/// Fails unless the states of each anomaly came once each, in order, from the first on.
pub(crate) fn each_once(received: &[Anomaly]) -> Result<()> {
    let mut due = BTreeMap::new();
    for Anomaly { id, revision, .. } in received {
        let due = due.entry(id).or_insert(1);
        ensure!(revision == due, "the subscriber got revision {revision} of anomaly {id} instead of {due}");
        *due += 1;
    }
    Ok(())
}

/// The last state of each anomaly.
pub(crate) fn last_states(received: &[Anomaly]) -> Vec<&Anomaly> {
    let by_id: BTreeMap<_, _> = received.iter().map(|anomaly| (&anomaly.id, anomaly)).collect();
    by_id.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(states: &[(&str, u32)]) -> Vec<Anomaly> {
        let state = |&(id, revision): &(&str, u32)| {
            let anomaly = serde_json::json!({
                "id": id, "revision": revision, "state": "open", "kind": "", "severity": "low", "client": "",
                "raised": "2026-05-04T10:00:00Z", "summary": "",
            });
            parse(&serde_json::json!({ "anomaly": anomaly }).to_string()).unwrap()
        };
        states.iter().map(state).collect()
    }

    #[test]
    fn states_have_to_come_once_each_and_without_gaps() {
        each_once(&received(&[("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)])).unwrap();
        for wrong in [
            [("a", 1), ("a", 1)].as_slice(),
            &[("a", 1), ("a", 3)],
            &[("a", 2)],
            &[("a", 1), ("b", 2)],
            &[("a", 1), ("a", 2), ("a", 1)],
        ] {
            assert!(each_once(&received(wrong)).is_err(), "{wrong:?}");
        }
    }
}
