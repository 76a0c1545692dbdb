//! The client map: exact counters, read one at a time, and how many there are.

use std::{io, time::Duration};

use aya::maps::{HashMap as Map, IterableMap as _, MapData, MapError, MapFd};
use hydrometer_ebpf::{
    abi::{Address, address, ip},
    client::Client,
};
use hydrometer_engine::{ClientId, Ipv6Prefix};

use super::{
    ClientSnapshot,
    batch::{Batches, Progress},
    clock,
    evictions::{Evictions, Ledger},
};

type Words = [u64; size_of::<Client>() / 8];

/// Entries read at a time.
const PIECE: usize = 1024;
/// Pieces read in one sweep.
const PIECES: usize = 16;

/// The client map.
#[derive(Debug)]
pub(super) struct Clients {
    prefix: Ipv6Prefix,
    map: Map<MapData, Address, Words>,
    pieces: Batches<Address, Words>,
    /// Found by the walk that is under way.
    found: Found,
    /// Found by the last complete one.
    last: Found,
    evictions: Evictions,
}

/// What a walk over the map found.
#[derive(Debug, Default)]
struct Found {
    entries: u64,
    /// Those who have sent data. An address that sent no more than a SYN may be anybody's.
    senders: Vec<ClientId>,
}

impl Clients {
    /// The clients in `map`, whose IPv6 addresses count as far as `prefix` goes.
    pub(super) fn new(map: Map<MapData, Address, Words>, prefix: Ipv6Prefix) -> Self {
        Self {
            prefix,
            map,
            pieces: Batches::new(PIECE, [0; 4], Client::default().into()),
            found: Found::default(),
            last: Found::default(),
            evictions: Evictions::default(),
        }
    }

    /// One client's counters.
    pub(super) fn get(&self, id: &ClientId) -> Result<Option<ClientSnapshot>, MapError> {
        let Some(key) = key(id) else { return Ok(None) };
        match self.map.get(&key, 0) {
            Ok(words) => Ok(Some(snapshot(*id, &Client::from(words)))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Entries, as of the last complete walk.
    pub(super) fn entries(&self) -> u64 {
        self.last.entries
    }

    /// Who has sent data, as of the last complete walk.
    pub(super) fn senders(&self) -> &[ClientId] {
        &self.last.senders
    }

    /// The map's descriptor.
    pub(super) fn fd(&self) -> &MapFd {
        self.map.map().fd()
    }

    /// Clients that the kernel evicted, as far as walks have told.
    pub(super) fn evicted(&self) -> u64 {
        self.evictions.count()
    }

    /// Walks on. `programs` reads what they have done to the map.
    pub(super) fn sweep(&mut self, programs: impl Fn() -> io::Result<Ledger>) -> io::Result<()> {
        self.evictions.walk(programs()?);
        for _ in 0..PIECES {
            let found = &mut self.found;
            let progress = self.pieces.next(self.map.map().fd(), |key, words| {
                found.entries += 1;
                if Client::from(*words).connections.get() > 0 {
                    found.senders.push(ClientId::new(ip(*key), self.prefix));
                }
            })?;
            if progress == Progress::End {
                self.last = std::mem::take(&mut self.found);
                self.evictions.walked(programs()?, self.last.entries);
                break;
            }
        }
        Ok(())
    }
}

/// The client map's key for a client, where the kernel can know of it.
pub(super) fn key(id: &ClientId) -> Option<Address> {
    match id {
        ClientId::V4(v4) => Some(address((*v4).into())),
        ClientId::V6(network) => Some(address(network.address().into())),
        ClientId::Key(_) => None,
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
    }
}
