//! Loading: the object that the build made, the sizes of its maps, the services to watch.

use std::collections::BTreeSet;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, LpmTrie, MapData, ProgramArray, lpm_trie::Key},
    programs::{Program, ProgramError, ProgramFd},
};
use hydrometer_ebpf::{
    abi::{Address, PORT_WORDS, ServiceKey, address},
    stage::Stage,
};
use hydrometer_engine::Service;

use super::{AttachMode, Direction, KernelError, KernelOptions, Way, error};
use crate::{identity::Proxies, traffic::Traffic};

/// The kernel programs, as built for BPF.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hydrometer-programs"));

/// From the network, drivers with packets in one piece.
pub(super) const INGRESS: &str = "hyd_ingress";
/// From the network, drivers with packets in several pieces.
pub(super) const FRAGS: &str = "hyd_frags";
/// From the network, at TC.
pub(super) const TC_INGRESS: &str = "hyd_tc_ingress";
/// To the network.
pub(super) const EGRESS: &str = "hyd_egress";

/// The stages behind a hook.
#[derive(Debug)]
pub struct Hook {
    /// Its first program.
    program: &'static str,
    /// The array of the stages' programs.
    pub array: &'static str,
    /// What their names begin with; [`Stage::name`] is the rest.
    prefix: &'static str,
}

/// Every hook.
pub const HOOKS: [Hook; 4] = [
    Hook { program: INGRESS, array: "INGRESS_STAGES", prefix: "hyd_in" },
    Hook { program: FRAGS, array: "FRAGS_STAGES", prefix: "hyd_frags" },
    Hook { program: TC_INGRESS, array: "TC_INGRESS_STAGES", prefix: "hyd_tc_in" },
    Hook { program: EGRESS, array: "EGRESS_STAGES", prefix: "hyd_out" },
];

/// What the kernel's verifier keeps of the log; more than it writes about these programs.
const PAGE: u32 = 4096;

/// One flow of so many may be a newcomer's, and of one of so many what a trusted proxy says may be under way: once it
/// is read, what is kept of it is needed no more.
const SHARE: u32 = 8;

/// Bytes of the ring buffer for what trusted proxies say: thousands of requests.
const HEADS: u32 = 4 << 20;

/// Loads the object and its maps. The programs are loaded, and verified, one by one afterwards: the
/// kernel's log must have its reader by then.
pub(super) fn object(options: &KernelOptions) -> Result<Ebpf, KernelError> {
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(error::too_old("it has no BTF"));
    }
    let level = options.log_level.map_or(0, log_level);
    let sizes = Sizes {
        flows: options.max_flows,
        clients: options.max_clients,
        streams: options.max_streams,
        ring: options.ring_bytes.max(PAGE).checked_next_power_of_two().unwrap_or(1 << 31),
    };
    let globals = Globals::new(&options.traffic, sizes);
    let mut loader = EbpfLoader::new();
    // The programs read none of the kernel's structures, whose description takes megabytes.
    loader.btf(None);
    globals.set(&mut loader);
    let mut ebpf = loader
        .override_global("AYA_LOG_LEVEL", &level, true)
        .load(OBJECT)
        .map_err(|error| error::load(&error))?;
    watch(&mut ebpf, &options.services)?;
    trust(&mut ebpf, &options.traffic.proxies)?;
    Ok(ebpf)
}

/// How much the maps hold.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Flows.
    pub flows: u32,
    /// Clients.
    pub clients: u32,
    /// HTTP/2 streams, and HTTP/2 connections in clear text and in TLS.
    pub streams: u32,
    /// Bytes of the ring buffer for exchanges: a power of two of at least a page.
    pub ring: u32,
}

/// What the programs are told about the traffic, and how much their maps hold.
#[derive(Debug)]
pub struct Globals {
    ipv6_mask: Address,
    tunnels: [u16; 4],
    proxies: u32,
    /// Flows whose clients have not yet proven that they are there, at a time.
    newcomer_places: u32,
    sizes: Sizes,
}

impl Globals {
    /// For this traffic, with maps of these sizes.
    pub fn new(traffic: &Traffic, sizes: Sizes) -> Self {
        Self {
            ipv6_mask: traffic.ipv6_mask(),
            tunnels: traffic.tunnels.into(),
            proxies: traffic.proxies.trusted.len() as u32,
            newcomer_places: (sizes.flows / SHARE).max(1),
            sizes,
        }
    }

    /// Hands them to the loader of an object.
    pub fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.override_global("IPV6_MASK", &self.ipv6_mask, true);
        loader.override_global("TUNNELS", &self.tunnels, true);
        loader.override_global("NEWCOMER_PLACES", &self.newcomer_places, true);
        loader.override_global("PROXIES_COUNT", &self.proxies, true);
        let Sizes { flows, clients, streams, ring } = self.sizes;
        let (proxied, heads) = if self.proxies == 0 { (1, PAGE) } else { ((flows / SHARE).max(1), HEADS) };
        for (map, entries) in [
            ("FLOWS", flows),
            ("NEWCOMERS", self.newcomer_places),
            ("CLIENTS", clients),
            ("CONNECTIONS", streams),
            ("STREAMS", streams),
            ("ESTIMATES", streams),
            ("EXCHANGES", ring),
            ("PROXIED", proxied),
            ("HEADS", heads),
        ] {
            loader.map_max_entries(map, entries);
        }
    }
}

/// The number that the kernel programs compare with.
fn log_level(level: tracing::Level) -> u8 {
    match level {
        tracing::Level::ERROR => 1,
        tracing::Level::WARN => 2,
        tracing::Level::INFO => 3,
        tracing::Level::DEBUG => 4,
        tracing::Level::TRACE => 5,
    }
}

/// Enters the services.
fn watch(ebpf: &mut Ebpf, services: &[Service]) -> Result<(), KernelError> {
    let mut bitmap = [0_u64; PORT_WORDS];
    let mut table: HashMap<&mut MapData, [u32; 5], u8> = map(ebpf, "SERVICES")?;
    for service in services {
        let key = ServiceKey {
            address: service.address.map_or([0; 4], address),
            port: service.port.to_be(),
            pad: 0,
        };
        table
            .insert(<[u32; 5]>::from(key), 1, 0)
            .map_err(|source| KernelError::Map { map: "SERVICES", source })?;
        bitmap[usize::from(service.port) / 64] |= 1 << (service.port % 64);
    }
    let mut ports: Array<&mut MapData, [u64; PORT_WORDS]> = map(ebpf, "PORTS")?;
    ports.set(0, bitmap, 0).map_err(|source| KernelError::Map { map: "PORTS", source })
}

/// Enters the trusted proxies.
pub fn trust(ebpf: &mut Ebpf, proxies: &Proxies) -> Result<(), KernelError> {
    let mut table: LpmTrie<&mut MapData, Address, u8> = map(ebpf, "PROXIES")?;
    for range in &proxies.trusted {
        // IPv4 addresses are the last 32 bits of mapped ones.
        let bits = u32::from(range.prefix_len()) + if range.network().is_ipv4() { 96 } else { 0 };
        table
            .insert(&Key::new(bits, address(range.network())), 1, 0)
            .map_err(|source| KernelError::Map { map: "PROXIES", source })?;
    }
    Ok(())
}

/// A map of the object by its name.
fn map<'a, M>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<M, KernelError>
where
    M: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
{
    let map =
        ebpf.map_mut(name).ok_or_else(|| KernelError::Load(format!("the programs have no map {name}")))?;
    M::try_from(map).map_err(|source| KernelError::Map { map: name, source })
}

/// Takes a map out of the object, to be kept beside it.
pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, KernelError>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map =
        ebpf.take_map(name).ok_or_else(|| KernelError::Load(format!("the programs have no map {name}")))?;
    M::try_from(map).map_err(|source| KernelError::Map { map: name, source })
}

/// The program that watches `direction` in `mode`.
pub(super) fn program_for(direction: Direction, mode: AttachMode) -> &'static str {
    match (direction, mode) {
        (Direction::Egress, _) => EGRESS,
        (Direction::Ingress, AttachMode::XdpNative) => INGRESS,
        // In skb mode it spares the kernel making one piece of the packet.
        (Direction::Ingress, AttachMode::XdpNativeFrags | AttachMode::XdpSkb) => FRAGS,
        (Direction::Ingress, AttachMode::Tcx | AttachMode::Clsact) => TC_INGRESS,
    }
}

/// Loads, and so verifies, the programs that `way` may need, and their stages; which of them an interface
/// takes, attaching finds out.
pub(super) fn programs(ebpf: &mut Ebpf, way: Way) -> Result<(), KernelError> {
    let ingress = way.ingress().iter().map(|&mode| program_for(Direction::Ingress, mode));
    let needed: BTreeSet<_> = ingress.chain([EGRESS]).collect();
    for hook in HOOKS.iter().filter(|hook| needed.contains(hook.program)) {
        load(ebpf, hook.program)?;
        stages(ebpf, hook)?;
    }
    Ok(())
}

/// Loads the stages behind `hook` and puts them in place. The kernel empties an array of programs when its
/// last descriptor is closed: they are there as long as `ebpf` is.
pub fn stages(ebpf: &mut Ebpf, hook: &Hook) -> Result<(), KernelError> {
    for stage in Stage::ALL {
        let program = load(ebpf, &format!("{}_{}", hook.prefix, stage.name()))?;
        let mut programs: ProgramArray<&mut MapData> = map(ebpf, hook.array)?;
        programs
            .set(stage as u32, &program, 0)
            .map_err(|source| KernelError::Map { map: hook.array, source })?;
    }
    Ok(())
}

/// Loads a program of either kind, if it is not loaded.
fn load(ebpf: &mut Ebpf, name: &str) -> Result<ProgramFd, KernelError> {
    let program =
        ebpf.program_mut(name).ok_or_else(|| KernelError::Load(format!("there is no program {name}")))?;
    let loaded = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    let loaded = match loaded {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        loaded => loaded,
    };
    let program = loaded.and_then(|()| program.fd()).map_err(|error| error::load_program(&error))?;
    program.try_clone().map_err(|error| KernelError::Load(error.to_string()))
}

/// A program that is loaded.
pub(super) fn loaded<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, ProgramError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}
