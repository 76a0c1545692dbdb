//! Ordinary collections in the place of the kernel's maps.
//!
//! Invariant: memory is bounded, as in the kernel; what the maps of flows have no room for any more is handed out
//! as it stands. Packets are handled one at a time.
#![expect(unsafe_code, reason = "the trait's promises are made here")]

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
};

use hydrometer_ebpf::{
    abi::{
        Address, COUNTERS, Counter, Counters, ExchangeEvent, FlowKey, Protocol, ServiceKey, StreamKey,
        address, client_key, ip,
    },
    client::Client,
    flow::Flow,
    head::{self, HeadEvent, MAX_HEAD},
    hello::HelloEvent,
    http2::Connection,
    http2_tls::Estimate,
    packet::{Direction, Packet},
    proxy::Proxied,
    track::{self, Scratch, Step, Tables},
    tunnel::{self, Tunnels},
};
use hydrometer_engine::Service;

use super::table::Table;
use crate::traffic::Traffic;

/// A frame as captured.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// Capture time, nanoseconds since the epoch.
    pub time: u64,
    /// Bytes on the wire.
    pub len: u32,
    /// Bytes kept.
    pub bytes: &'a [u8],
}

impl Packet for Captured<'_> {
    fn len(&self) -> u32 {
        self.len
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.bytes.get(offset as usize..)?.first_chunk().copied()
    }

    fn copy(&self, offset: u32, to: &mut [u8]) -> bool {
        let bytes = self.bytes.get(offset as usize..).and_then(|bytes| bytes.get(..to.len()));
        if let Some(bytes) = bytes {
            to.copy_from_slice(bytes);
        }
        bytes.is_some()
    }

    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let (words, _) = self.bytes.get(offset as usize..)?.as_chunks();
        words.first_chunk::<N>().map(|words| words.map(u32::from_ne_bytes))
    }
}

/// Flows whose clients have not yet proven that they are there, at a time.
const NEWCOMERS: usize = 1 << 14;

/// The library with everything it asks for.
#[derive(Debug, Default)]
pub struct Replay {
    services: HashSet<ServiceKey>,
    /// Whether a service has this port, by the number that its two bytes are in memory.
    ports: Vec<bool>,
    flows: Table<FlowKey, Flow>,
    newcomers: RefCell<VecDeque<FlowKey>>,
    connections: Table<FlowKey, Connection>,
    streams: Table<StreamKey, Flow>,
    estimates: Table<FlowKey, Estimate>,
    clients: Table<Address, Client>,
    traffic: Traffic,
    tickets: RefCell<HashMap<u16, u32>>,
    tls_ports: RefCell<HashSet<u16>>,
    counters: RefCell<Counters>,
    events: RefCell<Vec<ExchangeEvent>>,
    hellos: RefCell<Vec<(HelloEvent, Vec<u8>)>>,
    heads: RefCell<Vec<(HeadEvent, Vec<u8>)>>,
    proxied: Table<FlowKey, Proxied>,
    scratch: [UnsafeCell<Scratch>; 2],
    now: Cell<u64>,
}

impl Replay {
    /// Watches these services.
    pub fn new(services: &[Service]) -> Self {
        let services: HashSet<_> = services
            .iter()
            .map(|service| ServiceKey {
                address: service.address.map_or([0; 4], address),
                port: service.port.to_be(),
                pad: 0,
            })
            .collect();
        let mut ports = vec![false; 1 << 16];
        for service in &services {
            ports[usize::from(service.port)] = true;
        }
        Self { services, ports, ..Self::default() }
    }

    /// Likewise, of traffic that is read so.
    pub fn of(traffic: Traffic, services: &[Service]) -> Self {
        Self { traffic, ..Self::new(services) }
    }

    /// Takes one frame.
    pub fn packet(&mut self, packet: &Captured<'_>, direction: Direction) {
        self.now.set(packet.time);
        match direction {
            Direction::Ingress => {
                let mut next = track::ingress(packet, self);
                while let Some(stage) = next {
                    next = stage.ingress(packet, self);
                }
            }
            Direction::Egress => {
                let mut next = track::egress(packet, self);
                while let Some(stage) = next {
                    next = stage.egress(packet, self);
                }
            }
        }
        self.settle();
    }

    /// Takes one frame of which it is not known where it was going: to a service, if it is addressed to
    /// one's port.
    pub fn captured(&mut self, packet: &Captured<'_>) {
        self.packet(packet, tunnel::direction(packet, self));
    }

    /// Whether there is something to drain, or a hello.
    pub fn has_news(&self) -> bool {
        !self.events.borrow().is_empty() || !self.hellos.borrow().is_empty()
    }

    /// Exchanges that have ended since the last call, in the order in which they ended.
    pub fn drain(&self) -> Vec<ExchangeEvent> {
        self.events.take()
    }

    /// Begins of TLS connections seen since the last call, with the client's bytes.
    pub fn hellos(&self) -> Vec<(HelloEvent, Vec<u8>)> {
        self.hellos.take()
    }

    /// What trusted proxies have said since the last call, with their bytes.
    pub fn heads(&self) -> Vec<(HeadEvent, Vec<u8>)> {
        self.heads.take()
    }

    /// Exchanges still open: the capture is over.
    pub fn flush(&self) -> Vec<ExchangeEvent> {
        let mut open = Vec::new();
        self.flows.each(|key, flow| open.extend(open_of(key, flow, &self.estimates)));
        self.streams.each(|key, stream| open.extend(stream.open(&key.flow)));
        open.sort_by_key(|event| event.start);
        open
    }

    /// Makes room. What has to go is treated as at the end of the capture.
    fn settle(&mut self) {
        let events = self.events.get_mut();
        self.flows.settle(|key, flow| events.extend(open_of(key, flow, &self.estimates)));
        self.streams.settle(|key, stream| events.extend(stream.open(&key.flow)));
        self.estimates.settle(|_, _| ());
        self.connections.settle(|_, _| ());
        self.clients.settle(|_, _| ());
    }

    /// Counters of a client.
    pub fn client(&self, ip: IpAddr) -> Option<&Client> {
        self.clients.get(&client_key(&address(ip), &self.ipv6_mask()))
    }

    /// All clients, by their key.
    pub fn clients(&self, mut each: impl FnMut(Address, &Client)) {
        self.clients.each(|key, client| each(*key, client));
    }

    /// Packets and losses.
    pub fn counters(&self) -> Counters {
        *self.counters.borrow()
    }
}

/// The open exchanges of a flow, in the order in which they were asked.
fn open_of(key: &FlowKey, flow: &Flow, estimates: &Table<FlowKey, Estimate>) -> Vec<ExchangeEvent> {
    match estimates.get(key) {
        Some(estimate) if flow.protocol() == Protocol::TlsHttp2 => estimate.open(flow, key).collect(),
        _ => flow.open_apart(key).into_iter().chain(flow.open(key)).collect(),
    }
}

// SAFETY: values are freed only between two packets, and `Replay` is not `Sync`, so packets are handled one
// at a time.
unsafe impl Tables for Replay {
    fn flow(&self, key: &FlowKey) -> Option<&Flow> {
        self.flows.get(key)
    }

    fn insert_flow(&self, key: &FlowKey) -> Option<&Flow> {
        self.count(Counter::FlowEntered);
        Some(self.flows.insert(*key))
    }

    fn remove_flow(&self, key: &FlowKey) -> bool {
        let is_there = self.flows.get(key).is_some();
        self.flows.remove(key);
        is_there
    }

    fn take_place(&self, key: &FlowKey) -> FlowKey {
        let mut newcomers = self.newcomers.borrow_mut();
        newcomers.push_back(*key);
        if newcomers.len() > NEWCOMERS {
            newcomers.pop_front().unwrap_or_default()
        } else {
            FlowKey::default()
        }
    }

    fn connection(&self, key: &FlowKey) -> Option<&Connection> {
        self.connections.get(key)
    }

    fn insert_connection(&self, key: &FlowKey) -> Option<&Connection> {
        Some(self.connections.insert(*key))
    }

    fn stream(&self, key: &StreamKey) -> Option<&Flow> {
        self.streams.get(key)
    }

    fn insert_stream(&self, key: &StreamKey) -> Option<&Flow> {
        Some(self.streams.insert(*key))
    }

    fn remove_stream(&self, key: &StreamKey) {
        self.streams.remove(key);
    }

    fn estimate(&self, key: &FlowKey) -> Option<&Estimate> {
        self.estimates.get(key)
    }

    fn insert_estimate(&self, key: &FlowKey) -> Option<&Estimate> {
        Some(self.estimates.insert(*key))
    }

    fn client(&self, key: &Address) -> Option<&Client> {
        if self.clients.get(key).is_none() {
            self.count(Counter::ClientEntered);
        }
        Some(self.clients.insert(*key))
    }

    fn ipv6_mask(&self) -> Address {
        self.traffic.ipv6_mask()
    }

    fn tunnels(&self) -> Tunnels {
        self.traffic.tunnels
    }

    fn has_proxies(&self) -> bool {
        !self.traffic.proxies.trusted.is_empty()
    }

    fn trusts(&self, client: &Address) -> bool {
        self.traffic.proxies.trust(ip(*client))
    }

    fn proxied(&self, key: &FlowKey) -> Option<&Proxied> {
        Some(self.proxied.insert(*key))
    }

    fn is_port(&self, port: u16) -> bool {
        self.ports.get(usize::from(port)) == Some(&true)
    }

    fn is_service(&self, key: &ServiceKey) -> bool {
        self.services.contains(key)
    }

    fn ticket_len(&self, port: u16) -> Option<u32> {
        self.tickets.borrow().get(&port).copied()
    }

    fn learn_ticket_len(&self, port: u16, len: u32) {
        self.tickets.borrow_mut().insert(port, len);
    }

    fn speaks_tls(&self, port: u16) -> bool {
        self.tls_ports.borrow().contains(&port)
    }

    fn learn_tls(&self, port: u16) {
        self.tls_ports.borrow_mut().insert(port);
    }

    fn count(&self, counter: Counter) {
        const { assert!(Counter::ALL.len() == COUNTERS) };
        self.counters.borrow_mut()[counter as usize] += 1;
    }

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn coarse_now(&self) -> u64 {
        self.now()
    }

    fn scratch(&self, direction: Direction) -> Option<&mut Scratch> {
        // SAFETY: `packet` handles one packet at a time, and the library asks for one room at a time.
        unsafe { self.scratch[direction as usize].get().as_mut() }
    }

    fn repeat<S: Step>(&self, times: u32, steps: &mut S) {
        for _ in 0..times {
            if steps.step().is_break() {
                break;
            }
        }
    }

    fn emit(&self, fill: impl FnOnce(&mut ExchangeEvent)) -> bool {
        let mut event = ExchangeEvent::default();
        fill(&mut event);
        self.events.borrow_mut().push(event);
        true
    }

    fn hello<P: Packet>(&self, packet: &P, at: u32, len: u32, fill: impl FnOnce(&mut HelloEvent)) -> bool {
        let mut event = HelloEvent::default();
        fill(&mut event);
        let mut bytes = vec![0; len as usize];
        if packet.copy(at, &mut bytes) {
            self.hellos.borrow_mut().push((event, bytes));
        }
        true
    }

    fn round_trip(&self, fill: impl FnOnce(&mut HelloEvent)) -> bool {
        let mut event = HelloEvent::default();
        fill(&mut event);
        self.hellos.borrow_mut().push((event, Vec::new()));
        true
    }

    fn head<P: Packet>(
        &self,
        packet: &P,
        at: u32,
        len: u32,
        fill: impl FnOnce(&mut HeadEvent, &head::Bytes),
    ) -> bool {
        let mut event = HeadEvent::default();
        let mut bytes = [0; MAX_HEAD as usize];
        if packet.copy(at, &mut bytes[..len as usize]) {
            fill(&mut event, &bytes);
            let bytes = bytes[..event.len as usize].to_vec();
            self.heads.borrow_mut().push((event, bytes));
        }
        true
    }
}
