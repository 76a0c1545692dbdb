//! Captures of every kind through `hydrometer replay` and the library under it: whatever a capture's form, the
//! same packets give the same exchanges.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use hydrometer_agent::replay::{
    Captured, Replay,
    pcap::{self, Capture, Contents, Error},
};
use hydrometer_ebpf::abi::ExchangeEvent;
use hydrometer_engine::Service;
use hydrometer_tests::{
    binary,
    capture::{Frame, Interface, Order, Packet, body, link, pcap as classic, section},
    frames::{Tcp, flags},
    process::fed,
};

const SERVICES: &str = "8080,8443";
const WHOLE: usize = 1 << 18;
/// In `if_tsresol`: the rest is a power of two.
const BINARY: u8 = 0x80;

fn given() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcaps/h1_tls13_loss2pct_stream.pcap")
}

/// The frames of a capture of real traffic.
fn frames() -> Vec<Frame> {
    let mut frames = Vec::new();
    pcap::read(&given(), |frame| frames.push(Frame { time: frame.time, bytes: frame.bytes.to_vec() }))
        .unwrap();
    assert!(frames.len() > 1000);
    frames
}

/// A segment between a client and the service at port 8080, and what its sender has seen of the other side.
fn segment(
    client: (IpAddr, u16),
    server: IpAddr,
    asks: bool,
    (seq, ack): (u32, u32),
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let server = (server, 8080);
    let (source, destination) = if asks { (client, server) } else { (server, client) };
    Tcp { source, destination, seq, flags, vlans: Vec::new(), payload: payload.to_vec() }.acknowledging(ack)
}

/// Two requests over IPv4, and two over IPv6.
fn both_families() -> Vec<Frame> {
    const SYN_ACK: u8 = flags::SYN | flags::ACK;
    let mut frames = Vec::new();
    for (client, server) in [("10.0.0.9", "10.0.0.1"), ("fd00::9", "fd00::1")] {
        let (client, server) = ((client.parse().unwrap(), 40_000), server.parse().unwrap());
        for (asks, seqs, flags, payload) in [
            (true, (1, 0), flags::SYN, &b""[..]),
            (false, (500, 2), SYN_ACK, b""),
            (true, (2, 501), flags::ACK, b""),
            (true, (2, 501), flags::ACK, b"GET / HTTP/1.1\r\n\r\n"),
            (true, (20, 501), flags::ACK, b"GET /again HTTP/1.1\r\n\r\n"),
        ] {
            let time = 1_700_000_000_000_000_000 + frames.len() as u64 * 1_000_000;
            frames.push(Frame { time, bytes: segment(client, server, asks, seqs, flags, payload) });
        }
    }
    frames
}

/// A pipe that gives a few bytes at a time.
struct Drops<'a>(&'a [u8]);

impl Read for Drops<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let some = buffer.len().min(13);
        self.0.read(&mut buffer[..some])
    }
}

/// The exchanges of a capture, how reading it ended, and what was read.
fn replayed(capture: impl Read) -> (Vec<ExchangeEvent>, Result<(), Error>, Contents) {
    let services = [8080, 8443].map(|port| Service { address: None, port });
    let mut replay = Replay::new(&services);
    let mut capture = match Capture::new(capture) {
        Ok(capture) => capture,
        Err(error) => return (Vec::new(), Err(error), Contents::default()),
    };
    let end = loop {
        match capture.next() {
            Ok(Some(frame)) => replay.captured(&frame),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let mut events = replay.drain();
    events.extend(replay.flush());
    (events, end, capture.contents())
}

/// What a capture of these bytes gives must be what `expected` is.
fn demand(expected: &[ExchangeEvent], capture: &[u8], form: &str) {
    let (events, end, contents) = replayed(Drops(capture));
    assert!(end.is_ok(), "{form}: {end:?}");
    assert_eq!(events, expected, "{form}");
    assert_eq!((contents.shortened, contents.unread), (0, 0), "{form}");
}

const LINKS: [u16; 6] = [link::ETHERNET, link::NULL, link::LOOP, link::RAW, link::SLL, link::SLL2];

#[test]
fn pcap_of_either_byte_order_each_link_type_and_either_resolution_gives_the_same_exchanges() {
    for frames in [frames(), both_families()] {
        let (expected, ..) = replayed(&classic(Order::Little, true, link::ETHERNET, WHOLE, &frames)[..]);
        assert!(expected.len() >= 4);
        for order in Order::BOTH {
            for nanos in [false, true] {
                for link in LINKS {
                    let capture = classic(order, nanos, link, WHOLE, &frames);
                    demand(&expected, &capture, &format!("{order:?}, nanoseconds {nanos}, link type {link}"));
                }
            }
        }
    }
}

#[test]
fn pcapng_of_either_byte_order_each_link_type_and_any_resolution_gives_the_same_exchanges() {
    for frames in [frames(), both_families()] {
        let (expected, ..) = replayed(&classic(Order::Little, true, link::ETHERNET, WHOLE, &frames)[..]);
        for order in Order::BOTH {
            for (resolution, offset) in
                [(None, 0), (Some(6), 1_000_000_000), (Some(9), 0), (Some(10), -5), (Some(BINARY + 30), 3600)]
            {
                for link in LINKS {
                    for packet in [Packet::Enhanced, Packet::Obsolete] {
                        let interface = Interface { link, resolution, offset };
                        let capture = section(order, &[interface], packet, &frames);
                        demand(&expected, &capture, &format!("{order:?}, {interface:?}, {packet:?}"));
                    }
                }
            }
        }
    }
}

#[test]
fn interfaces_and_sections_of_different_kinds_in_one_pcapng_give_the_same_exchanges() {
    let frames = frames();
    let (expected, ..) = replayed(&classic(Order::Little, true, link::ETHERNET, WHOLE, &frames)[..]);
    let interfaces =
        [(link::SLL2, None, 0), (link::ETHERNET, Some(9), 7), (link::IPV4, Some(BINARY + 31), 0)]
            .map(|(link, resolution, offset)| Interface { link, resolution, offset });
    let (first, second) = frames.split_at(frames.len() / 3);
    let mut capture = section(Order::Big, &interfaces, Packet::Enhanced, first);
    capture.extend(section(Order::Little, &interfaces[1..], Packet::Obsolete, second));
    demand(&expected, &capture, "two sections");
}

#[test]
fn tagged_frames_give_the_same_exchanges() {
    let frames = frames();
    let (expected, ..) = replayed(&classic(Order::Little, true, link::ETHERNET, WHOLE, &frames)[..]);
    for tags in [&[0x81, 0, 0, 7][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8]] {
        let tagged: Vec<_> = frames
            .iter()
            .map(|Frame { time, bytes }| Frame {
                time: *time,
                bytes: [&bytes[..12], tags, &bytes[12..]].concat(),
            })
            .collect();
        for link in [link::ETHERNET, link::SLL, link::SLL2] {
            let capture = classic(Order::Little, true, link, WHOLE, &tagged);
            demand(&expected, &capture, &format!("tags {tags:02x?}, link type {link}"));
        }
    }
}

#[test]
fn frames_without_a_time_have_their_requests_all_the_same() {
    let interface = Interface { link: link::ETHERNET, resolution: None, offset: 0 };
    let capture = section(Order::Little, &[interface], Packet::Simple, &both_families());
    let (events, end, _) = replayed(&capture[..]);
    assert!(end.is_ok());
    assert_eq!(events.len(), 4);
}

#[test]
fn a_capture_that_is_cut_off_gives_what_came_before_and_says_where() {
    let frames = both_families();
    let interface = Interface { link: link::ETHERNET, resolution: None, offset: 0 };
    let captures = [
        (24, classic(Order::Big, false, link::ETHERNET, WHOLE, &frames)),
        (80, section(Order::Big, &[interface], Packet::Enhanced, &frames)),
    ];
    for (first, capture) in captures {
        let mut begins = Vec::new();
        let mut reader = Capture::new(&capture[..]).unwrap();
        while reader.next().unwrap().is_some() {
            begins.push(reader.offset());
        }
        assert_eq!(begins.len(), frames.len());
        for cut in first..capture.len() {
            let (_, end, contents) = replayed(&capture[..cut]);
            let before = begins.iter().filter(|&&begin| begin <= cut as u64).count();
            assert_eq!(contents.frames, before as u64, "cut at {cut}");
            match end {
                Ok(()) => {
                    assert!(begins.contains(&(cut as u64)) || cut <= begins[0] as usize, "cut at {cut}");
                }
                Err(Error::CutOff { offset }) => {
                    assert!(
                        offset < cut as u64 && (before == 0 || offset == begins[before - 1]),
                        "cut at {cut}"
                    );
                }
                Err(error) => panic!("cut at {cut}: {error}"),
            }
        }
    }
}

#[test]
fn damage_is_named_with_its_place() {
    let frames = both_families();
    let classic = classic(Order::Little, false, link::ETHERNET, WHOLE, &frames);
    let interface = Interface { link: link::ETHERNET, resolution: Some(6), offset: 0 };
    let ng = section(Order::Little, &[interface], Packet::Enhanced, &frames);
    let interface_at = body(&ng, Order::Little, 0).end + 4;
    let statistics_at = body(&ng, Order::Little, interface_at).end + 4;
    let packet_at = body(&ng, Order::Little, statistics_at).end + 4;
    let cases = [
        (&classic, 24 + 11, 0x7f, 24, "a frame of over 16 MiB"),
        (&ng, packet_at + 4, 0x01, packet_at, "an impossible block length"),
        (&ng, packet_at + 7, 0x7f, packet_at, "a block of over 16 MiB"),
        (&ng, body(&ng, Order::Little, packet_at).end, 0, packet_at, "a block whose two lengths differ"),
        (&ng, packet_at + 8, 9, packet_at, "a packet of an interface that is not described"),
        (&ng, packet_at + 21, 9, packet_at, "a packet block that is too short"),
        // Behind the fixed fields come an option of 3 bytes, then the resolution.
        (&ng, interface_at + 28, 0x7f, interface_at, "a time resolution that fits no stamp"),
        (&ng, interface_at + 19, 0x7f, interface_at, "an option that is longer than its block"),
        (&ng, 8, 0, 0, "a section without a byte order"),
    ];
    for (good, at, byte, place, reason) in cases {
        let mut bad = good.clone();
        bad[at] = byte;
        let (_, end, _) = replayed(&bad[..]);
        let said = end.unwrap_err().to_string();
        assert!(said.starts_with(&format!("damaged at byte {place}: {reason}; ")), "{said}");
    }
    for nothing in [&b""[..], b"\xa1\xb2", b"#!/bin/sh\necho this is not a capture\n"] {
        assert!(matches!(replayed(nothing).1, Err(Error::NotACapture)));
    }
    let foreign = hydrometer_tests::capture::pcap(Order::Little, false, 127, WHOLE, &frames);
    assert!(matches!(replayed(&foreign[..]).1, Err(Error::LinkType(127))));
}

#[test]
fn frames_of_an_interface_that_is_not_read_are_counted_and_the_others_are_read() {
    let frames = frames();
    let interfaces = [link::ETHERNET, 127].map(|link| Interface { link, resolution: Some(9), offset: 0 });
    let (events, end, contents) =
        replayed(&section(Order::Little, &interfaces, Packet::Enhanced, &frames)[..]);
    assert!(end.is_ok() && !events.is_empty());
    assert_eq!(
        (contents.frames, contents.unread),
        (frames.len().div_ceil(2) as u64, frames.len() as u64 / 2)
    );
}

#[test]
fn no_exchange_is_lost_when_flows_have_to_make_room() {
    const FLOWS: usize = 300_000;
    let mut replay = Replay::new(&[Service { address: None, port: 8080 }]);
    let mut events = 0;
    for flow in 0..FLOWS {
        let client = Ipv4Addr::from_bits(0x0a00_0000 | (flow as u32 >> 4));
        let client = (client.into(), 40_000 + (flow as u16 & 15));
        let server = Ipv4Addr::new(192, 0, 2, 1).into();
        for (asks, payload) in [(true, &b"GET / HTTP/1.1\r\n\r\n"[..]), (false, b"HTTP/1.1 200 OK\r\n\r\n")] {
            let bytes = segment(client, server, asks, (1, 1), flags::ACK, payload);
            replay.captured(&Captured { time: flow as u64 + 1, len: bytes.len() as u32, bytes: &bytes });
        }
        events += replay.drain().len();
    }
    assert!(events > 0, "nothing had to make room");
    assert_eq!(events + replay.flush().len(), FLOWS);
}

fn run(arguments: &[&str], input: Option<&[u8]>) -> Output {
    let mut command = Command::new(binary::path("hydrometer").unwrap());
    command.args(arguments).args(["--service", SERVICES]);
    fed(&mut command, input.unwrap_or_default()).unwrap()
}

#[test]
fn a_pipe_gives_what_the_file_gives_and_pipes_see_no_progress() {
    let path = given();
    for arguments in [&["--exchanges", "-o", "json"][..], &["--exchanges"], &["-o", "json"], &[]] {
        let from_file = run(&[&["replay", path.to_str().unwrap()], arguments].concat(), None);
        let from_pipe = run(&[&["replay", "-"], arguments].concat(), Some(&std::fs::read(&path).unwrap()));
        assert!(from_file.status.success() && from_pipe.status.success());
        assert!(!from_file.stdout.is_empty());
        assert_eq!(from_file.stdout, from_pipe.stdout);
        assert_eq!((from_file.stderr.len(), from_pipe.stderr.len()), (0, 0), "{arguments:?}");
    }
}

#[test]
fn a_capture_that_is_cut_off_is_listed_up_to_there_and_the_command_fails() {
    let capture = classic(Order::Little, false, link::ETHERNET, WHOLE, &both_families());
    for arguments in [&["replay", "-", "--exchanges", "-o", "json"][..], &["replay", "-"]] {
        let whole = run(arguments, Some(&capture));
        let cut = run(arguments, Some(&capture[..capture.len() - 1]));
        assert!(whole.status.success());
        assert_eq!(cut.status.code(), Some(1));
        let said = String::from_utf8(cut.stderr).unwrap();
        assert!(said.contains("-: cut off in the record that begins at byte "), "{said}");
        let lines = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap().lines().count();
        let cut = String::from_utf8(cut.stdout).unwrap();
        assert!(cut.contains("10.0.0.9") && cut.lines().count() >= lines(&whole) - 1, "{cut}");
    }
}

#[test]
fn frames_that_were_captured_in_part_are_counted() {
    let frames = frames();
    let capture = classic(Order::Little, false, link::ETHERNET, 96, &frames);
    let long = frames.iter().filter(|frame| frame.bytes.len() > 96).count();
    let output = run(&["replay", "-"], Some(&capture));
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("frames_shortened: {long}. ")), "{said}");
}
