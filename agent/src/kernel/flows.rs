//! The flow maps, swept: exchanges that are over although nothing says so, flows that are closed, and
//! which flows a client has.
//!
//! The kernel ends an exchange when the client asks again or the connection closes. A client that keeps
//! its connection idle has its last exchange reported from here, once it has been quiet.
//!
//! Invariant: an exchange is handed out once. What the sweep has handed out is remembered until the
//! kernel's own record of it comes, which is then dropped.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    io,
    time::Duration,
};

use aya::maps::{Array, HashMap as Map, IterableMap as _, MapData, MapFd};
use hydrometer_ebpf::{
    abi::{
        self, Address, DERIVED, ExchangeEvent, FlowKey4, FlowKey6, StreamKey, V4_MAPPED, client_key, ip,
        is_v4,
    },
    flow::Flow,
    packet::{TCP, UDP},
};
use hydrometer_engine::{ClientId, Exchange, Nanos, Service};

use super::{
    FlowSnapshot,
    batch::{Batches, Progress},
    clients, clock,
};
use crate::{traffic::Traffic, wire};

type Words = [u64; size_of::<Flow>() / 8];

/// Entries read at a time.
const PIECE: usize = 1024;
/// Pieces read in one sweep: the rest waits for the next.
const PIECES: usize = 64;
/// How long a closed flow stays for those who look, nanoseconds.
const CLOSED_STAYS: u64 = 5_000_000_000;

/// The key of a flow of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    V4([u32; 4]),
    V6([u32; 10]),
}

/// One turn of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Turn {
    flow: Key,
    flow_start: u64,
    number: u32,
}

/// The flow maps and what the sweep remembers.
pub(super) struct Flows {
    four: Map<MapData, [u32; 4], Words>,
    six: Map<MapData, [u32; 10], Words>,
    pieces4: Batches<[u32; 4], Words>,
    pieces6: Batches<[u32; 10], Words>,
    /// HTTP/2 streams. Their ends show, so the sweep leaves them alone.
    streams: Map<MapData, [u32; 12], Words>,
    family: Family,
    pass: Pass,
    /// The pass before: complete.
    last: Pass,
    /// Handed out by the sweep, not yet by the kernel.
    handed_out: HashMap<Turn, HandedOut>,
    /// Answers that went on after they had been handed out.
    resumed: u64,
    tickets: Array<MapData, u32>,
    traffic: Traffic,
    passes: u64,
}

/// An exchange as the sweep handed it out.
#[derive(Clone, Copy, Debug)]
struct HandedOut {
    /// The walk that last saw it open.
    pass: u64,
    answer_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// What one walk over both maps found.
#[derive(Debug, Default)]
struct Pass {
    by_client: HashMap<Address, Vec<Key>>,
    entries4: u64,
    entries6: u64,
    /// Closed for long enough, with their first packet.
    closed: Vec<(Key, u64)>,
}

impl Flows {
    pub(super) fn new(
        four: Map<MapData, [u32; 4], Words>,
        six: Map<MapData, [u32; 10], Words>,
        streams: Map<MapData, [u32; 12], Words>,
        tickets: Array<MapData, u32>,
        traffic: Traffic,
    ) -> Self {
        Self {
            traffic,
            four,
            six,
            pieces4: Batches::new(PIECE, [0; 4], Flow::default().into()),
            pieces6: Batches::new(PIECE, [0; 10], Flow::default().into()),
            streams,
            family: Family::V4,
            pass: Pass::default(),
            last: Pass::default(),
            handed_out: HashMap::new(),
            resumed: 0,
            tickets,
            passes: 0,
        }
    }

    /// Whether the sweep has handed this exchange out; it is then forgotten. An answer that went on after
    /// that is counted.
    pub(super) fn was_handed_out(&mut self, event: &ExchangeEvent) -> bool {
        let Some(handed_out) = self.handed_out.remove(&Turn::of(event)) else { return false };
        self.resumed += u64::from(event.answer_bytes > handed_out.answer_bytes);
        true
    }

    /// Answers that went on after they had been handed out.
    pub(super) fn resumed(&self) -> u64 {
        self.resumed
    }

    /// Entries of the IPv4 and the IPv6 map, as of the last complete walk.
    pub(super) fn entries(&self) -> (u64, u64) {
        (self.last.entries4, self.last.entries6)
    }

    /// The maps' descriptors: IPv4, IPv6, streams.
    pub(super) fn maps(&self) -> [&MapFd; 3] {
        [self.four.map().fd(), self.six.map().fd(), self.streams.map().fd()]
    }

    /// Walks on, and hands out answered exchanges that have been quiet for `quiet`.
    pub(super) fn sweep(&mut self, quiet: Duration, out: &mut Vec<Exchange>) -> io::Result<()> {
        let quiet = u64::try_from(quiet.as_nanos()).unwrap_or(u64::MAX);
        for _ in 0..PIECES {
            if self.piece(Some(quiet), out)? == Progress::End {
                break;
            }
        }
        Ok(())
    }

    /// Walks all maps from begin to end and hands out every exchange that is open.
    pub(super) fn flush(&mut self, out: &mut Vec<Exchange>) -> io::Result<()> {
        self.pieces4.restart();
        self.pieces6.restart();
        (self.family, self.pass) = (Family::V4, Pass::default());
        while self.piece(None, out)? == Progress::More {}
        let mut pieces = Batches::new(PIECE, [0; 12], Flow::default().into());
        let (epoch, prefix) = (clock::epoch(), self.traffic.ipv6_prefix);
        let mut stream = |key: &[u32; 12], words: &Words| {
            let StreamKey { flow: key, .. } = (*key).into();
            let ports = (key.client_port, key.server_port);
            let event = Flow::from(*words).open((key.client, key.server), ports);
            out.extend(event.map(|event| wire::exchange(&event, epoch, prefix)));
        };
        while pieces.next(self.streams.map().fd(), &mut stream)? == Progress::More {}
        Ok(())
    }

    /// One piece; the end is that of a walk over both maps.
    fn piece(&mut self, quiet: Option<u64>, out: &mut Vec<Exchange>) -> io::Result<Progress> {
        let mut reader = Reader {
            now: clock::monotonic(),
            epoch: clock::epoch(),
            quiet,
            pass: &mut self.pass,
            passes: self.passes,
            handed_out: &mut self.handed_out,
            tickets: &self.tickets,
            traffic: self.traffic,
            out,
        };
        let progress = match self.family {
            Family::V4 => {
                self.pieces4.next(self.four.map().fd(), |key, words| reader.entry(Key::V4(*key), words))
            }
            Family::V6 => {
                self.pieces6.next(self.six.map().fd(), |key, words| reader.entry(Key::V6(*key), words))
            }
        }?;
        Ok(match (self.family, progress) {
            (_, Progress::More) => Progress::More,
            (Family::V4, Progress::End) => {
                self.family = Family::V6;
                Progress::More
            }
            (Family::V6, Progress::End) => {
                self.family = Family::V4;
                self.end_pass();
                Progress::End
            }
        })
    }

    fn end_pass(&mut self) {
        self.last = std::mem::take(&mut self.pass);
        for (key, first_seen) in std::mem::take(&mut self.last.closed) {
            // The ports may be in use again.
            let is_closed = self
                .read(&key)
                .is_some_and(|flow| flow.closed.get() != 0 && flow.first_seen.get() == first_seen);
            if is_closed {
                // It may have been evicted meanwhile.
                let _ = match key {
                    Key::V4(key) => self.four.remove(&key),
                    Key::V6(key) => self.six.remove(&key),
                };
            }
        }
        // A flow that was evicted will never send its record.
        let passes = self.passes;
        self.handed_out.retain(|_, handed_out| handed_out.pass + 1 >= passes);
        self.passes += 1;
    }

    fn read(&self, key: &Key) -> Option<Flow> {
        let words = match key {
            Key::V4(key) => self.four.get(key, 0),
            Key::V6(key) => self.six.get(key, 0),
        };
        words.ok().map(Flow::from)
    }

    /// Flows of one client as they are now, most recent first.
    pub(super) fn of(&self, client: &ClientId, limit: usize) -> Vec<FlowSnapshot> {
        let client = clients::key(client);
        let keys =
            self.last.by_client.get(&client).into_iter().chain(self.pass.by_client.get(&client)).flatten();
        let unique: HashSet<_> = keys.collect();
        let epoch = clock::epoch();
        let mut flows: Vec<_> =
            unique.into_iter().filter_map(|key| Some(snapshot(*key, self.read(key)?, epoch))).collect();
        flows.sort_by_key(|flow| Reverse(flow.last_seen));
        flows.truncate(limit);
        flows
    }
}

/// Reads entries of one piece.
struct Reader<'a> {
    now: u64,
    epoch: Nanos,
    /// Quiet for this long is over; `None`: everything is.
    quiet: Option<u64>,
    pass: &'a mut Pass,
    passes: u64,
    handed_out: &'a mut HashMap<Turn, HandedOut>,
    tickets: &'a Array<MapData, u32>,
    traffic: Traffic,
    out: &'a mut Vec<Exchange>,
}

impl Reader<'_> {
    fn entry(&mut self, key: Key, words: &Words) {
        let flow = Flow::from(*words);
        let (client, server, ports) = key.ends();
        match key {
            Key::V4(_) => self.pass.entries4 += 1,
            Key::V6(_) => self.pass.entries6 += 1,
        }
        let client_key = client_key(&client, &self.traffic.ipv6_mask());
        self.pass.by_client.entry(client_key).or_default().push(key);
        if flow.closed.get() != 0 && self.now.saturating_sub(last_seen(&flow)) > CLOSED_STAYS {
            self.pass.closed.push((key, flow.first_seen.get()));
        }
        let Some(event) = flow.open((client, server), ports) else { return };
        let over = match self.quiet {
            None => true,
            Some(quiet) => self.is_answered(&flow, &event) && self.now.saturating_sub(event.last) >= quiet,
        };
        if !over {
            return;
        }
        let turn = Turn { flow: key, flow_start: event.flow_start, number: event.turn };
        if let Some(before) = self.handed_out.get_mut(&turn) {
            before.pass = self.passes;
            return;
        }
        self.handed_out.insert(turn, HandedOut { pass: self.passes, answer_bytes: event.answer_bytes });
        self.out.push(wire::exchange(&event, self.epoch, self.traffic.ipv6_prefix));
    }

    /// Whether there is an answer, where a lone record as long as the service's session tickets is none.
    fn is_answered(&self, flow: &Flow, event: &ExchangeEvent) -> bool {
        let pending = flow.answered.pending.get();
        if flow.answered.records.get() > 0 || pending == 0 {
            return event.records > 0;
        }
        let learned = self.tickets.get(&u32::from(event.server_port & 0xff), 0).unwrap_or(0);
        learned & 0xffff != pending
    }
}

impl Turn {
    fn of(event: &ExchangeEvent) -> Self {
        let (client_port, server_port) = (event.client_port.to_be(), event.server_port.to_be());
        let is_quic = abi::Protocol::from_number(event.protocol) == abi::Protocol::Quic;
        let transport = u32::from(if is_quic { UDP } else { TCP });
        let flow = if is_v4(&event.client) {
            let (client, server) = (event.client[3], event.server[3]);
            Key::V4(FlowKey4 { client, server, client_port, server_port, transport }.into())
        } else {
            let (client, server) = (event.client, event.server);
            Key::V6(FlowKey6 { client, server, client_port, server_port, transport }.into())
        };
        Self { flow, flow_start: event.flow_start, number: event.turn }
    }
}

impl Key {
    /// Client, server, and their ports in network order.
    fn ends(self) -> (Address, Address, (u16, u16)) {
        match self {
            Self::V4(words) => {
                let key = FlowKey4::from(words);
                let mapped = |address| [0, 0, V4_MAPPED, address];
                (mapped(key.client), mapped(key.server), (key.client_port, key.server_port))
            }
            Self::V6(words) => {
                let key = FlowKey6::from(words);
                (key.client, key.server, (key.client_port, key.server_port))
            }
        }
    }
}

fn last_seen(flow: &Flow) -> u64 {
    flow.first_seen.get().max(flow.asked.end.get()).max(flow.answered.last.get())
}

fn snapshot(key: Key, mut flow: Flow, epoch: Nanos) -> FlowSnapshot {
    let (client, server, ports) = key.ends();
    let event = flow.open((client, server), ports);
    let protocol = wire::protocol(flow.protocol() as u8);
    let derived = event.is_some_and(|event| event.flags & DERIVED != 0);
    FlowSnapshot {
        client: ip(client),
        client_port: u16::from_be(ports.0),
        service: Service { address: Some(ip(server)), port: u16::from_be(ports.1) },
        protocol,
        first_seen: epoch + Duration::from_nanos(flow.first_seen.get()),
        last_seen: epoch + Duration::from_nanos(last_seen(&flow)),
        requests: u64::from(flow.requests()),
        request_bytes: flow.request_bytes.get() + event.map_or(0, |event| event.request_bytes),
        answer_bytes: flow.answer_bytes.get() + event.map_or(0, |event| event.answer_bytes),
        in_progress: event.is_some(),
        accuracy: wire::accuracy(protocol, derived),
    }
}
