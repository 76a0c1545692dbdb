//! The client map: exact counters, read one at a time, and how many there are.

use std::{io, time::Duration};

use aya::maps::{HashMap as Map, IterableMap as _, MapData, MapError, MapFd};
use hydrometer_ebpf::{
    abi::{Address, address, ip},
    client::Client,
};
use hydrometer_engine::{ClientId, Ipv6Prefix, Nanos};

use super::{
    batch::{Batches, Progress},
    clock,
    evictions::{Evictions, Ledger},
};

type Words = [u64; size_of::<Client>() / 8];

/// Entries read at a time.
const PIECE: usize = 1024;

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

/// Counters of one client at one moment, read from the kernel. Exact.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientSnapshot {
    /// Who.
    pub id: ClientId,
    /// First packet.
    pub first_seen: Nanos,
    /// Last packet.
    pub last_seen: Nanos,
    /// Packets from the client.
    pub ingress_packets: u64,
    /// IP bytes from the client.
    pub ingress_bytes: u64,
    /// Packets to the client.
    pub egress_packets: u64,
    /// IP bytes to the client.
    pub egress_bytes: u64,
    /// TCP SYNs.
    pub syns: u64,
    /// Connections on which the client sent data.
    pub connections: u64,
    /// Requests begun.
    pub requests: u64,
    /// Exchanges ended.
    pub exchanges: u64,
    /// Application bytes asked, over ended exchanges.
    pub request_bytes: u64,
    /// Application bytes answered, over ended exchanges.
    pub answer_bytes: u64,
}

/// What a walk over the map found.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    entries: u64,
    /// Those who have sent data, and were not known otherwise.
    others: u64,
}

/// A walk over everyone who has sent data.
#[derive(Debug)]
pub struct ClientWalk(Batches<Address, Words>);

impl Default for ClientWalk {
    fn default() -> Self {
        Self(Batches::new(PIECE, [0; 4], Client::default().into()))
    }
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

    /// The map's descriptor.
    pub(super) fn fd(&self) -> &MapFd {
        self.map.map().fd()
    }

    /// Clients that the kernel evicted, as far as walks have told.
    pub(super) fn evicted(&self) -> u64 {
        self.evictions.count()
    }

    /// Walks on by a piece. `programs` reads what they have done to the map. At the end, returns how many have sent
    /// data that are not known otherwise.
    pub(super) fn sweep(
        &mut self,
        programs: impl Fn() -> io::Result<Ledger>,
        is_known: impl Fn(&ClientId) -> bool,
    ) -> io::Result<Option<u64>> {
        self.evictions.walk(programs()?);
        let (found, prefix) = (&mut self.found, self.prefix);
        let progress = self.pieces.next(self.map.map().fd(), |key, words| {
            found.entries += 1;
            found.others += u64::from(sender(key, words, prefix).is_some_and(|client| !is_known(&client)));
        })?;
        if progress == Progress::More {
            return Ok(None);
        }
        self.last = std::mem::take(&mut self.found);
        self.evictions.walked(programs()?, self.last.entries);
        Ok(Some(self.last.others))
    }

    /// Goes on with another walk by a piece, and adds to `found` everyone in it who has sent data.
    pub(super) fn walk_on(&self, walk: &mut ClientWalk, found: &mut Vec<ClientId>) -> io::Result<Progress> {
        walk.0.next(self.map.map().fd(), |key, words| found.extend(sender(key, words, self.prefix)))
    }
}

/// The client of an entry, if it has sent data. An address that sent no more than a SYN may be anybody's.
fn sender(key: &Address, words: &Words, prefix: Ipv6Prefix) -> Option<ClientId> {
    (Client::from(*words).connections.get() > 0).then(|| ClientId::new(ip(*key), prefix))
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
