//! The yardsticks of the bench. The floor is the plain design: parse, one flow lookup with a 40-byte key, one
//! client lookup with a 20-byte key, one reading of the precise clock, three atomic additions. For packets of
//! nobody we watch it is parsing up to the port.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, LruHashMap},
};
use hydrometer_ebpf::{
    abi::{FlowKey, PORT_WORDS, ServiceKey},
    cell::Shared64,
    packet::{Direction, Packet, Segment, parse},
};

/// What it counts, of a flow or a client.
#[repr(C)]
#[derive(Default)]
struct Totals {
    packets: Shared64,
    bytes: Shared64,
    last_seen: Shared64,
}

#[map]
static FLOOR_FLOWS: LruHashMap<FlowKey, Totals> = LruHashMap::with_max_entries(65_536, 0);
#[map]
static FLOOR_CLIENTS: LruHashMap<ServiceKey, Totals> = LruHashMap::with_max_entries(65_536, 0);
#[map]
static FLOOR_PORTS: Array<[u64; PORT_WORDS]> = Array::with_max_entries(1, 0);

/// Parses up to the service's port, and looks whether it is watched.
#[inline(always)]
pub(crate) fn port<P: Packet>(packet: &P, direction: Direction) -> Option<Segment> {
    let watched = |port: u16| {
        let port = u16::from_be(port) as usize;
        FLOOR_PORTS.get(0).is_some_and(|words| words[port / 64] >> (port % 64) & 1 != 0)
    };
    parse(packet, direction, watched).ok()
}

/// Counts a packet of an established flow.
#[inline(always)]
pub(crate) fn count<P: Packet>(packet: &P) {
    let Some(segment) = port(packet, Direction::Ingress) else { return };
    let flow_key = segment.key;
    let client_key = ServiceKey { address: segment.key.client, port: segment.key.server_port, pad: 0 };
    // SAFETY: entries stay in place until the program returns.
    let (flow, client) = unsafe { (FLOOR_FLOWS.get(flow_key), FLOOR_CLIENTS.get(client_key)) };
    let (Some(flow), Some(client)) = (flow, client) else {
        let _ = FLOOR_FLOWS.insert(flow_key, Totals::default(), BPF_NOEXIST as u64);
        let _ = FLOOR_CLIENTS.insert(client_key, Totals::default(), BPF_NOEXIST as u64);
        return;
    };
    // SAFETY: the helper takes no arguments.
    flow.last_seen.set(unsafe { bpf_ktime_get_ns() });
    flow.packets.add(1);
    flow.bytes.add(segment.ip_bytes as u64);
    client.packets.add(1);
}
