//! The kernel side as the rest of the agent sees it: load, attach, drain, read, detach.
//!
//! This is the only module that knows aya. Kernel times (CLOCK_MONOTONIC) are turned into
//! [`Nanos`] since the epoch here; nothing monotonic leaves this module.

use std::{net::IpAddr, time::Duration};

use hydrometer_engine::{Accuracy, ClientId, Exchange, Nanos, Protocol, Service};

/// What to load.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    /// Services to watch; at least one.
    pub services: Vec<Service>,
    /// Entries of the flow table.
    pub max_flows: u32,
    /// Entries of the client table.
    pub max_clients: u32,
    /// Bytes of the ring buffer; rounded up to a power of two of at least a page.
    pub ring_bytes: u32,
    /// Kernel log lines at this level and above go to `tracing`; `None` compiles them out.
    pub log_level: Option<tracing::Level>,
    /// Leave the programs attached when the process ends (pinned under /sys/fs/bpf/hydrometer).
    pub pin: bool,
}

/// Direction of a hook, seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Ingress,
    /// To the client.
    Egress,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// XDP in the driver, with multi-buffer packets.
    XdpNativeFrags,
    /// XDP in the driver.
    XdpNative,
    /// XDP in the stack.
    XdpSkb,
    /// TC through a BPF link.
    Tcx,
    /// TC through a clsact qdisc.
    Clsact,
}

/// One program on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Interface name.
    pub interface: String,
    /// Direction.
    pub direction: Direction,
    /// Mode.
    pub mode: AttachMode,
}

/// Counters of one client at one moment, read from the kernel. Exact.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientSnapshot {
    /// Who.
    pub id: ClientId,
    /// First packet.
    pub first_seen: Nanos,
    /// Last packet.
    pub last_seen: Nanos,
    /// Packets from the client.
    pub ingress_packets: u64,
    /// IP bytes from the client.
    pub ingress_bytes: u64,
    /// Packets to the client.
    pub egress_packets: u64,
    /// IP bytes to the client.
    pub egress_bytes: u64,
    /// TCP SYNs.
    pub syns: u64,
    /// Connections on which the client sent data.
    pub connections: u64,
    /// Requests begun.
    pub requests: u64,
    /// Exchanges ended.
    pub exchanges: u64,
    /// Application bytes asked, over ended exchanges.
    pub request_bytes: u64,
    /// Application bytes answered, over ended exchanges.
    pub answer_bytes: u64,
    /// Request sizes: counts per power of two from 64 B (bucket i holds 64*2^i up to 64*2^(i+1)).
    pub request_sizes: Vec<u64>,
    /// Answer sizes, likewise.
    pub answer_sizes: Vec<u64>,
    /// Time between requests: counts per power of two from 1 ms.
    pub interarrival: Vec<u64>,
}

/// One live flow, read from the kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowSnapshot {
    /// Client side.
    pub client: IpAddr,
    /// Client port.
    pub client_port: u16,
    /// Service side.
    pub service: Service,
    /// What it speaks.
    pub protocol: Protocol,
    /// First packet.
    pub first_seen: Nanos,
    /// Last packet.
    pub last_seen: Nanos,
    /// Requests begun.
    pub requests: u64,
    /// Application bytes from the client.
    pub request_bytes: u64,
    /// Application bytes to the client.
    pub answer_bytes: u64,
    /// An answer is outstanding.
    pub in_progress: bool,
    /// Accuracy of these figures.
    pub accuracy: Accuracy,
}

/// One loaded program.
#[derive(Clone, Debug)]
pub struct ProgramStatus {
    /// Name.
    pub name: String,
    /// Kernel id.
    pub id: u32,
    /// Instructions the verifier processed.
    pub verified_instructions: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
}

/// One map.
#[derive(Clone, Debug)]
pub struct MapStatus {
    /// Name.
    pub name: String,
    /// Entries, where it can be told cheaply.
    pub entries: Option<u64>,
    /// Entries it can hold.
    pub capacity: u64,
    /// Kernel memory, bytes.
    pub memory_bytes: u64,
}

/// Something that was not recorded.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Stage.
    pub stage: &'static str,
    /// How often since load.
    pub count: u64,
    /// What it means and what to do.
    pub meaning: &'static str,
}

/// The kernel side's own account.
#[derive(Clone, Debug)]
pub struct KernelStatus {
    /// Programs.
    pub programs: Vec<ProgramStatus>,
    /// Maps.
    pub maps: Vec<MapStatus>,
    /// Losses, every stage, also those at 0.
    pub losses: Vec<Loss>,
    /// Packets seen, ingress.
    pub ingress_seen: u64,
    /// Packets of watched services, ingress.
    pub ingress_watched: u64,
    /// Packets seen, egress.
    pub egress_seen: u64,
    /// Packets of watched services, egress.
    pub egress_watched: u64,
}

/// Why the kernel side failed. Every message names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// stub
    #[error("not yet")]
    Stub,
}

/// The loaded programs and their maps. Dropping it detaches everything that is not pinned.
#[derive(Debug)]
pub struct Kernel {}

impl Kernel {
    /// Loads and verifies the programs; attaches nothing.
    pub fn load(options: &KernelOptions) -> Result<Self, KernelError> {
        let _ = options;
        Err(KernelError::Stub)
    }

    /// Attaches both programs to one interface: XDP with frags, else native, else skb; TCX, else clsact.
    /// Either both are attached or none.
    pub fn attach(&mut self, interface: &str) -> Result<Vec<Attachment>, KernelError> {
        let _ = interface;
        Err(KernelError::Stub)
    }

    /// Detaches everything this process attached.
    pub fn detach(&mut self) -> Result<(), KernelError> {
        Err(KernelError::Stub)
    }

    /// Waits until the ring buffer has something (or the kernel log has). Cancel safe.
    pub async fn ready(&mut self) -> Result<(), KernelError> {
        Err(KernelError::Stub)
    }

    /// Moves all finished exchanges into `out`.
    pub fn drain(&mut self, out: &mut Vec<Exchange>) {
        let _ = out;
    }

    /// Walks a part of the flow table and moves exchanges whose answer has been quiet for `quiet`
    /// into `out`; each exchange comes out of `drain` or `sweep` once, never both. Call it every
    /// second or so.
    pub fn sweep(&mut self, quiet: Duration, out: &mut Vec<Exchange>) {
        let _ = (quiet, out);
    }

    /// Like `sweep`, for every exchange still open, whole table: call it once, before the end.
    pub fn flush(&mut self, out: &mut Vec<Exchange>) {
        let _ = out;
    }

    /// One client's counters.
    pub fn client(&self, id: &ClientId) -> Result<Option<ClientSnapshot>, KernelError> {
        let _ = id;
        Err(KernelError::Stub)
    }

    /// Live flows of one client, most recent first, at most `limit`.
    pub fn flows(&self, id: &ClientId, limit: usize) -> Result<Vec<FlowSnapshot>, KernelError> {
        let _ = (id, limit);
        Err(KernelError::Stub)
    }

    /// Programs, maps, losses, packets.
    pub fn status(&self) -> Result<KernelStatus, KernelError> {
        Err(KernelError::Stub)
    }

    /// Who is attached where.
    pub fn attachments(&self) -> &[Attachment] {
        &[]
    }
}
