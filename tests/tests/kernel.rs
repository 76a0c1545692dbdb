//! The kernel programs and the native library: the same packets, the same answers. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
};

use hydrometer_agent::{
    identity::Proxies,
    replay::{Captured, Replay, pcap},
    traffic::Traffic,
};
use hydrometer_ebpf::{
    abi::{Address, Counter, Counters, ExchangeEvent, ip},
    client::Client,
    head::HeadEvent,
    hello::{HelloEvent, Tells},
    packet::{Direction, parse},
    tunnel::Tunnels,
};
use hydrometer_engine::{Ipv6Prefix, Service};
use hydrometer_tests::{
    frames::{HTTP2_PREFACE, Tcp, flags, http2_frame, segments, tls_record},
    programs::{Programs, bench, product},
    tunnels::{Outside, Tunnel},
};
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};

const XDP_PASS: u32 = 2;
const TC_ACT_UNSPEC: u32 = u32::MAX;
/// What fits one page under BPF_PROG_TEST_RUN, and on a wire.
const MSS: usize = 1448;
const PORTS: [u16; 5] = [8080, 8443, 8444, 8445, 9443];

/// Both sides of the comparison.
struct Both {
    kernel: Programs,
    native: Replay,
    time: u64,
}

/// What is compared: everything but times.
#[derive(Debug, PartialEq)]
struct Account {
    exchanges: Vec<ExchangeEvent>,
    hellos: Vec<(HelloEvent, Vec<u8>)>,
    heads: Vec<(HeadEvent, Vec<u8>)>,
    clients: BTreeMap<Address, Vec<u64>>,
    counters: Counters,
}

impl Both {
    fn new() -> Self {
        Self::of(Traffic::default())
    }

    fn of(traffic: Traffic) -> Self {
        let services = PORTS.map(|port| Service { address: None, port });
        let kernel = Programs::load_for(product(), &services, 1 << 24, &traffic).unwrap();
        Self { kernel, native: Replay::of(traffic, &services), time: 1 }
    }

    fn frame(&mut self, program: &str, frame: &[u8]) {
        let captured = Captured { time: 0, len: frame.len() as u32, bytes: frame };
        let watched = |port: u16| PORTS.contains(&u16::from_be(port));
        let leaves = parse(&captured, Direction::Egress, watched).is_ok();
        self.send(program, frame, if leaves { Direction::Egress } else { Direction::Ingress });
    }

    fn send(&mut self, program: &str, frame: &[u8], direction: Direction) {
        // Under BPF_PROG_TEST_RUN a frame has at least an Ethernet header.
        assert!(frame.len() >= 14);
        self.time += 1_000_000;
        let captured = Captured { time: self.time, len: frame.len() as u32, bytes: frame };
        if direction == Direction::Egress {
            let (verdict, _) = self.kernel.tc("hyd_egress", frame, 1).unwrap();
            assert_eq!(verdict, TC_ACT_UNSPEC);
        } else {
            let (verdict, _) = self.kernel.xdp(program, frame, 1).unwrap();
            assert_eq!(verdict, XDP_PASS);
        }
        self.native.packet(&captured, direction);
    }

    fn accounts(&mut self) -> (Account, Account) {
        let kernel = Account {
            exchanges: timeless(self.kernel.drain()),
            hellos: undated(self.kernel.hellos()),
            heads: undated_heads(self.kernel.heads()),
            clients: self
                .kernel
                .clients()
                .unwrap()
                .iter()
                .map(|(key, client)| (*key, counts(client)))
                .collect(),
            counters: self.kernel.counters().unwrap(),
        };
        let mut clients = BTreeMap::new();
        self.native.clients(|key, client| {
            clients.insert(key, counts(client));
        });
        let exchanges = timeless(self.native.drain());
        let hellos = undated(self.native.hellos());
        let heads = undated_heads(self.native.heads());
        (kernel, Account { exchanges, hellos, heads, clients, counters: self.native.counters() })
    }
}

/// Events with their times replaced by whether they happened.
fn timeless(events: Vec<ExchangeEvent>) -> Vec<ExchangeEvent> {
    let happened = |time: u64| u64::from(time != 0);
    events
        .into_iter()
        .map(|event| ExchangeEvent {
            flow_start: 0,
            start: happened(event.start),
            request_end: happened(event.request_end),
            first: happened(event.first),
            second: happened(event.second),
            last: happened(event.last),
            ..event
        })
        .collect()
}

/// What proxies said, without the time of its flow.
fn undated_heads(heads: Vec<(HeadEvent, Vec<u8>)>) -> Vec<(HeadEvent, Vec<u8>)> {
    heads.into_iter().map(|(event, bytes)| (HeadEvent { flow_start: 0, ..event }, bytes)).collect()
}

/// Begins of connections without the time of their flow, and without that of round trips.
fn undated(hellos: Vec<(HelloEvent, Vec<u8>)>) -> Vec<(HelloEvent, Vec<u8>)> {
    let undated = |event: HelloEvent| {
        let position = if event.tells() == Tells::Bytes { event.position } else { 0 };
        HelloEvent { flow_start: 0, position, ..event }
    };
    hellos.into_iter().map(|(event, bytes)| (undated(event), bytes)).collect()
}

/// A client's counters.
fn counts(client: &Client) -> Vec<u64> {
    vec![
        client.ingress_packets.get(),
        client.ingress_bytes.get(),
        client.egress_packets.get(),
        client.egress_bytes.get(),
        client.syns.get(),
        client.connections.get(),
        client.requests.get(),
        client.exchanges.get(),
        client.request_bytes.get(),
        client.answer_bytes.get(),
    ]
}

fn captures() -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcaps");
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pcap"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn captures_give_the_same_in_the_kernel_and_natively() {
    let (mut exchanges, mut hellos) = (0, 0);
    for (odd, program) in ["hyd_ingress", "hyd_frags"].into_iter().enumerate() {
        let mut both = Both::new();
        for path in captures().iter().skip(odd).step_by(2) {
            let mut frames = Vec::new();
            pcap::read(path, |packet| frames.push(packet.bytes.to_vec())).unwrap();
            for frame in frames.iter().flat_map(|frame| segments(frame, MSS)) {
                both.frame(program, &frame);
            }
            let (kernel, native) = both.accounts();
            exchanges += native.exchanges.len();
            hellos += native.hellos.len();
            assert_eq!(kernel, native, "{}", path.display());
        }
    }
    // The comparison is of something.
    assert!(exchanges > 500, "{exchanges}");
    assert!(hellos > 100, "{hellos}");
}

/// A segment with data for the service.
fn segment() -> Tcp {
    Tcp {
        source: ("10.0.0.9".parse().unwrap(), 40_000),
        destination: ("10.0.0.1".parse().unwrap(), 8443),
        seq: 1,
        flags: flags::ACK,
        vlans: Vec::new(),
        payload: vec![1; 100],
    }
}

#[test]
fn malformed_frames_pass_and_are_counted_by_reason() {
    let good = segment();
    let v6 = Tcp {
        source: ("2001:db8::9".parse().unwrap(), 40_000),
        destination: ("2001:db8::1".parse().unwrap(), 8443),
        ..good.clone()
    };
    let change = |frame: Vec<u8>, at: usize, value: u8| {
        let mut frame = frame;
        frame[at] = value;
        frame
    };
    let cases = [
        ("a frame that ends in the IP header", good.frame()[..20].to_vec(), Counter::FrameTruncated),
        ("an IP version of 5", change(good.frame(), 14, 0x55), Counter::IpMalformed),
        ("an IP header of 4 bytes", change(good.frame(), 14, 0x41), Counter::IpMalformed),
        ("an IP packet longer than its frame", change(good.frame(), 16, 0xff), Counter::IpMalformed),
        ("an IPv6 packet longer than its frame", change(v6.frame(), 18, 0xff), Counter::IpMalformed),
        ("a fragment", change(good.frame(), 20, 0x20), Counter::Fragment),
        ("a TCP header of 4 bytes", change(good.frame(), 46, 0x10), Counter::TcpMalformed),
        (
            "a TCP header longer than its packet",
            {
                let mut frame = Tcp { payload: Vec::new(), ..good.clone() }.frame();
                frame[46] = 0xf0;
                frame
            },
            Counter::TcpMalformed,
        ),
        ("three VLAN tags", Tcp { vlans: vec![1, 2, 3], ..good.clone() }.frame(), Counter::HeaderChain),
        (
            "an endless chain of IPv6 headers",
            {
                let mut frame = v6.frame();
                frame[20] = 0;
                frame.truncate(54);
                for _ in 0..8 {
                    frame.extend([0, 0, 0, 0, 0, 0, 0, 0]);
                }
                frame[18..20].copy_from_slice(&64_u16.to_be_bytes());
                frame
            },
            Counter::HeaderChain,
        ),
    ];
    for (what, frame, counter) in cases {
        let mut both = Both::new();
        both.frame("hyd_ingress", &frame);
        let (kernel, native) = both.accounts();
        assert_eq!(kernel, native, "{what}");
        assert_eq!(kernel.counters[counter as usize], 1, "{what}: {:?}", kernel.counters);
    }
}

#[test]
fn tagged_and_ipv6_requests_are_followed() {
    let pairs = [("10.0.0.9", "10.0.0.1", 0), ("10.0.0.9", "10.0.0.1", 2), ("2001:db8::9", "2001:db8::1", 1)];
    for (client, server, tags) in pairs {
        let mut both = Both::new();
        let client: (IpAddr, u16) = (client.parse().unwrap(), 40_000);
        let server: (IpAddr, u16) = (server.parse().unwrap(), 8443);
        let segment = |asks: bool, seq, flags, payload| {
            let (source, destination) = if asks { (client, server) } else { (server, client) };
            Tcp { source, destination, seq, flags, vlans: vec![7; tags], payload }.frame()
        };
        let sent = [
            segment(true, 99, flags::SYN, Vec::new()),
            segment(false, 199, flags::SYN | flags::ACK, Vec::new()),
            segment(true, 100, flags::ACK, b"GET /v1/models HTTP/1.1\r\n\r\n".to_vec()),
            segment(false, 200, flags::ACK, b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
            segment(false, 219, flags::FIN | flags::ACK, Vec::new()),
        ];
        for frame in sent {
            both.frame("hyd_ingress", &frame);
        }
        let (kernel, native) = both.accounts();
        assert_eq!(kernel, native);
        let [exchange] = kernel.exchanges[..] else { panic!("{:?}", kernel.exchanges) };
        assert_eq!((exchange.request_bytes, exchange.answer_bytes), (27, 19));
    }
}

#[test]
fn how_much_of_an_ipv6_address_is_a_client_is_a_setting() {
    let server: (IpAddr, u16) = ("2001:db8::1".parse().unwrap(), 8443);
    for (length, expected) in [
        (0, vec!["::"]),
        (48, vec!["2001:db8:1::", "2001:db8:2::"]),
        (64, vec!["2001:db8:1:2::", "2001:db8:1:3::", "2001:db8:2::"]),
        (128, vec!["2001:db8:1:2::1", "2001:db8:1:2::2", "2001:db8:1:3::1", "2001:db8:2::1"]),
    ] {
        let mut both =
            Both::of(Traffic { ipv6_prefix: Ipv6Prefix::new(length).unwrap(), ..Traffic::default() });
        for client in ["2001:db8:1:2::1", "2001:db8:1:2::2", "2001:db8:1:3::1", "2001:db8:2::1"] {
            let source: (IpAddr, u16) = (client.parse().unwrap(), 40_000);
            let payload = b"GET /v1/models HTTP/1.1\r\n\r\n".to_vec();
            for (asks, flags, payload) in
                [(true, flags::SYN, Vec::new()), (true, flags::ACK, payload), (false, flags::FIN, Vec::new())]
            {
                let (source, destination) = if asks { (source, server) } else { (server, source) };
                let frame = Tcp { source, destination, seq: 99, flags, vlans: Vec::new(), payload }.frame();
                both.frame("hyd_ingress", &frame);
            }
        }
        let (kernel, native) = both.accounts();
        assert_eq!(kernel, native, "/{length}");
        let clients: BTreeSet<_> = kernel.clients.keys().map(|&key| ip(key).to_string()).collect();
        assert_eq!(clients, expected.into_iter().map(str::to_owned).collect(), "/{length}");
    }
}

/// A capture of a few seconds, cut into frames that fit a wire with a tunnel's headers before them.
fn short_capture() -> Vec<Vec<u8>> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcaps/h1_tls12_nonstream_newconn.pcap");
    let mut frames = Vec::new();
    pcap::read(&path, |packet| frames.push(packet.bytes.to_vec())).unwrap();
    frames.iter().flat_map(|frame| segments(frame, MSS)).take(1000).collect()
}

#[test]
fn what_tunnels_hold_gives_the_same_in_the_kernel_and_natively_as_if_it_had_come_bare() {
    let frames = short_capture();
    let sizes = |account: &Account| {
        let of =
            |event: &ExchangeEvent| (event.request_bytes, event.answer_bytes, event.records, event.flags);
        account.exchanges.iter().map(of).collect::<Vec<_>>()
    };
    let mut both = Both::new();
    for frame in &frames {
        both.frame("hyd_ingress", frame);
    }
    let (_, bare) = both.accounts();
    assert!(bare.exchanges.len() > 5 && bare.hellos.len() > 5, "{bare:?}");
    let outsides = [Outside::V4, Outside::V6, Outside::TaggedV4];
    for (index, tunnel) in Tunnel::USUAL.into_iter().enumerate() {
        let (outside, program) = (outsides[index % 3], ["hyd_ingress", "hyd_frags"][index % 2]);
        for frame in &frames {
            let leaves = frame[34..36] == 8443_u16.to_be_bytes();
            let direction = if leaves { Direction::Egress } else { Direction::Ingress };
            // Another client, since the same connections again would be retransmissions.
            let mut frame = frame.clone();
            frame[if leaves { 33 } else { 29 }] = 100 + index as u8;
            both.send(program, &tunnel.wrap(&frame, outside), direction);
        }
        let (kernel, native) = both.accounts();
        assert_eq!(kernel, native, "{tunnel:?} in {outside:?}");
        assert_eq!(sizes(&native), sizes(&bare), "{tunnel:?} in {outside:?}");
        assert_eq!(native.hellos.len(), bare.hellos.len(), "{tunnel:?} in {outside:?}");
    }
}

#[test]
fn broken_tunnels_pass_and_are_counted_by_reason() {
    let frame = segment().frame();
    let vxlan = Tunnel::Vxlan(4789).wrap(&frame, Outside::V4);
    let gre = Tunnel::Gre { ethernet: false, checksum: false, key: false, sequence: false };
    let gre = gre.wrap(&frame, Outside::V4);
    let bridged = Tunnel::Gre { ethernet: true, checksum: false, key: true, sequence: false };
    let bridged = bridged.wrap(&frame, Outside::V4);
    let change = |frame: &[u8], at: usize, value: u8| {
        let mut frame = frame.to_vec();
        frame[at] = value;
        frame
    };
    let cases = [
        ("a tunnel in a tunnel", Tunnel::Ip.wrap(&vxlan, Outside::V6), Some(Counter::TunnelDepth)),
        ("a frame that ends in the tunnel's header", gre[..36].to_vec(), Some(Counter::FrameTruncated)),
        ("a frame that ends in the one inside", bridged[..50].to_vec(), Some(Counter::FrameTruncated)),
        ("a part of a tunnel's packet", change(&gre, 20, 0x20), Some(Counter::Fragment)),
        ("a part of a packet inside", change(&vxlan, 50 + 20, 0x20), Some(Counter::Fragment)),
        ("a packet inside that is cut", gre[..gre.len() - 1].to_vec(), Some(Counter::IpMalformed)),
        ("VXLAN without a network", change(&vxlan, 42, 0), None),
        ("GRE of another version", change(&gre, 35, 1), None),
        ("another port", Tunnel::Vxlan(4790).wrap(&frame, Outside::V4), None),
    ];
    let mut both = Both::new();
    let mut expected = Counters::default();
    for (what, frame, counter) in cases {
        both.send("hyd_ingress", &frame, Direction::Ingress);
        let (kernel, native) = both.accounts();
        assert_eq!(kernel, native, "{what}");
        if let Some(counter) = counter {
            expected[counter as usize] += 1;
        }
        assert_eq!(kernel.counters, expected, "{what}");
    }
}

#[test]
fn tunnels_of_absurd_headers_give_the_same_in_the_kernel_and_natively() {
    let frames = short_capture();
    let mut runner = TestRunner::deterministic();
    let rounds = if std::env::var_os("HYDROMETER_FULL").is_some() { 20_000 } else { 1_000 };
    let mut both = Both::new();
    let change =
        (0..Tunnel::USUAL.len(), 0..frames.len(), vec((12_usize..110, any::<u8>()), 1..4), 40_usize..400);
    for round in 0..rounds {
        let (tunnel, frame, changes, len) = change.new_tree(&mut runner).unwrap().current();
        let mut frame = Tunnel::USUAL[tunnel].wrap(&frames[frame], Outside::V4);
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(if round % 4 == 0 { len } else { frame.len() });
        let direction = if round % 2 == 0 { Direction::Ingress } else { Direction::Egress };
        both.send("hyd_ingress", &frame, direction);
    }
    let (kernel, native) = both.accounts();
    assert_eq!(kernel, native);
}

#[test]
fn tunnels_are_opened_only_where_that_is_asked_for() {
    let frames = short_capture();
    let mut both = Both::of(Traffic { tunnels: Tunnels::default(), ..Traffic::default() });
    for (frame, tunnel) in frames.iter().zip(Tunnel::USUAL.into_iter().cycle()) {
        both.send("hyd_ingress", &tunnel.wrap(frame, Outside::V4), Direction::Ingress);
    }
    let (kernel, native) = both.accounts();
    assert_eq!(kernel, native);
    assert_eq!(kernel.counters, Counters::default());
}

#[test]
fn a_full_ring_loses_detail_and_no_counts() {
    const EXCHANGES: u16 = 100;
    let services = [Service { address: None, port: 8443 }];
    let mut programs = Programs::load_with_ring(product(), &services, 4096).unwrap();
    let server: (IpAddr, u16) = ("10.0.0.1".parse().unwrap(), 8443);
    for port in 0..EXCHANGES {
        let client: (IpAddr, u16) = ("10.0.0.9".parse().unwrap(), 20_000 + port);
        let segment = |asks: bool, seq, flags, payload: &[u8]| {
            let (source, destination) = if asks { (client, server) } else { (server, client) };
            Tcp { source, destination, seq, flags, vlans: Vec::new(), payload: payload.to_vec() }.frame()
        };
        programs.xdp("hyd_ingress", &segment(true, 99, flags::SYN, b""), 1).unwrap();
        let asked = segment(true, 100, flags::ACK, b"GET /v1/models HTTP/1.1\r\n\r\n");
        programs.xdp("hyd_ingress", &asked, 1).unwrap();
        // Every other one is never answered.
        if port % 2 == 0 {
            programs
                .tc("hyd_egress", &segment(false, 200, flags::ACK, b"HTTP/1.1 200 OK\r\n\r\n"), 1)
                .unwrap();
        }
        programs.tc("hyd_egress", &segment(false, 219, flags::FIN | flags::ACK, b""), 1).unwrap();
    }
    let lost = programs.counters().unwrap()[Counter::RingFull as usize];
    let kept = programs.drain().len() as u64;
    assert!(lost > 0 && kept > 0);
    assert_eq!(lost + kept, u64::from(EXCHANGES));
    let clients = programs.clients().unwrap();
    let [(_, client)] = &clients[..] else { panic!("{} clients", clients.len()) };
    let counted = (client.exchanges.get(), client.request_bytes.get(), client.answer_bytes.get());
    assert_eq!(counted, (100, 100 * 27, 50 * 19));
}

#[test]
fn a_full_ring_for_hellos_is_counted() {
    const CONNECTIONS: u32 = 2000;
    let mut programs = Programs::load(product(), &[Service { address: None, port: 8443 }]).unwrap();
    for connection in 0..CONNECTIONS {
        let client: (IpAddr, u16) = ("10.0.0.9".parse().unwrap(), 20_000 + connection as u16);
        let server: (IpAddr, u16) = ("10.0.0.1".parse().unwrap(), 8443);
        let frame = |(source, destination), seq, ack, flags, payload| {
            Tcp { source, destination, seq, flags, vlans: Vec::new(), payload }.acknowledging(ack)
        };
        let accept = flags::SYN | flags::ACK;
        programs.xdp("hyd_ingress", &frame((client, server), 99, 0, flags::SYN, Vec::new()), 1).unwrap();
        programs.tc("hyd_egress", &frame((server, client), 199, 100, accept, Vec::new()), 1).unwrap();
        let hello = frame((client, server), 100, 200, flags::ACK, handshake_record(1000));
        programs.xdp("hyd_ingress", &hello, 1).unwrap();
    }
    let lost = programs.counters().unwrap()[Counter::HelloRingFull as usize];
    let kept = programs.hellos().len() as u64;
    assert!(lost > 0 && kept > 0);
    // The ClientHello also completes the TCP handshake, of which an event tells how long it took.
    assert_eq!(lost + kept, 2 * u64::from(CONNECTIONS));
}

/// Ingress and egress of the same flows run at the same time on different cores; what each counts must be
/// what it was given, and the exchange that comes out must hold all of it.
#[test]
fn both_directions_at_once_lose_and_mix_nothing() {
    const CONTENT: u32 = 400;
    let rounds = if std::env::var_os("HYDROMETER_FULL").is_some() { 400 } else { 20 };
    let segments = 20_000_u32;
    let services = [Service { address: None, port: 8443 }];
    let mut programs = Programs::load(bench(), &services).unwrap();
    let frame = |asks: bool, port: u16, flags: u8, payload: Vec<u8>| {
        let client: (IpAddr, u16) = ("10.0.0.9".parse().unwrap(), port);
        let server: (IpAddr, u16) = ("10.0.0.1".parse().unwrap(), 8443);
        let (source, destination) = if asks { (client, server) } else { (server, client) };
        Tcp { source, destination, seq: 1000, flags, vlans: Vec::new(), payload }.frame()
    };
    let record = tls_record(CONTENT as usize);
    for round in 0..rounds {
        let port = 20_000 + round;
        // The turn begins, so that both directions have one to add to.
        programs
            .xdp("ingress_next", &frame(true, port, flags::ACK, tls_record(CONTENT as usize)), 1)
            .unwrap();
        // What is asked goes on from there; what is answered begins.
        let mut asked = frame(true, port, flags::ACK, record.clone());
        asked[38..42].copy_from_slice(&(1000 + record.len() as u32).to_be_bytes());
        let answered = frame(false, port, flags::ACK, record.clone());
        let (ingress, egress) = programs.pair("ingress_next", "egress_next").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| ingress.run(&asked, segments).unwrap());
            scope.spawn(|| egress.run(&answered, segments).unwrap());
        });
        programs.drain();
        programs.tc("egress_next", &frame(false, port, flags::FIN, Vec::new()), 1).unwrap();
    }
    let clients = programs.clients().unwrap();
    let [(_, client)] = &clients[..] else { panic!("{} clients", clients.len()) };
    let (rounds, segments) = (u64::from(rounds), u64::from(segments));
    // Packets are told sixteen at a time.
    for (sent, counted) in [(segments + 1, &client.ingress_packets), (segments + 1, &client.egress_packets)] {
        let untold = rounds * sent - counted.get();
        assert!(untold < rounds * 16, "{untold}");
    }
    // Every application byte is in some exchange: the client's first record after an answer begins another.
    assert_eq!(client.request_bytes.get(), rounds * (segments + 1) * u64::from(CONTENT));
    assert_eq!(client.exchanges.get(), client.requests.get());
    assert_eq!(programs.counters().unwrap()[Counter::Desync as usize], 0);
    // A client that asks on while its answer runs ends a turn that egress is still adding to: what egress adds
    // between the two is in neither. Both happen within a packet's time.
    let answered = client.answer_bytes.get();
    let missing = rounds * segments * u64::from(CONTENT) - answered;
    assert!(missing <= client.exchanges.get() * 4 * u64::from(CONTENT), "{missing} bytes of {answered}");
    println!("{} exchanges, {missing} bytes of {answered} in none", client.exchanges.get());
}

/// A record of a handshake, of a type that nobody has given a meaning.
fn handshake_record(content: usize) -> Vec<u8> {
    let mut record = tls_record(content);
    record[0] = 22;
    record
}

/// Requests of HTTP/1 one behind the other, the last cut off somewhere, or the first.
fn http1_requests() -> impl Strategy<Value = Vec<u8>> {
    let request = (0_usize..120, 0_usize..120).prop_map(|(announced, sent)| {
        let head = format!("POST /v1/chat HTTP/1.1\r\nHost: a\r\nContent-Length: {announced}\r\n\r\n");
        [head.into_bytes(), vec![b'x'; sent]].concat()
    });
    let exact = (0_usize..120).prop_map(|body| {
        [format!("PUT /a HTTP/1.1\r\ncontent-length:{body}\r\n\r\n").into_bytes(), vec![b'y'; body]].concat()
    });
    let requests = vec(prop_oneof![1 => request, 3 => exact], 1..5).prop_map(|requests| requests.concat());
    (requests, 0_usize..400, any::<bool>()).prop_map(|(requests, cut, begin)| {
        let cut = cut.min(requests.len());
        if begin { requests[..cut].to_vec() } else { requests[requests.len() - cut..].to_vec() }
    })
}

/// What the segments of an absurd conversation hold: TLS, HTTP/1, or noise.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        (1_usize..1300).prop_map(tls_record),
        (1_usize..1300).prop_map(handshake_record),
        ((1_usize..200), (1_usize..200)).prop_map(|(a, b)| [tls_record(a), tls_record(b)].concat()),
        (2_usize..300).prop_map(|cut| tls_record(300)[..cut].to_vec()),
        (0_usize..300).prop_map(|cut| tls_record(300)[cut..].to_vec()),
        Just(b"POST /v1/chat/completions HTTP/1.1\r\n\r\n".to_vec()),
        Just(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
        Just(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
        vec(any::<u8>(), 1..80),
    ]
}

/// The same of HTTP/2: frames, whole ones mostly, of a few streams.
fn http2_payload() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![Just(0_u8), Just(1), Just(4), Just(5), Just(0x24), any::<u8>()];
    let content = prop_oneof![Just(0_usize), Just(4), 1_usize..300];
    let kind = prop_oneof![4 => Just(1_u8), 4 => Just(0), 3 => 0_u8..11];
    let stream = prop_oneof![6 => (0_u32..8).prop_map(|n| 2 * n + 1), 1 => 0_u32..12];
    let frame = (kind, flags, stream, content).prop_map(|(kind, flags, stream, content)| {
        let content = [content, content, 5, 4, 6, 4, 8, 8, 4, content, content][usize::from(kind)];
        http2_frame(kind, flags, if matches!(kind, 4 | 6 | 7) { 0 } else { stream }, content)
    });
    let frames = vec(frame, 0..5).prop_map(|frames| frames.concat());
    prop_oneof![
        1 => Just([HTTP2_PREFACE, &http2_frame(4, 0, 0, 18)].concat()),
        12 => frames.clone(),
        2 => (frames.clone(), 0_usize..20).prop_map(|(frames, cut)| frames[..frames.len().min(cut)].to_vec()),
        2 => (frames, 0_usize..20).prop_map(|(frames, cut)| frames[frames.len().min(cut)..].to_vec()),
        1 => vec(any::<u8>(), 1..80),
    ]
}

/// A conversation nobody would have: segments in any order, with any flags, of any content. The client begins each
/// connection with `greeting`, where that is not empty.
fn conversation(
    greeting: &'static [u8],
    payload: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let flags = prop_oneof![
        12 => Just(flags::ACK),
        1 => Just(flags::SYN),
        1 => Just(flags::SYN | flags::ACK),
        1 => Just(flags::FIN | flags::ACK),
        1 => Just(flags::RST),
    ];
    // Sequence numbers follow on, mostly; sometimes they repeat, or leave a gap.
    let step = prop_oneof![12 => Just(0_i32), 1 => -400..0, 1 => 1..400];
    let cut = prop_oneof![20 => Just(None), 1 => (14_usize..90).prop_map(Some)];
    let one = (any::<bool>(), 0_u16..3, flags, payload, step, cut, 0_usize..3);
    vec(one, 1..60).prop_map(|segments| {
        let mut next = BTreeMap::new();
        let begin = |port| (true, port, flags::ACK, greeting.to_vec(), 0, None, 0);
        let begins = (0..3).map(begin).filter(|_| !greeting.is_empty());
        begins
            .chain(segments)
            .map(|(asks, port, flags, payload, step, cut, vlans)| {
                let client = ("10.0.0.9".parse().unwrap(), 40_000 + port);
                let server = ("10.0.0.1".parse().unwrap(), 8443);
                let (source, destination) = if asks { (client, server) } else { (server, client) };
                let seq: &mut u32 = next.entry((asks, port)).or_insert(u32::MAX - 500);
                *seq = seq.wrapping_add_signed(step);
                let this = *seq;
                *seq = seq.wrapping_add(payload.len() as u32 + u32::from(flags & flags::SYN != 0));
                let seen = next.get(&(!asks, port)).copied().unwrap_or(u32::MAX - 500);
                let tcp = Tcp { source, destination, seq: this, flags, vlans: vec![1; vlans], payload };
                let mut frame = tcp.acknowledging(seen);
                frame.truncate(cut.unwrap_or(frame.len()));
                frame
            })
            .collect()
    })
}

#[test]
fn absurd_conversations_give_the_same_in_the_kernel_and_natively() {
    let (cases, exchanges, hellos) = differ(&conversation(&[], payload()));
    assert!(exchanges > cases / 2 && hellos > cases / 2, "{exchanges}, {hellos}");
}

#[test]
fn absurd_pipelines_give_the_same_in_the_kernel_and_natively() {
    let payload = prop_oneof![
        6 => http1_requests(),
        3 => Just(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
        1 => payload(),
    ];
    let (cases, exchanges, _) = differ(&conversation(b"GET /v1/models HTTP/1.1\r\n\r\n", payload));
    assert!(exchanges > cases, "{exchanges}");
}

#[test]
fn absurd_http2_conversations_give_the_same_in_the_kernel_and_natively() {
    let (cases, exchanges, _) = differ(&conversation(HTTP2_PREFACE, http2_payload()));
    assert!(exchanges > cases / 2, "{exchanges}");
}

/// Traffic behind proxies wherever clients are in these tests.
fn behind_proxies() -> Traffic {
    let trusted = vec!["10.0.0.0/24".parse().unwrap()];
    Traffic { proxies: Proxies { trusted, ..Proxies::default() }, ..Traffic::default() }
}

/// What begins with a PROXY header, or nearly so.
fn proxied_payload() -> impl Strategy<Value = Vec<u8>> {
    let line = b"PROXY TCP4 203.0.113.7 10.0.0.1 53000 8443\r\n";
    let binary = || vec(any::<u8>(), 12..40).prop_map(|body| proxy_2(&body));
    let request = b"POST /v1/chat/completions HTTP/1.1\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n{}";
    prop_oneof![
        2 => Just(line.to_vec()),
        2 => binary(),
        2 => (1_usize..44).prop_map(|cut| line[..cut].to_vec()),
        2 => (1_usize..28, binary()).prop_map(|(cut, binary)| binary[..cut].to_vec()),
        1 => (1_usize..28, binary()).prop_map(|(cut, binary)| binary[cut..].to_vec()),
        1 => binary().prop_map(|binary| [binary, handshake_record(300)].concat()),
        2 => Just([&line[..], request].concat()),
        3 => Just(request.to_vec()),
        2 => (1_usize..80).prop_map(|cut| request[..cut.min(request.len())].to_vec()),
        2 => (1_usize..70).prop_map(|cut| request[cut..].to_vec()),
        6 => payload(),
    ]
}

/// A PROXY header of version 2 with this behind its fixed part.
fn proxy_2(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &length[..], body].concat()
}

#[test]
fn what_proxies_say_is_the_same_in_the_kernel_and_natively() {
    let conversations = conversation(&[], proxied_payload()).prop_map(|mut frames| {
        // Connections whose begin is seen.
        for (port, asks) in [(0, true), (1, true), (2, true)] {
            let client: (IpAddr, u16) = ("10.0.0.9".parse().unwrap(), 40_000 + port);
            let server: (IpAddr, u16) = ("10.0.0.1".parse().unwrap(), 8443);
            let (source, destination) = if asks { (client, server) } else { (server, client) };
            let seq = u32::MAX - 501;
            let syn =
                Tcp { source, destination, seq, flags: flags::SYN, vlans: Vec::new(), payload: Vec::new() };
            frames.insert(0, syn.frame());
        }
        frames
    });
    let mut heads = 0;
    let (cases, exchanges, _) = differ_in(&behind_proxies(), &conversations, &mut heads);
    assert!(exchanges > cases / 2 && heads > cases / 2, "{exchanges}, {heads}");
}

#[test]
fn nobody_but_a_trusted_proxy_is_listened_to() {
    let mut both = Both::of(behind_proxies());
    for (client, listened) in [("10.0.1.9", false), ("2001:db8::9", false), ("10.0.0.9", true)] {
        let source: (IpAddr, u16) = (client.parse().unwrap(), 40_000);
        let server = if client.contains(':') { "2001:db8::1" } else { "10.0.0.1" };
        let destination: (IpAddr, u16) = (server.parse().unwrap(), 8443);
        let request = b"GET / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\nAuthorization: Bearer k\r\n\r\n";
        for (seq, flags, payload) in [(99, flags::SYN, &b""[..]), (100, flags::ACK, request)] {
            let frame = Tcp { source, destination, seq, flags, vlans: Vec::new(), payload: payload.to_vec() };
            both.frame("hyd_ingress", &frame.frame());
        }
        let (kernel, native) = both.accounts();
        assert_eq!(kernel, native, "{client}");
        let said: Vec<_> = kernel.heads.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        assert_eq!(said, if listened { vec![&request[..]] } else { vec![] }, "{client}");
    }
}

#[test]
fn no_byte_of_a_body_leaves_with_a_head() {
    let mut both = Both::of(behind_proxies());
    let head =
        b"POST /v1/chat/completions HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\nContent-Length: 3000\r\n\r\n";
    let message = [&head[..], &[b'p'; 3000]].concat();
    let (mut seq, mut port) = (100_u32, 40_000);
    // Cut everywhere, also within the empty line; `P` alone may be the begin of a PROXY header.
    for cut in 2..message.len().min(150) {
        port += 1;
        seq = seq.wrapping_add(7919);
        let source: (IpAddr, u16) = ("10.0.0.9".parse().unwrap(), port);
        let destination: (IpAddr, u16) = ("10.0.0.1".parse().unwrap(), 8443);
        let mut send = |seq: u32, flags, payload: &[u8]| {
            let frame = Tcp { source, destination, seq, flags, vlans: Vec::new(), payload: payload.to_vec() };
            both.frame("hyd_ingress", &frame.frame());
        };
        send(seq.wrapping_sub(1), flags::SYN, b"");
        send(seq, flags::ACK, &message[..cut]);
        for (index, piece) in message[cut..].chunks(MSS).enumerate() {
            send(seq.wrapping_add((cut + index * MSS) as u32), flags::ACK, piece);
        }
        let (kernel, native) = both.accounts();
        assert_eq!(kernel, native, "cut at {cut}");
        let said: Vec<u8> = kernel.heads.into_iter().flat_map(|(_, bytes)| bytes).collect();
        // So short a begin is not recognised as a request: then nothing is handed out at all.
        assert!(said == head || cut < 8 && said.is_empty(), "cut at {cut}: {}", said.escape_ascii());
    }
}

/// Plays conversations to both and compares; returns how many, and what was in them: exchanges, ClientHellos.
fn differ(conversations: &impl Strategy<Value = Vec<Vec<u8>>>) -> (usize, usize, usize) {
    differ_in(&Traffic::default(), conversations, &mut 0)
}

/// Likewise in such traffic, and adds up what proxies said.
fn differ_in(
    traffic: &Traffic,
    conversations: &impl Strategy<Value = Vec<Vec<u8>>>,
    heads: &mut usize,
) -> (usize, usize, usize) {
    let cases = if std::env::var_os("HYDROMETER_FULL").is_some() { 5_000 } else { 100 };
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let (mut exchanges, mut hellos) = (0, 0);
    let mut both = Both::of(traffic.clone());
    for case in 0..cases {
        if case % 100 == 99 {
            both = Both::of(traffic.clone());
        }
        let frames = conversations.new_tree(&mut runner).unwrap().current();
        for frame in &frames {
            both.frame("hyd_ingress", frame);
        }
        let (kernel, native) = both.accounts();
        exchanges += native.exchanges.len();
        hellos += native.hellos.len();
        *heads += native.heads.len();
        assert_eq!(kernel, native, "case {case}: {frames:02x?}");
    }
    (cases, exchanges, hellos)
}
