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
mod interfaces;
mod load;
mod selection;
mod status;
mod vantages;
mod wakeup;

use std::{fmt, io, net::IpAddr, os::fd::AsFd, time::Duration};

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
use hydrometer_engine::{Accuracy, ClientId, Exchange, Ipv6Prefix, Nanos, Protocol, Service};

pub use self::{
    attach::{AttachOptions, Neighbour, Position, PositionError, Way},
    error::KernelError,
    interfaces::Interface,
    load::{Globals, HOOKS, OBJECT, Sizes, stages, trust},
    selection::{Pattern, PatternError, Selection},
};
use self::{
    clients::Clients, evictions::Ledger, flows::Flows, interfaces::Interfaces, vantages::Vantages,
    wakeup::Wakeup,
};
use crate::{
    heads::HeadSizes,
    hello::Hellos,
    identity::Identities,
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
    /// How far an estimate of the requests is to be believed, from 0 to 1.
    pub confidence: Option<f32>,
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
    /// TCP SYNs to watched services.
    pub syns: u64,
}

/// Exchanges drained at a time, so that whoever asks meanwhile is answered.
const DRAIN_AT_ONCE: usize = 65_536;

/// The loaded programs and their maps. Dropping it detaches everything that is not pinned.
pub struct Kernel {
    ebpf: Ebpf,
    vantages: Vantages,
    /// Followed once attached.
    interfaces: Option<Interfaces>,
    ring: RingBuf<MapData>,
    hello_ring: RingBuf<MapData>,
    hellos: Hellos,
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
    sweep_failures: u64,
}

impl Kernel {
    /// Loads and verifies the programs; attaches nothing.
    pub fn load(options: &KernelOptions) -> Result<Self, KernelError> {
        let mut ebpf = load::object(options)?;
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
        Ok(Self {
            ebpf,
            vantages: Vantages::new(options.interfaces.clone(), options.attach.clone(), options.pin),
            interfaces: None,
            ring,
            hello_ring,
            hellos: Hellos::new(options.max_flows as usize),
            head_ring,
            identities,
            heads: HeadSizes::new(options.max_clients as usize),
            pipelines: Pipelines::new(),
            wakeups: None,
            log,
            flows,
            clients,
            ipv6_prefix: options.traffic.ipv6_prefix,
            counters,
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

    /// Waits until a ring buffer has something (or the kernel log has, or interfaces have come or gone,
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

    /// Moves finished exchanges into `out`, as many as can be handled at once; the rest waits.
    pub fn drain(&mut self, out: &mut Vec<Ended>) {
        let epoch = clock::epoch();
        for _ in 0..DRAIN_AT_ONCE {
            let Some(item) = self.ring.next() else { break };
            if let Some(event) = ExchangeEvent::from_bytes(&item)
                && !self.flows.was_handed_out(&event)
            {
                self.pipelines.take(event, |event| out.push(Ended { event, epoch }));
            }
        }
    }

    /// What has ended as exchanges, with what the begins of their connections and their proxies tell. What has ended
    /// comes first, and then what was seen before is read: so nothing that is known by then is missing.
    pub fn exchanges(&mut self, ended: impl IntoIterator<Item = Ended>) -> impl Iterator<Item = Exchange> {
        for _ in 0..DRAIN_AT_ONCE {
            let Some(item) = self.hello_ring.next() else { break };
            if let Some((event, bytes)) = HelloEvent::from_bytes(&item) {
                self.hellos.take(&event, bytes);
            }
        }
        for _ in 0..DRAIN_AT_ONCE {
            let Some(item) = self.head_ring.next() else { break };
            if let Some((event, bytes)) = HeadEvent::from_bytes(&item) {
                self.identities.take(&event, bytes);
            }
        }
        ended.into_iter().map(|Ended { event, epoch }| {
            let mut exchange = wire::exchange(&event, epoch, self.ipv6_prefix);
            self.hellos.identify(&mut exchange);
            self.identities.identify(&event, &mut exchange);
            self.heads.tell(&event, &mut exchange);
            exchange
        })
    }

    /// Walks a part of the flow table and moves exchanges whose answer has been quiet for `quiet`
    /// into `out`; each exchange comes out of `drain` or `sweep` once, never both. Call it every
    /// second or so.
    pub fn sweep(&mut self, quiet: Duration, out: &mut Vec<Ended>) {
        let counters = &self.counters;
        let programs = |entered, removed| move || Ledger::read(counters, entered, removed);
        let flows = programs(Counter::FlowEntered, Some(Counter::NewcomerDisplaced));
        let clients = programs(Counter::ClientEntered, None);
        let swept = [("flow", self.flows.sweep(quiet, flows, out)), ("client", self.clients.sweep(clients))];
        for (map, result) in swept {
            if let Err(error) = result {
                self.sweep_failed(map, &error);
            }
        }
    }

    /// Like `sweep`, for every exchange still open, whole table: call it once, before the end.
    pub fn flush(&mut self, out: &mut Vec<Ended>) {
        self.drain(out);
        let mut open = Vec::new();
        if let Err(error) = self.flows.flush(&mut open) {
            self.sweep_failed("flow", &error);
        }
        for Ended { event, epoch } in open {
            self.pipelines.take(event, |event| out.push(Ended { event, epoch }));
        }
        let epoch = clock::epoch();
        self.pipelines.flush(|event| out.push(Ended { event, epoch }));
    }

    fn sweep_failed(&mut self, map: &str, error: &io::Error) {
        self.sweep_failures += 1;
        tracing::warn!(%error, map, "cannot read a kernel map; it is tried again in a second");
    }

    /// One client's counters.
    pub fn client(&self, id: &ClientId) -> Result<Option<ClientSnapshot>, KernelError> {
        self.clients.get(id).map_err(|source| KernelError::Map { map: "CLIENTS", source })
    }

    /// Everyone who has sent data, as of the last sweep, in no order.
    pub fn client_ids(&self) -> &[ClientId] {
        self.clients.senders()
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

    /// Live flows of one client, most recent first, at most `limit`. One that began since the last
    /// sweep may be missing.
    pub fn flows(&self, id: &ClientId, limit: usize) -> Result<Vec<FlowSnapshot>, KernelError> {
        Ok(self.flows.of(id, limit))
    }

    /// Programs, maps, losses, packets.
    pub fn status(&self) -> Result<KernelStatus, KernelError> {
        let counters =
            self.counters.get(&0, 0).map_err(|source| KernelError::Map { map: "COUNTERS", source })?;
        let total = |counter: Counter| counters.iter().map(|core| core[counter as usize]).sum();
        let losses = Counter::ALL.iter().filter(|counter| counter.is_loss());
        let mut losses: Vec<_> = losses
            .map(|&counter| Loss { stage: counter.name(), count: total(counter), meaning: counter.meaning() })
            .collect();
        losses.push(Loss {
            stage: "flow_evicted",
            count: self.flows.evicted(),
            meaning: "The kernel dropped a flow for a newer one: it is followed no longer, or anew; raise \
                      max_flows.",
        });
        losses.push(Loss {
            stage: "client_evicted",
            count: self.clients.evicted(),
            meaning: "The kernel dropped a client for a newer one: its counters begin at 0 when it comes \
                      back; raise max_clients.",
        });
        losses.push(Loss {
            stage: "sweep",
            count: self.sweep_failures,
            meaning: "A kernel map could not be read; quiet exchanges are reported late.",
        });
        losses.push(Loss {
            stage: "answer_resumed",
            count: self.flows.resumed(),
            meaning: "An answer paused for longer than `quiet` and went on: its exchange was reported \
                      without the rest; raise quiet.",
        });
        losses.push(Loss {
            stage: "hello_unread",
            count: self.hellos.lost(),
            meaning: "A ClientHello could not be read, or a part of it never came: that connection's exchanges \
                      have no JA4.",
        });
        losses.push(Loss {
            stage: "identity_unread",
            count: self.identities.lost(),
            meaning: "What a trusted proxy said could not be read, a part of it never came, or it was forgotten \
                      before the request was answered: that request is shown as the proxy's own.",
        });
        losses.push(Loss {
            stage: "pipelined",
            count: self.pipelines.lost(),
            meaning: "A connection with requests that waited for their answers was forgotten for others: they have no \
                      exchanges.",
        });
        losses.push(Loss {
            stage: "attach",
            count: self.vantages.account().failures,
            meaning: "An interface that is asked for could not be attached to; the status says why.",
        });
        Ok(KernelStatus {
            programs: status::programs(&self.ebpf),
            maps: status::maps(self),
            losses,
            ingress_seen: total(Counter::IngressWatched) + total(Counter::IngressUnwatched),
            ingress_watched: total(Counter::IngressWatched),
            egress_seen: total(Counter::EgressWatched) + total(Counter::EgressUnwatched),
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
