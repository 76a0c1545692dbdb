//! Captures of real traffic, put into tunnels, natively: the same exchanges as when they came bare. Needs no root,
//! but the captures.

use std::{collections::BTreeMap, fs, path::Path};

use hydrometer_agent::replay::{Captured, Replay, pcap};
use hydrometer_ebpf::abi::ExchangeEvent;
use hydrometer_engine::Service;
use hydrometer_tests::{
    frames::segments,
    tunnels::{Outside, Tunnel},
};

const PORTS: [u16; 5] = [8080, 8443, 8444, 8445, 9443];

/// What comes of frames: exchanges, and the counters of clients.
#[derive(Debug, PartialEq)]
struct Account {
    exchanges: Vec<ExchangeEvent>,
    clients: BTreeMap<[u32; 4], (u64, u64, u64)>,
    hellos: usize,
}

fn account(frames: impl Iterator<Item = (u64, Vec<u8>)>) -> Account {
    let mut replay = Replay::new(&PORTS.map(|port| Service { address: None, port }));
    for (time, frame) in frames {
        replay.captured(&Captured { time, len: frame.len() as u32, bytes: &frame });
    }
    let mut clients = BTreeMap::new();
    replay.clients(|key, client| {
        let counted = (client.ingress_packets.get(), client.ingress_bytes.get(), client.egress_bytes.get());
        clients.insert(key, counted);
    });
    let exchanges = replay.drain().into_iter().chain(replay.flush()).collect();
    Account { exchanges, clients, hellos: replay.hellos().len() }
}

#[test]
fn a_capture_in_a_tunnel_has_the_exchanges_of_the_bare_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcaps");
    let paths = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = paths.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "pcap"));
    paths.sort();
    let (mut exchanges, outsides) = (0, [Outside::V4, Outside::V6, Outside::TaggedV4]);
    for (index, path) in paths.iter().enumerate() {
        let mut frames = Vec::new();
        pcap::read(path, |packet| {
            // A super-frame and its tunnel's headers would be longer than a packet can be.
            frames.extend(segments(packet.bytes, 32_000).into_iter().map(|frame| (packet.time, frame)));
        })
        .unwrap();
        let bare = account(frames.iter().cloned());
        exchanges += bare.exchanges.len();
        let (tunnel, outside) = (Tunnel::USUAL[index % Tunnel::USUAL.len()], outsides[index % 3]);
        let wrapped = account(frames.iter().map(|(time, frame)| (*time, tunnel.wrap(frame, outside))));
        assert_eq!(wrapped, bare, "{} in {tunnel:?} in {outside:?}", path.display());
    }
    assert!(exchanges > 500, "{exchanges}");
}
