//! Who may claim an entry: natively, every packet under control. Needs no root.

use std::net::{IpAddr, Ipv4Addr};

use hydrometer_agent::replay::{Captured, Replay};
use hydrometer_ebpf::abi::{Counter, ExchangeEvent};
use hydrometer_engine::Service;
use hydrometer_tests::frames::{Tcp, flags};

const SERVER: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 8080);
const CLIENT: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), 40_000);
const QUESTION: &[u8] = b"GET /v1/models HTTP/1.1\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// A server's host: what it counts, and its clock.
struct Host {
    replay: Replay,
    time: u64,
}

impl Host {
    fn new() -> Self {
        Self { replay: Replay::new(&[Service { address: None, port: SERVER.1 }]), time: 1 }
    }

    fn packet(&mut self, from: (IpAddr, u16), seq: u32, ack: u32, flags: u8, payload: &[u8]) {
        self.frame((from, SERVER), seq, ack, flags, payload);
    }

    fn reply(&mut self, to: (IpAddr, u16), seq: u32, ack: u32, flags: u8, payload: &[u8]) {
        self.frame((SERVER, to), seq, ack, flags, payload);
    }

    fn frame(
        &mut self,
        (source, destination): ((IpAddr, u16), (IpAddr, u16)),
        seq: u32,
        ack: u32,
        flags: u8,
        payload: &[u8],
    ) {
        let tcp = Tcp { source, destination, seq, flags, vlans: Vec::new(), payload: payload.to_vec() };
        let frame = tcp.acknowledging(ack);
        self.time += 1_000;
        self.replay.captured(&Captured { time: self.time, len: frame.len() as u32, bytes: &frame });
    }

    /// The handshake of `client`, whose first byte is number 100, as the server's is 200.
    fn connect(&mut self, client: (IpAddr, u16)) {
        self.packet(client, 99, 0, flags::SYN, b"");
        self.reply(client, 199, 100, flags::SYN | flags::ACK, b"");
        self.packet(client, 100, 200, flags::ACK, b"");
    }

    /// SYNs of as many addresses, and what the server says to them.
    fn flood(&mut self, syns: u32) {
        for n in 0..syns {
            let nobody = (IpAddr::from(Ipv4Addr::from_bits(0xc612_0000 + n)), 1024);
            self.packet(nobody, n, 0, flags::SYN, b"");
            self.reply(nobody, 500, n + 1, flags::SYN | flags::ACK, b"");
        }
    }

    fn clients(&self) -> usize {
        let mut clients = 0;
        self.replay.clients(|_, _| clients += 1);
        clients
    }

    fn count(&self, counter: Counter) -> u64 {
        self.replay.counters()[counter as usize]
    }

    /// Exchanges that have come out: bytes asked, bytes answered.
    fn exchanges(&self) -> Vec<(u64, u64)> {
        let bytes = |event: &ExchangeEvent| (event.request_bytes, event.answer_bytes);
        self.replay.drain().iter().map(bytes).collect()
    }
}

#[test]
fn a_flood_of_syns_displaces_nobody_who_is_there() {
    const SYNS: u32 = 50_000;
    let mut host = Host::new();
    host.connect(CLIENT);
    host.flood(SYNS);
    host.packet(CLIENT, 100, 200, flags::ACK, QUESTION);
    host.flood(SYNS);
    host.reply(CLIENT, 200, 127, flags::ACK, ANSWER);
    host.packet(CLIENT, 127, 219, flags::FIN | flags::ACK, b"");
    host.reply(CLIENT, 219, 128, flags::FIN | flags::ACK, b"");
    assert_eq!(host.exchanges(), [(27, 19)]);
    assert_eq!(host.clients(), 1);
    let client = host.replay.client(CLIENT.0).unwrap();
    let counts = (client.syns.get(), client.connections.get(), client.requests.get(), client.exchanges.get());
    assert_eq!(counts, (1, 1, 1, 1));
    assert_eq!(client.ingress_packets.get(), 4);
    assert_eq!(host.count(Counter::Syns), u64::from(2 * SYNS + 1), "a flood shows");
    assert!(host.count(Counter::NewcomerDisplaced) > u64::from(SYNS));
}

#[test]
fn who_does_not_read_the_server_is_no_client_and_has_no_exchange() {
    let mut host = Host::new();
    host.packet(CLIENT, 99, 0, flags::SYN, b"");
    host.reply(CLIENT, 199, 100, flags::SYN | flags::ACK, b"");
    // A guess, and what a server says to bytes that are out of its window.
    host.packet(CLIENT, 100, 777, flags::ACK, QUESTION);
    host.reply(CLIENT, 200, 100, flags::ACK, b"");
    host.packet(CLIENT, 127, 777, flags::ACK, QUESTION);
    host.reply(CLIENT, 777, 0, flags::RST, b"");
    assert_eq!((host.clients(), host.exchanges()), (0, Vec::new()));
    assert!(host.count(Counter::Unproven) > 0);
}

#[test]
fn a_client_is_told_what_it_did_before_it_was_known_to_be_there() {
    let mut host = Host::new();
    // The first SYN was answered too late.
    host.packet(CLIENT, 99, 0, flags::SYN, b"");
    host.connect(CLIENT);
    let client = host.replay.client(CLIENT.0).unwrap();
    assert_eq!((client.syns.get(), client.connections.get()), (2, 0));
    // A connection that was there before we were: what the server says tells.
    let other = (CLIENT.0, 40_001);
    host.packet(other, 5000, 9000, flags::ACK, QUESTION);
    host.reply(other, 9000, 5027, flags::ACK, ANSWER);
    host.packet(other, 5027, 9019, flags::FIN | flags::ACK, b"");
    let client = host.replay.client(CLIENT.0).unwrap();
    assert_eq!((client.syns.get(), client.connections.get(), client.requests.get()), (2, 1, 1));
    host.reply(other, 9019, 5028, flags::FIN | flags::ACK, b"");
    assert_eq!(host.exchanges(), [(27, 19)]);
}
