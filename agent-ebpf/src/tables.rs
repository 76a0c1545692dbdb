//! The maps, and what the library asks of them.
//!
//! Names and types here are what the agent's loader relies on. Sizes are set when loading.

use core::{arch::asm, ffi::c_void, hint::black_box, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext, Global,
    bindings::{
        BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP,
        BPF_RB_RING_SIZE,
    },
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_ktime_get_coarse_ns, bpf_loop, bpf_ringbuf_output},
    },
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};
use aya_log_ebpf::{
    debug,
    macro_support::{Level, level_enabled},
    trace,
};
use hydrometer_ebpf::{
    abi::{Address, Counter, Counters, ExchangeEvent, FlowKey, PORT_WORDS, ServiceKey, StreamKey},
    cell::Shared64,
    client::Client,
    flow::Flow,
    head::{self, HeadEvent, MAX_HEAD},
    hello::{HelloEvent, MAX_HELLO},
    http2::Connection,
    http2_tls::Estimate,
    packet::{Direction, Packet},
    proxy::Proxied,
    track::{Scratch, Step, Tables},
    tunnel::Tunnels,
};

/// Flows.
#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1, 0);
/// Newcomers among them, in a ring: who comes next takes the place of the oldest.
#[map]
static NEWCOMERS: Array<FlowKey> = Array::with_max_entries(1, 0);
/// How many have come.
#[map]
static TURNSTILE: Array<Shared64> = Array::with_max_entries(1, 0);
/// Places in that ring. Set when loading.
#[unsafe(no_mangle)]
static NEWCOMER_PLACES: Global<u32> = Global::new(1);
/// Clients by [`hydrometer_ebpf::abi::client_key`].
#[map]
static CLIENTS: LruHashMap<Address, Client> = LruHashMap::with_max_entries(1, 0);
/// HTTP/2 connections in clear text.
#[map]
static CONNECTIONS: LruHashMap<FlowKey, Connection> = LruHashMap::with_max_entries(1, 0);
/// Their open streams.
#[map]
static STREAMS: LruHashMap<StreamKey, Flow> = LruHashMap::with_max_entries(1, 0);
/// What is estimated of HTTP/2 connections inside TLS.
#[map]
static ESTIMATES: LruHashMap<FlowKey, Estimate> = LruHashMap::with_max_entries(1, 0);
/// One bit for each port that a service uses.
#[map]
static PORTS: Array<[u64; PORT_WORDS]> = Array::with_max_entries(1, 0);
/// Services.
#[map]
static SERVICES: HashMap<ServiceKey, u8> = HashMap::with_max_entries(1024, 0);
/// Session ticket lengths by the low byte of the port: the port above, the length below.
#[map]
static TICKETS: Array<u32> = Array::with_max_entries(256, 0);
/// One bit for each port on which a service has answered with TLS.
#[map]
static TLS_PORTS: Array<[u64; PORT_WORDS]> = Array::with_max_entries(1, 0);
/// Packets and losses, per core.
#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);
/// Room for the packet at hand, per core: from the network, to the network.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(2, 0);
/// Finished exchanges.
#[map]
static EXCHANGES: RingBuf = RingBuf::with_byte_size(4096, 0);

/// The begins of TLS connections: a [`HelloEvent`], then the client's bytes.
#[map]
static HELLOS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
/// Room to put one of those together, per core.
#[map]
static HELLO: PerCpuArray<Hello> = PerCpuArray::with_max_entries(1, 0);

/// An event and its bytes.
#[repr(C)]
struct Hello {
    event: HelloEvent,
    bytes: [u8; MAX_HELLO as usize],
}

/// The bits of an IPv6 address that tell one client from another. Set when loading.
#[unsafe(no_mangle)]
static IPV6_MASK: Global<Address> = Global::new([u32::MAX, u32::MAX, 0, 0]);

/// The tunnels that are followed. Set when loading.
#[unsafe(no_mangle)]
static TUNNELS: Global<Tunnels> = Global::new(Tunnels { vxlan: 0, geneve: 0, gre: 0, ip: 0 });

/// Prefixes of trusted proxies.
#[map]
static PROXIES: LpmTrie<Address, u8> = LpmTrie::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// How many there are. Set when loading: without any, nobody is looked up.
#[unsafe(no_mangle)]
static PROXIES_COUNT: Global<u32> = Global::new(0);
/// Connections from trusted proxies.
#[map]
static PROXIED: LruHashMap<FlowKey, Proxied> = LruHashMap::with_max_entries(1, 0);
/// What trusted proxies say: a [`HeadEvent`], then their bytes.
#[map]
static HEADS: RingBuf = RingBuf::with_byte_size(4096, 0);
/// Room to put one of those together, per core.
#[map]
static HEAD: PerCpuArray<Head> = PerCpuArray::with_max_entries(1, 0);

/// An event and its bytes.
#[repr(C)]
struct Head {
    event: HeadEvent,
    bytes: head::Bytes,
}

/// What a new connection of a proxy begins with.
// SAFETY: as above.
static NEW_PROXIED: Proxied = unsafe { MaybeUninit::zeroed().assume_init() };
/// What a new flow begins with: too large for the stack.
// SAFETY: all fields are integers, for which zero is a value.
static NEW_FLOW: Flow = unsafe { MaybeUninit::zeroed().assume_init() };
/// What a new connection begins with.
// SAFETY: as above.
static NEW_CONNECTION: Connection = unsafe { MaybeUninit::zeroed().assume_init() };
/// What a new estimate begins with.
// SAFETY: as above.
static NEW_ESTIMATE: Estimate = unsafe { MaybeUninit::zeroed().assume_init() };
/// What a new client begins with.
// SAFETY: as above.
static NEW_CLIENT: Client = unsafe { MaybeUninit::zeroed().assume_init() };

/// The kernel's maps, seen from the program that runs with `context`.
pub(crate) struct Kernel<'a, C: EbpfContext>(pub(crate) &'a C);

// SAFETY: entries stay in place until the program returns (RCU); a flow's packets of one direction come
// from one queue, or under their socket's lock. An entry that is evicted meanwhile may serve another
// flow, whose figures are then off; memory stays valid.
unsafe impl<C: EbpfContext> Tables for Kernel<'_, C> {
    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<&Flow> {
        // SAFETY: see above.
        unsafe { FLOWS.get(key) }
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey) -> Option<&Flow> {
        // Another core may have been first, which is as good.
        if FLOWS.insert(key, &NEW_FLOW, BPF_NOEXIST as u64).is_ok() {
            self.count(Counter::FlowEntered);
        }
        self.flow(key)
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) -> bool {
        FLOWS.remove(key).is_ok()
    }

    #[inline(always)]
    fn take_place(&self, key: &FlowKey) -> FlowKey {
        let ticket = TURNSTILE.get(0).map_or(0, |turnstile| turnstile.fetch_add(1));
        let place = ticket.checked_rem(u64::from(NEWCOMER_PLACES.load())).unwrap_or(0);
        match NEWCOMERS.get_ptr_mut(place as u32) {
            // SAFETY: the place lies in the map. Two cores are in the same place only when as many flows begin
            // during a packet as there are places; a key that is mixed up then is nobody's.
            Some(place) => unsafe { place.replace(*key) },
            None => FlowKey::default(),
        }
    }

    #[inline(always)]
    fn connection(&self, key: &FlowKey) -> Option<&Connection> {
        // SAFETY: see above.
        unsafe { CONNECTIONS.get(key) }
    }

    #[inline(always)]
    fn insert_connection(&self, key: &FlowKey) -> Option<&Connection> {
        let _ = CONNECTIONS.insert(key, &NEW_CONNECTION, BPF_NOEXIST as u64);
        self.connection(key)
    }

    #[inline(always)]
    fn stream(&self, key: &StreamKey) -> Option<&Flow> {
        // SAFETY: see above.
        unsafe { STREAMS.get(key) }
    }

    #[inline(always)]
    fn insert_stream(&self, key: &StreamKey) -> Option<&Flow> {
        let _ = STREAMS.insert(key, &NEW_FLOW, BPF_NOEXIST as u64);
        self.stream(key)
    }

    #[inline(always)]
    fn remove_stream(&self, key: &StreamKey) {
        // It may have been evicted meanwhile.
        let _ = STREAMS.remove(key);
    }

    #[inline(always)]
    fn estimate(&self, key: &FlowKey) -> Option<&Estimate> {
        // SAFETY: see above.
        unsafe { ESTIMATES.get(key) }
    }

    #[inline(always)]
    fn insert_estimate(&self, key: &FlowKey) -> Option<&Estimate> {
        let _ = ESTIMATES.insert(key, &NEW_ESTIMATE, BPF_NOEXIST as u64);
        self.estimate(key)
    }

    #[inline(always)]
    fn client(&self, key: &Address) -> Option<&Client> {
        // SAFETY: see above.
        if let Some(client) = unsafe { CLIENTS.get(key) } {
            return Some(client);
        }
        if CLIENTS.insert(key, &NEW_CLIENT, BPF_NOEXIST as u64).is_ok() {
            self.count(Counter::ClientEntered);
        }
        // SAFETY: see above.
        unsafe { CLIENTS.get(key) }
    }

    #[inline(always)]
    fn ipv6_mask(&self) -> Address {
        IPV6_MASK.load()
    }

    #[inline(always)]
    fn tunnels(&self) -> Tunnels {
        TUNNELS.load()
    }

    #[inline(always)]
    fn has_proxies(&self) -> bool {
        PROXIES_COUNT.load() > 0
    }

    #[inline(always)]
    fn trusts(&self, client: &Address) -> bool {
        PROXIES.get(Key::new(128, *client)).is_some()
    }

    #[inline(always)]
    fn proxied(&self, key: &FlowKey) -> Option<&Proxied> {
        // SAFETY: see above.
        if let Some(proxied) = unsafe { PROXIED.get(key) } {
            return Some(proxied);
        }
        let _ = PROXIED.insert(key, &NEW_PROXIED, BPF_NOEXIST as u64);
        // SAFETY: see above.
        unsafe { PROXIED.get(key) }
    }

    #[inline(always)]
    fn is_port(&self, port: u16) -> bool {
        is_set(&PORTS, port)
    }

    #[inline(always)]
    fn is_service(&self, key: &ServiceKey) -> bool {
        // SAFETY: see above.
        unsafe { SERVICES.get(key) }.is_some()
    }

    #[inline(always)]
    fn ticket_len(&self, port: u16) -> Option<u32> {
        match TICKETS.get(ticket_slot(port)) {
            Some(&entry) if entry >> 16 == port as u32 => Some(entry & 0xffff),
            _ => None,
        }
    }

    #[inline(always)]
    fn learn_ticket_len(&self, port: u16, len: u32) {
        if let Some(entry) = TICKETS.get_ptr_mut(ticket_slot(port)) {
            // SAFETY: a single aligned store into the map's memory.
            unsafe { entry.write_volatile((port as u32) << 16 | len & 0xffff) };
        }
    }

    #[inline(always)]
    fn speaks_tls(&self, port: u16) -> bool {
        is_set(&TLS_PORTS, port)
    }

    #[inline(always)]
    fn learn_tls(&self, port: u16) {
        let port = u16::from_be(port) as usize;
        if let Some(words) = TLS_PORTS.get_ptr_mut(0) {
            // SAFETY: an aligned load and store in the map's memory. When two ports of a word are learned
            // at once, one may be lost until its next connection.
            unsafe { (*words)[port / 64] |= 1 << (port % 64) };
        }
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        if let Some(counters) = COUNTERS.get_ptr_mut(0) {
            let mut index = counter as usize;
            // The compiler knows that a discriminant is below the number of counters, an older verifier does not: it is to
            // see the comparison.
            // SAFETY: arithmetic on a register, and none that changes it.
            unsafe { asm!("{0} &= 0xff", inout(reg) index, options(pure, nomem, nostack)) };
            // SAFETY: this core's own entry.
            if let Some(count) = unsafe { (*counters).get_mut(index) } {
                *count += 1;
            }
        }
        if counter.is_loss() && level_enabled(Level::Debug) {
            debug!(self.0, "{}", counter.name());
        }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: the helper takes no arguments and cannot fail.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn coarse_now(&self) -> u64 {
        // SAFETY: the helper takes no arguments and cannot fail.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn scratch(&self, direction: Direction) -> Option<&mut Scratch> {
        // SAFETY: this core's own entry of this direction, and programs of a direction do not nest.
        unsafe { SCRATCH.get_ptr_mut(direction as u32)?.as_mut() }
    }

    #[inline(always)]
    fn repeat<S: Step>(&self, times: u32, steps: &mut S) {
        // SAFETY: the helper calls back with this pointer while it runs, and no longer.
        unsafe { bpf_loop(times, step::<S> as *mut c_void, (&raw mut *steps).cast(), 0) };
    }

    #[inline(always)]
    fn emit(&self, fill: impl FnOnce(&mut ExchangeEvent)) -> bool {
        let Some(mut entry) = EXCHANGES.reserve::<ExchangeEvent>(0) else { return false };
        // SAFETY: the entry has the size and alignment of the event, all of whose bytes `fill` sets.
        fill(unsafe { &mut *entry.as_mut_ptr() });
        entry.submit(wakeup(&EXCHANGES));
        if level_enabled(Level::Trace) {
            log_exchange(self.0);
        }
        true
    }

    #[inline(always)]
    fn hello<P: Packet>(&self, packet: &P, at: u32, len: u32, fill: impl FnOnce(&mut HelloEvent)) -> bool {
        // SAFETY: this core's own entry, and programs of a direction do not nest.
        let Some(hello) = HELLO.get_ptr_mut(0).and_then(|hello| unsafe { hello.as_mut() }) else {
            return false;
        };
        fill(&mut hello.event);
        // At least one byte, and no more than there is room for, so that the verifier sees it, too.
        let len = ((black_box(len).wrapping_sub(1)) & (MAX_HELLO - 1)) + 1;
        let (bytes, _) = hello.bytes.split_at_mut(len as usize);
        if !packet.copy(at, bytes) {
            return true;
        }
        let size = size_of::<HelloEvent>() as u64 + len as u64;
        // SAFETY: the event and `len` of its bytes lie one behind the other, and all of them are set.
        unsafe {
            let (ring, flags) = ((&raw const HELLOS).cast_mut().cast(), wakeup(&HELLOS));
            bpf_ringbuf_output(ring, (&raw mut *hello).cast(), size, flags) == 0
        }
    }

    #[inline(always)]
    fn round_trip(&self, fill: impl FnOnce(&mut HelloEvent)) -> bool {
        let Some(mut entry) = HELLOS.reserve::<HelloEvent>(0) else { return false };
        // SAFETY: the entry has the size and alignment of the event, all of whose bytes `fill` sets.
        fill(unsafe { &mut *entry.as_mut_ptr() });
        entry.submit(wakeup(&HELLOS));
        true
    }

    #[inline(always)]
    fn head<P: Packet>(
        &self,
        packet: &P,
        at: u32,
        len: u32,
        fill: impl FnOnce(&mut HeadEvent, &head::Bytes),
    ) -> bool {
        // SAFETY: this core's own entry, and programs of a direction do not nest.
        let Some(head) = HEAD.get_ptr_mut(0).and_then(|head| unsafe { head.as_mut() }) else {
            return false;
        };
        // As in `hello`.
        let len = ((black_box(len).wrapping_sub(1)) & (MAX_HEAD - 1)) + 1;
        let (bytes, _) = head.bytes.split_at_mut(len as usize);
        if !packet.copy(at, bytes) {
            return true;
        }
        fill(&mut head.event, &head.bytes);
        let len = ((black_box(head.event.len).wrapping_sub(1)) & (MAX_HEAD - 1)) + 1;
        let size = size_of::<HeadEvent>() as u64 + len as u64;
        // SAFETY: the event and `len` of its bytes lie one behind the other.
        unsafe {
            let (ring, flags) = ((&raw const HEADS).cast_mut().cast(), wakeup(&HEADS));
            bpf_ringbuf_output(ring, (&raw mut *head).cast(), size, flags) == 0
        }
    }
}

/// Whether the agent is to be woken for one more event: only where the ring fills sooner than it looks by itself. To be
/// woken for each would cost the host more than all the rest.
#[inline(always)]
fn wakeup(ring: &RingBuf) -> u64 {
    let is_filling = ring.query(BPF_RB_AVAIL_DATA.into()) > ring.query(BPF_RB_RING_SIZE.into()) / 4;
    (if is_filling { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }).into()
}

/// What `bpf_loop` calls: 0 to go on, 1 to stop.
unsafe extern "C" fn step<S: Step>(_index: u64, steps: *mut c_void) -> u64 {
    // SAFETY: `repeat` hands this out, and nobody else has the reference while the helper runs.
    let steps = unsafe { &mut *steps.cast::<S>() };
    u64::from(steps.step().is_break())
}

/// Whether a bitmap of ports has this one (network order).
#[inline(always)]
fn is_set(ports: &Array<[u64; PORT_WORDS]>, port: u16) -> bool {
    let Some(words) = ports.get(0) else { return false };
    let port = u16::from_be(port) as usize;
    words[port / 64] >> (port % 64) & 1 != 0
}

#[inline(always)]
fn ticket_slot(port: u16) -> u32 {
    // Network order: the low byte of the port is the high one here.
    (port >> 8) as u32
}

#[inline(never)]
fn log_exchange<C: EbpfContext>(context: &C) {
    trace!(context, "exchange");
}
