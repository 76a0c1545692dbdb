//! What the fuzz targets share: a client and a server whose packets go through the library, and what must hold
//! whatever they send.
//!
//! Invariants: no panic; no counter ever decreases; no more bytes are attributed to requests, or to answers, than were
//! seen, a gap before a segment and the rest of one record included.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use hydrometer_agent::{
    hello::Hellos,
    identity::Identities,
    known::Known,
    replay::{Captured, Replay},
    traffic::Traffic,
};
use hydrometer_ebpf::abi::{Address, Counter, Counters, ExchangeEvent};
use hydrometer_engine::Service;

/// The service's port.
const PORT: u16 = 8443;
/// The client's first port; each further connection has the next one, of sixteen.
const CLIENT_PORT: u16 = 40_000;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// TCP flags.
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Begin.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The last of a write.
    pub const PSH: u8 = 0x08;
    /// Acknowledgement.
    pub const ACK: u8 = 0x10;
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server.
    Server = 0,
    /// The client.
    Client = 1,
}

/// A host that is watched, and what must hold on it.
pub struct Host {
    replay: Replay,
    hellos: Hellos,
    known: Known,
    identities: Identities,
    time: u64,
    counters: Counters,
    clients: HashMap<Address, [u64; 10]>,
    /// Bytes that exchanges may have, of server and client.
    seen: [u64; 2],
    /// Bytes that ended exchanges had.
    attributed: [u64; 2],
    /// The longest record of what is spoken: seeing its header counts all of it.
    record: u64,
}

/// One direction of a TCP connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stream {
    /// The next sequence number.
    pub next: u32,
}

/// A TCP connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connection {
    port: u16,
    /// The server's direction and the client's.
    pub streams: [Stream; 2],
}

impl Host {
    /// One that nothing has passed. `record` is the longest record of what is spoken.
    pub fn new(record: u64) -> Self {
        Self::of(Traffic::default(), record)
    }

    /// Likewise, whose client is a trusted proxy.
    pub fn behind_a_proxy(record: u64) -> Self {
        let mut traffic = Traffic::default();
        traffic.proxies.trusted.push("10.0.0.0/24".parse().expect("a network"));
        Self::of(traffic, record)
    }

    fn of(traffic: Traffic, record: u64) -> Self {
        let prefix = traffic.ipv6_prefix;
        let identities = Identities::new(traffic.proxies.clone(), prefix, 64);
        let replay = Replay::of(traffic, &[Service { address: None, port: PORT }]);
        Self {
            identities: identities.expect("there is no secret to be opened"),
            counters: replay.counters(),
            replay,
            hellos: Hellos::default(),
            known: Known::new(64),
            time: 1,
            clients: HashMap::new(),
            seen: [0; 2],
            attributed: [0; 2],
            record,
        }
    }

    /// The handshake of a connection; of sixteen, so that ports are used again.
    pub fn connect(&mut self, number: u8, first: u32) -> Connection {
        let stream = Stream { next: first };
        let mut connection = Connection { port: CLIENT_PORT + u16::from(number & 15), streams: [stream; 2] };
        self.seen = self.seen.map(|seen| seen + self.record);
        self.segment(&mut connection, Side::Client, 0, flags::SYN, &[]);
        self.segment(&mut connection, Side::Server, 0, flags::SYN | flags::ACK, &[]);
        self.segment(&mut connection, Side::Client, 0, flags::ACK, &[]);
        connection
    }

    /// A segment `offset` bytes from where the stream is.
    pub fn segment(
        &mut self,
        connection: &mut Connection,
        from: Side,
        offset: i32,
        flags: u8,
        payload: &[u8],
    ) {
        let stream = &mut connection.streams[from as usize];
        let seq = stream.next.wrapping_add_signed(offset);
        let ahead = u64::from(offset.max(0).unsigned_abs());
        if ahead > 0 {
            // What lies between may be lost, and a record of which the header was seen with it.
            self.seen[from as usize] += ahead + self.record;
        }
        self.seen[from as usize] += payload.len() as u64;
        let end = offset.saturating_add_unsigned(payload.len() as u32 + u32::from(flags & flags::SYN != 0));
        stream.next = stream.next.wrapping_add_signed(end.max(0));
        let ack = connection.streams[1 - from as usize].next;
        let mut segment = Vec::with_capacity(20 + payload.len());
        segment.extend(ports(from, connection.port));
        segment.extend(seq.to_be_bytes());
        segment.extend(ack.to_be_bytes());
        segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(payload);
        self.ipv4(from, TCP, &segment);
    }

    /// A datagram.
    pub fn datagram(&mut self, from: Side, payload: &[u8]) {
        self.seen[from as usize] += payload.len() as u64;
        let mut datagram = Vec::with_capacity(8 + payload.len());
        datagram.extend(ports(from, CLIENT_PORT));
        datagram.extend((8 + payload.len() as u16).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        self.ipv4(from, UDP, &datagram);
    }

    fn ipv4(&mut self, from: Side, protocol: u8, packet: &[u8]) {
        let (client, server) = ([10, 0, 0, 9], [10, 0, 0, 1]);
        let (source, destination) = if from == Side::Client { (client, server) } else { (server, client) };
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + packet.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend(source.into_iter().chain(destination));
        frame.extend(packet);
        self.frame(&frame);
    }

    /// A frame.
    pub fn frame(&mut self, bytes: &[u8]) {
        self.time += 1_000_000;
        self.replay.captured(&Captured { time: self.time, len: bytes.len() as u32, bytes });
        for (event, bytes) in self.replay.hellos() {
            self.hellos.take(&event, &bytes, &mut self.known);
        }
        for (event, bytes) in self.replay.heads() {
            self.identities.take(&event, &bytes);
        }
        for event in self.replay.drain() {
            self.attribute(&event);
        }
        let counters = self.replay.counters();
        assert!(
            counters.iter().zip(self.counters).all(|(now, before)| *now >= before),
            "a counter decreased"
        );
        self.counters = counters;
        self.replay.clients(|key, client| {
            let now = [
                &client.ingress_packets,
                &client.ingress_bytes,
                &client.egress_packets,
                &client.egress_bytes,
                &client.syns,
                &client.connections,
                &client.requests,
                &client.exchanges,
                &client.request_bytes,
                &client.answer_bytes,
            ]
            .map(|counter| counter.get());
            let before = self.clients.insert(key, now).unwrap_or_default();
            assert!(
                now.iter().zip(before).all(|(now, before)| *now >= before),
                "a client's counter decreased"
            );
        });
    }

    /// Packets of watched services, and tunnels inside tunnels.
    pub fn followed(&self) -> [u64; 3] {
        [Counter::IngressWatched, Counter::EgressWatched, Counter::TunnelDepth]
            .map(|counter| self.counters[counter as usize])
    }

    fn attribute(&mut self, event: &ExchangeEvent) {
        self.attributed[Side::Server as usize] += event.answer_bytes;
        self.attributed[Side::Client as usize] += event.request_bytes;
    }

    /// Nothing more comes. What is open is as good as ended.
    pub fn end(mut self) {
        for event in self.replay.flush() {
            self.attribute(&event);
        }
        for (attributed, seen) in self.attributed.into_iter().zip(self.seen) {
            assert!(attributed <= seen, "{attributed} bytes were attributed of {seen} that were seen");
        }
    }
}

fn ports(from: Side, client: u16) -> [u8; 4] {
    let (source, destination) = if from == Side::Client { (client, PORT) } else { (PORT, client) };
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    [a, b, c, d]
}

/// What a fuzzer's bytes say is sent: two bytes tell who sends and how much, then it follows. Seeds are made so, too.
pub fn pieces(mut data: &[u8]) -> impl Iterator<Item = (Side, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = data.split_first_chunk()?;
        let head = u16::from_be_bytes(*head);
        let side = if head & 0x8000 == 0 { Side::Server } else { Side::Client };
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(head & 0x7fff)));
        data = rest;
        Some((side, piece))
    })
}

/// Sends pieces over one TCP connection, in order.
pub fn converse(host: &mut Host, connection: &mut Connection, data: &[u8]) {
    for (side, piece) in pieces(data) {
        host.segment(connection, side, 0, flags::ACK, piece);
    }
}
