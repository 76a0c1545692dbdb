//! The kernel side as the rest of the agent sees it: load, attach, drain, read, detach.
//!
//! This is the only module that knows aya. Kernel times (CLOCK_MONOTONIC) are turned into
//! [`Nanos`] since the epoch here; nothing monotonic leaves this module.

mod attach;
mod batch;
mod choice;
mod clients;
mod clock;
mod error;
mod evictions;
mod flows;
mod heap;
mod interfaces;
mod load;
mod selection;
mod status;
mod vantages;
mod wakeup;

use std::{fmt, io, os::fd::AsFd, time::Duration};

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray, RingBuf},
};
use aya_log::EbpfLogger;
use hydrometer_ebpf::{
    abi::{Counter, Counters, ExchangeEvent},
    head::HeadEvent,
    hello::HelloEvent,
};
use hydrometer_engine::{ClientId, Exchange, Ipv6Prefix, Service};

pub use self::{
    attach::{AttachOptions, Neighbour, Position, PositionError, Way},
    batch::Progress,
    clients::{ClientSnapshot, ClientWalk},
    error::KernelError,
    flows::{FlowSnapshot, FlowWalk},
    interfaces::Interface,
    load::{Globals, HOOKS, OBJECT, Sizes, stages, trust},
    selection::{Pattern, PatternError, Selection},
    status::map_memory,
};
use self::{
    clients::Clients,
    evictions::Ledger,
    flows::{Flows, Kept},
    interfaces::Interfaces,
    vantages::Vantages,
    wakeup::Wakeup,
};
use crate::{
    heads::HeadSizes,
    hello::Hellos,
    identity::Identities,
    known::{Known, TableStatus},
    pipelining::Pipelines,
    traffic::Traffic,
    wire::{self, Ended},
};

/// Target of the kernel programs' log lines: their crate.
pub const LOG_TARGET: &str = "hydrometer_programs";

/// What to load.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    /// Services to watch; at least one.
    pub services: Vec<Service>,
    /// Entries of the flow table.
    pub max_flows: u32,
    /// Entries of the client table.
    pub max_clients: u32,
    /// Clients the heads of whose requests are remembered: as many as the engine knows, with whose memory they count.
    pub known_clients: usize,
    /// Open HTTP/2 streams in clear text, and HTTP/2 connections in clear text and in TLS, that are followed at a
    /// time.
    pub max_streams: u32,
    /// How packets are read.
    pub traffic: Traffic,
    /// Bytes of the ring buffer; rounded up to a power of two of at least a page.
    pub ring_bytes: u32,
    /// Kernel log lines at this level and above go to `tracing`; `None` compiles them out.
    pub log_level: Option<tracing::Level>,
    /// Interfaces to attach to.
    pub interfaces: Selection,
    /// How to attach.
    pub attach: AttachOptions,
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

impl AttachMode {
    /// Whether it is one of XDP's.
    pub fn is_xdp(self) -> bool {
        matches!(self, Self::XdpNativeFrags | Self::XdpNative | Self::XdpSkb)
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::XdpNativeFrags => "xdp-native-frags",
            Self::XdpNative => "xdp-native",
            Self::XdpSkb => "xdp-skb",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
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
    /// Why it is not attached in the first choice of mode or place; empty when it is.
    pub note: String,
}

/// An interface that was asked for, and to which nothing is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwatched {
    /// Interface name.
    pub interface: String,
    /// Why not.
    pub reason: String,
}

/// Which interfaces are asked for, and what became of that.
#[derive(Clone, Debug)]
pub struct InterfaceStatus {
    /// What is asked for.
    pub selection: Selection,
    /// What was asked for and is not watched.
    pub unwatched: Vec<Unwatched>,
    /// Interfaces that came after the start and are or were watched.
    pub appeared: u64,
    /// Interfaces that were watched and have gone.
    pub vanished: u64,
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
    /// The maps that grow with the traffic, and the ring buffer.
    pub maps: Vec<MapStatus>,
    /// Kernel memory of all maps, bytes.
    pub map_bytes: u64,
    /// What the agent itself keeps of flows.
    pub tables: Vec<TableStatus>,
    /// Losses, every stage, also those at 0.
    pub losses: Vec<Loss>,
    /// Packets of watched services, ingress.
    pub ingress_watched: u64,
    /// Packets of watched services, egress.
    pub egress_watched: u64,
    /// TCP SYNs to watched services.
    pub syns: u64,
}

/// Exchanges drained at a time, so that whoever asks meanwhile is answered.
const DRAIN_AT_ONCE: usize = 65_536;
/// Of those, how many are handed on at a time. Between two times whoever else is to run on this processor may: a server
/// that waited for all of them answered its slowest requests some milliseconds later (`cargo xtask bench load`).
const HAND_ON: usize = 64;
/// Pieces of the flow map that are read in one sweep: the rest waits for the next.
const FLOW_PIECES: usize = 64;
/// Likewise, of the client map.
const CLIENT_PIECES: usize = 16;

/// The loaded programs and their maps. Dropping it detaches everything that is not pinned.
pub struct Kernel {
    ebpf: Ebpf,
    vantages: Vantages,
    /// Followed once attached.
    interfaces: Option<Interfaces>,
    ring: RingBuf<MapData>,
    /// What has ended and is about to be handed on.
    ended: Vec<Ended>,
    hello_ring: RingBuf<MapData>,
    hellos: Hellos,
    known: Known,
    head_ring: RingBuf<MapData>,
    identities: Identities,
    heads: HeadSizes,
    pipelines: Pipelines,
    /// Woken when a ring buffer or the log has something; made when first waited for.
    wakeups: Option<Wakeups>,
    // The kernel refuses programs whose log has no reader.
    log: EbpfLogger<&'static dyn log::Log>,
    flows: Flows,
    clients: Clients,
    ipv6_prefix: Ipv6Prefix,
    counters: PerCpuArray<MapData, Counters>,
    /// Kernel memory of all maps: allocated when they are made.
    map_bytes: u64,
    sweep_failures: u64,
}

impl Kernel {
    /// Loads and verifies the programs; attaches nothing.
    pub fn load(options: &KernelOptions) -> Result<Self, KernelError> {
        let mut ebpf = load::object(options)?;
        // What cannot be told is shown as nothing.
        let map_bytes = map_memory().unwrap_or_default();
        let log = EbpfLogger::init(&mut ebpf).map_err(|error| KernelError::Load(error.to_string()))?;
        let ring = load::take(&mut ebpf, "EXCHANGES")?;
        let hello_ring = load::take(&mut ebpf, "HELLOS")?;
        let head_ring = load::take(&mut ebpf, "HEADS")?;
        let proxies = options.traffic.proxies.clone();
        let identities = Identities::new(proxies, options.traffic.ipv6_prefix, options.max_flows as usize)?;
        let flows = Flows::new(
            load::take(&mut ebpf, "FLOWS")?,
            load::take(&mut ebpf, "STREAMS")?,
            load::take(&mut ebpf, "ESTIMATES")?,
            load::take(&mut ebpf, "TICKETS")?,
            options.traffic.ipv6_mask(),
        );
        let clients = Clients::new(load::take(&mut ebpf, "CLIENTS")?, options.traffic.ipv6_prefix);
        let counters = load::take(&mut ebpf, "COUNTERS")?;
        load::programs(&mut ebpf, options.attach.way)?;
        heap::trim();
        Ok(Self {
            ebpf,
            vantages: Vantages::new(options.interfaces.clone(), options.attach.clone(), options.pin),
            interfaces: None,
            ring,
            hello_ring,
            ended: Vec::new(),
            hellos: Hellos::default(),
            known: Known::new(options.max_flows as usize),
            head_ring,
            identities,
            heads: HeadSizes::new(options.known_clients),
            pipelines: Pipelines::new(),
            wakeups: None,
            log,
            flows,
            clients,
            ipv6_prefix: options.traffic.ipv6_prefix,
            counters,
            map_bytes,
            sweep_failures: 0,
        })
    }

    /// Attaches both programs to every interface that is asked for and there, and follows what comes and
    /// goes from here on. On an error nothing stays attached.
    pub async fn attach(&mut self) -> Result<(), KernelError> {
        let interfaces = self.interfaces.insert(Interfaces::follow().await?);
        self.vantages.start(&mut self.ebpf, &interfaces.now())
    }

    /// Detaches everything this process attached, bar what is pinned.
    pub fn detach(&mut self) -> Result<(), KernelError> {
        self.interfaces = None;
        self.vantages.end()
    }

    /// Waits until a ring buffer fills (or the kernel log has something, or interfaces have come or gone,
    /// which is taken care of here). Cancel safe.
    pub async fn ready(&mut self) -> Result<(), KernelError> {
        let wakeups = match &mut self.wakeups {
            Some(wakeups) => wakeups,
            none => {
                let made = Wakeups::new(&self.ring, &self.hello_ring, &self.head_ring, &self.log);
                none.insert(made.map_err(KernelError::Wait)?)
            }
        };
        tokio::select! {
            result = wakeups.ring.wait() => result.map_err(KernelError::Wait),
            result = wakeups.hellos.wait() => result.map_err(KernelError::Wait),
            result = wakeups.heads.wait() => result.map_err(KernelError::Wait),
            result = wakeups.log.wait() => {
                self.log.flush();
                result.map_err(KernelError::Wait)
            }
            interfaces = changed(self.interfaces.as_mut()) => {
                self.vantages.follow(&mut self.ebpf, &interfaces);
                Ok(())
            }
        }
    }

    /// Hands finished exchanges on to `take`, as many as can be handled at once; the rest waits.
    pub fn drain(&mut self, mut take: impl FnMut(Exchange)) {
        let epoch = clock::epoch();
        for _ in 0..DRAIN_AT_ONCE / HAND_ON {
            let mut read = 0;
            while read < HAND_ON
                && let Some(item) = self.ring.next()
            {
                read += 1;
                if let Some(event) = ExchangeEvent::from_bytes(&item)
                    && !self.flows.was_handed_out(&event, &mut self.known)
                {
                    let ended = &mut self.ended;
                    self.pipelines.take(event, |event| ended.push(Ended { event, epoch }));
                }
            }
            self.hand_on(&mut take);
            if read < HAND_ON {
                break;
            }
            // Who serves waits for no more than this: a task that is woken may not interrupt before the next timer tick.
            std::thread::yield_now();
        }
    }

    /// Hands on what has ended, with what the begins of their connections and their proxies tell. What has ended
    /// came first, and now what was seen before is read: so nothing that is known by then is missing.
    fn hand_on(&mut self, take: &mut impl FnMut(Exchange)) {
        for _ in 0..DRAIN_AT_ONCE {
            let Some(item) = self.hello_ring.next() else { break };
            if let Some((event, bytes)) = HelloEvent::from_bytes(&item) {
                self.hellos.take(&event, bytes, &mut self.known);
            }
        }
        for _ in 0..DRAIN_AT_ONCE {
            let Some(item) = self.head_ring.next() else { break };
            if let Some((event, bytes)) = HeadEvent::from_bytes(&item) {
                self.identities.take(&event, bytes);
            }
        }
        for Ended { event, epoch } in self.ended.drain(..) {
            let mut exchange = wire::exchange(&event, epoch, self.ipv6_prefix);
            self.known.identify(&mut exchange);
            self.identities.identify(&event, &mut exchange);
            self.heads.tell(&event, &mut exchange);
            take(exchange);
        }
    }

    /// Walks a part of the flow table and hands on exchanges whose answer has been quiet for `quiet`;
    /// each exchange comes out of `drain` or `sweep` once, never both. Call it every second or so.
    pub fn sweep(&mut self, quiet: Duration, mut take: impl FnMut(Exchange)) {
        for _ in 0..FLOW_PIECES {
            let counters = &self.counters;
            let programs = || Ledger::read(counters, Counter::FlowEntered, Some(Counter::NewcomerDisplaced));
            let mut kept = Kept { known: &mut self.known, identities: &mut self.identities };
            let swept = self.flows.sweep(quiet, programs, &mut kept, &mut self.ended);
            self.hand_on(&mut take);
            if self.swept("flow", swept) == Progress::End {
                break;
            }
        }
    }

    /// Walks a part of the client table. Call it every second or so. Whoever `is_known` is not counted among those
    /// that it finds; returns how many others have sent data, when it has come to the end.
    pub fn sweep_clients(&mut self, is_known: impl Fn(&ClientId) -> bool) -> Option<u64> {
        for _ in 0..CLIENT_PIECES {
            let counters = &self.counters;
            let programs = || Ledger::read(counters, Counter::ClientEntered, None);
            match self.clients.sweep(programs, &is_known) {
                Ok(Some(others)) => return Some(others),
                Ok(None) => {}
                Err(error) => {
                    self.sweep_failed("client", &error);
                    break;
                }
            }
        }
        None
    }

    /// Like `sweep`, for every exchange still open, whole table: call it once, before the end.
    pub fn flush(&mut self, mut take: impl FnMut(Exchange)) {
        self.drain(&mut take);
        self.flows.begin_flush();
        let mut open = Vec::new();
        loop {
            let mut kept = Kept { known: &mut self.known, identities: &mut self.identities };
            let flushed = self.flows.flush(&mut kept, &mut open);
            for Ended { event, epoch } in open.drain(..) {
                let ended = &mut self.ended;
                self.pipelines.take(event, |event| ended.push(Ended { event, epoch }));
            }
            self.hand_on(&mut take);
            if self.swept("flow", flushed) == Progress::End {
                break;
            }
        }
        if let Err(error) = self.flows.flush_streams(&mut self.ended) {
            self.sweep_failed("stream", &error);
        }
        let (ended, epoch) = (&mut self.ended, clock::epoch());
        self.pipelines.flush(|event| ended.push(Ended { event, epoch }));
        self.hand_on(&mut take);
    }

    /// How a walk over a map goes on: after a failure not at once.
    fn swept(&mut self, map: &str, progress: io::Result<Progress>) -> Progress {
        progress.unwrap_or_else(|error| {
            self.sweep_failed(map, &error);
            Progress::End
        })
    }

    fn sweep_failed(&mut self, map: &str, error: &io::Error) {
        self.sweep_failures += 1;
        tracing::warn!(%error, map, "cannot read a kernel map; it is tried again in a second");
    }

    /// One client's counters.
    pub fn client(&self, id: &ClientId) -> Result<Option<ClientSnapshot>, KernelError> {
        self.clients.get(id).map_err(|source| KernelError::Map { map: "CLIENTS", source })
    }

    /// Walks on by a piece, and adds to `found` everyone in it who has sent data.
    pub fn walk_clients(
        &self,
        walk: &mut ClientWalk,
        found: &mut Vec<ClientId>,
    ) -> Result<Progress, KernelError> {
        self.clients.walk_on(walk, found).map_err(|source| KernelError::Walk { map: "CLIENTS", source })
    }

    /// Whether this is where a trusted proxy is.
    pub fn is_proxy(&self, id: &ClientId) -> bool {
        let trust = |address| self.identities.proxies().trust(address);
        match id {
            ClientId::V4(address) => trust((*address).into()),
            ClientId::V6(network) => trust(network.address().into()),
            ClientId::Key(_) => false,
        }
    }

    /// Walks on by a piece in search of a client's live flows.
    pub fn walk_flows(&self, walk: &mut FlowWalk) -> Result<Progress, KernelError> {
        self.flows.walk_on(walk).map_err(|source| KernelError::Walk { map: "FLOWS", source })
    }

    /// Programs, maps, losses, packets.
    pub fn status(&self) -> Result<KernelStatus, KernelError> {
        let counters =
            self.counters.get(&0, 0).map_err(|source| KernelError::Map { map: "COUNTERS", source })?;
        let total = |counter: Counter| counters.iter().map(|core| core[counter as usize]).sum();
        Ok(KernelStatus {
            programs: status::programs(&self.ebpf),
            maps: status::maps(self),
            map_bytes: self.map_bytes,
            tables: status::tables(self),
            losses: status::losses(self, total),
            ingress_watched: total(Counter::IngressWatched),
            egress_watched: total(Counter::EgressWatched),
            syns: total(Counter::Syns),
        })
    }

    /// Who is attached where.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.vantages.attachments().cloned().collect()
    }

    /// Which interfaces are asked for, and what became of that.
    pub fn interfaces(&self) -> InterfaceStatus {
        let account = self.vantages.account();
        InterfaceStatus {
            selection: self.vantages.selection().clone(),
            unwatched: self.vantages.unwatched().collect(),
            appeared: account.appeared,
            vanished: account.vanished,
        }
    }
}

/// The interfaces, as soon as they may have changed.
async fn changed(interfaces: Option<&mut Interfaces>) -> Vec<Interface> {
    match interfaces {
        Some(interfaces) => interfaces.changed().await,
        None => std::future::pending().await,
    }
}

/// Where [`Kernel::attach`] would attach now, and what it would leave out.
pub async fn choice(selection: &Selection) -> Result<(Vec<String>, Vec<Unwatched>), KernelError> {
    let interfaces = Interfaces::list().await?;
    vantages::all_named_are_there(selection, &interfaces)?;
    let choice = choice::choose(selection, &interfaces);
    Ok((choice.watch.into_iter().map(|interface| interface.name.clone()).collect(), choice.left_out))
}

/// What wakes whoever waits for the kernel.
struct Wakeups {
    ring: Wakeup,
    hellos: Wakeup,
    heads: Wakeup,
    log: Wakeup,
}

impl Wakeups {
    fn new(ring: &impl AsFd, hellos: &impl AsFd, heads: &impl AsFd, log: &impl AsFd) -> io::Result<Self> {
        Ok(Self {
            ring: Wakeup::new(ring)?,
            hellos: Wakeup::new(hellos)?,
            heads: Wakeup::new(heads)?,
            log: Wakeup::new(log)?,
        })
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("vantages", &self.vantages).finish_non_exhaustive()
    }
}
