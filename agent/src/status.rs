//! The agent's status: what each part says about itself, put together; losses of all parts in one list.

use std::fs;

use hydrometer_engine::{Ipv6Prefix, Nanos, Service};
use hydrometer_proto::v1;

use crate::{
    config::ControlPlane,
    convert,
    outbox::Outbox,
    pipeline::Account,
    state::{self, StateAccount},
};

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of this node.
    pub node: String,
    /// When the agent started.
    pub started: Nanos,
    /// Services watched.
    pub services: Vec<Service>,
    /// How much of an IPv6 address is a client.
    pub ipv6_prefix: Ipv6Prefix,
    /// Where it reports to, and what waits for it.
    pub report: Option<(ControlPlane, Outbox)>,
}

/// The whole status.
pub fn status(identity: &Identity, account: Account) -> v1::GetStatusResponse {
    let losses = losses(&account, identity.report.as_ref().map(|(_, outbox)| outbox));
    let packets = account.kernel.as_ref().map(|kernel| v1::PacketCounters {
        ingress_watched: kernel.ingress_watched,
        egress_watched: kernel.egress_watched,
        syns: kernel.syns,
    });
    let memory = account.kernel.as_ref().map(|kernel| v1::Memory {
        maps_bytes: kernel.map_bytes,
        process_bytes: process_bytes(),
        tables: kernel.tables.iter().map(convert::table).collect(),
    });
    let (programs, maps) =
        account.kernel.map_or_else(Default::default, |kernel| (kernel.programs, kernel.maps));
    v1::GetStatusResponse {
        node: identity.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: Some(convert::timestamp(identity.started)),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        attachments: account.attachments.iter().map(convert::attachment).collect(),
        services: identity.services.iter().map(convert::service).collect(),
        maps: maps.into_iter().map(convert::map).collect(),
        losses,
        packets,
        control_plane: identity.report.as_ref().map(|(control_plane, outbox)| outbox.link(control_plane)),
        clients: account.clients as u64,
        open_anomalies: account.open_anomalies as u64,
        muted_anomalies: account.muted_anomalies as u64,
        programs: programs.into_iter().map(convert::program).collect(),
        exchanges: account.engine.exchanges,
        interfaces: account.interfaces.map(convert::interfaces),
        memory,
        state: account.state.as_ref().map(state::status),
    }
}

/// Memory of this process that is its own, bytes (`RssAnon` of proc_pid_status(5)).
pub fn process_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Losses of every part.
pub fn losses(account: &Account, outbox: Option<&Outbox>) -> Vec<v1::Loss> {
    let kernel = account.kernel.iter().flat_map(|kernel| &kernel.losses);
    let kernel = kernel.map(|lost| loss(lost.stage, lost.count, lost.meaning));
    let engine = account.engine.losses.iter().map(|lost| loss(lost.stage, lost.count, lost.meaning));
    let read = loss(
        "kernel_read",
        account.failures,
        "the kernel's maps could not be read; the agent's log says why",
    );
    let kept = account.state.iter().flat_map(kept);
    let report = outbox.into_iter().flat_map(report);
    kernel.chain(engine).chain([read]).chain(kept).chain(report).collect()
}

/// Losses of what is remembered across restarts.
fn kept(account: &StateAccount) -> [v1::Loss; 2] {
    [
        loss(
            "state_write",
            account.failed,
            "the state could not be written, so a restart would learn anew; the agent's log says why",
        ),
        loss(
            "state_discarded",
            account.discarded.into(),
            "the state that was saved is damaged or another version's: baselines are learnt anew, and anomalies that \
             were open will not be closed",
        ),
    ]
}

/// Losses on the way to the control plane.
fn report(outbox: &Outbox) -> [v1::Loss; 4] {
    let spool = outbox.losses();
    [
        loss(
            "report_queue",
            outbox.dropped(),
            "changes of anomalies were dropped before they were written: the spool's disk is too slow, or refuses; \
             the agent's log says why",
        ),
        loss(
            "spool_bound",
            spool.forced_out,
            "changes of anomalies were forced out of the spool, oldest first, while the control plane could not be \
             reached; restore the link or raise spool_bytes",
        ),
        loss("spool_corrupt", spool.corrupt, "damaged records of the spool were skipped; check its disk"),
        loss(
            "spool_torn",
            spool.torn,
            "a write to the spool did not end: the agent was killed or lost its power",
        ),
    ]
}

/// Their sum.
pub fn losses_in_all(account: &Account, outbox: Option<&Outbox>) -> u64 {
    losses(account, outbox).iter().map(|loss| loss.count).sum()
}

fn loss(stage: &str, count: u64, meaning: &str) -> v1::Loss {
    v1::Loss { stage: stage.to_owned(), count, meaning: meaning.to_owned() }
}
