//! The client map: exact counters, read one at a time, and how many there are.

use std::{io, net::IpAddr, time::Duration};

use aya::maps::{HashMap as Map, IterableMap as _, MapData, MapError, MapFd};
use hydrometer_ebpf::{
    abi::{address, client_key},
    client::Client,
};
use hydrometer_engine::ClientId;

use super::{
    ClientSnapshot,
    batch::{Batches, Progress},
    clock,
};

type Words = [u64; size_of::<Client>() / 8];

/// Entries read at a time.
const PIECE: usize = 1024;
/// Pieces read in one sweep.
const PIECES: usize = 16;

/// The client map.
#[derive(Debug)]
pub(super) struct Clients {
    map: Map<MapData, u64, Words>,
    pieces: Batches<u64, Words>,
    counted: u64,
    known: u64,
}

impl Clients {
    pub(super) fn new(map: Map<MapData, u64, Words>) -> Self {
        Self { map, pieces: Batches::new(PIECE, 0, Client::default().into()), counted: 0, known: 0 }
    }

    /// One client's counters.
    pub(super) fn get(&self, id: &ClientId) -> Result<Option<ClientSnapshot>, MapError> {
        match self.map.get(&key(id), 0) {
            Ok(words) => Ok(Some(snapshot(*id, &Client::from(words)))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Entries, as of the last complete walk.
    pub(super) fn entries(&self) -> u64 {
        self.known
    }

    /// The map's descriptor.
    pub(super) fn fd(&self) -> &MapFd {
        self.map.map().fd()
    }

    /// Counts on.
    pub(super) fn sweep(&mut self) -> io::Result<()> {
        for _ in 0..PIECES {
            let counted = &mut self.counted;
            if self.pieces.next(self.map.map().fd(), |_, _| *counted += 1)? == Progress::End {
                self.known = std::mem::take(&mut self.counted);
                break;
            }
        }
        Ok(())
    }
}

/// The client map's key for a client.
pub(super) fn key(id: &ClientId) -> u64 {
    match id {
        ClientId::V4(v4) => client_key(&address(IpAddr::V4(*v4))),
        ClientId::V6(prefix) => *prefix,
    }
}

fn snapshot(id: ClientId, client: &Client) -> ClientSnapshot {
    let epoch = clock::epoch();
    ClientSnapshot {
        id,
        first_seen: epoch + Duration::from_nanos(client.first_seen.get()),
        last_seen: epoch + Duration::from_nanos(client.last_seen.get()),
        ingress_packets: client.ingress_packets.get(),
        ingress_bytes: client.ingress_bytes.get(),
        egress_packets: client.egress_packets.get(),
        egress_bytes: client.egress_bytes.get(),
        syns: client.syns.get(),
        connections: client.connections.get(),
        requests: client.requests.get(),
        exchanges: client.exchanges.get(),
        request_bytes: client.request_bytes.get(),
        answer_bytes: client.answer_bytes.get(),
        request_sizes: client.request_sizes.counts().into(),
        answer_sizes: client.answer_sizes.counts().into(),
        interarrival: client.intervals.counts().into(),
    }
}
