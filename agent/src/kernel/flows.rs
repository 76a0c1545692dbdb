//! The flow map, swept: exchanges that are over although nothing says so, flows that are closed, and
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
    abi::{self, Address, DERIVED, ExchangeEvent, FlowKey, StreamKey, client_key, ip},
    flow::{Flow, UNCHECKED},
    http2_tls::Estimate,
    packet::{TCP, UDP},
};
use hydrometer_engine::{ClientId, Nanos, Service};

use super::{
    FlowSnapshot,
    batch::{Batches, Progress},
    clients, clock,
    evictions::{Evictions, Ledger},
};
use crate::wire::{self, Ended};

type Key = [u32; size_of::<FlowKey>() / 4];
type Words = [u64; size_of::<Flow>() / 8];
/// What is estimated of HTTP/2 connections inside TLS, by the key of their flow.
pub(super) type Estimates = Map<MapData, Key, [u64; size_of::<Estimate>() / 8]>;

/// Entries read at a time.
const PIECE: usize = 1024;
/// Pieces read in one sweep: the rest waits for the next.
const PIECES: usize = 64;
/// How long a closed flow stays for those who look, nanoseconds.
const CLOSED_STAYS: u64 = 5_000_000_000;

/// One turn of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Turn {
    flow: FlowKey,
    flow_start: u64,
    number: u32,
}

/// The flow map and what the sweep remembers.
pub(super) struct Flows {
    map: Map<MapData, Key, Words>,
    pieces: Batches<Key, Words>,
    /// HTTP/2 streams. Their ends show, so the sweep leaves them alone.
    streams: Map<MapData, [u32; 12], Words>,
    estimates: Estimates,
    pass: Pass,
    /// The pass before: complete.
    last: Pass,
    /// Handed out by the sweep, not yet by the kernel.
    handed_out: HashMap<Turn, HandedOut>,
    /// Answers that went on after they had been handed out.
    resumed: u64,
    tickets: Array<MapData, u32>,
    ipv6_mask: Address,
    passes: u64,
    evictions: Evictions,
    /// Flows that the sweep has removed.
    removed: u64,
}

/// An exchange as the sweep handed it out.
#[derive(Clone, Copy, Debug)]
struct HandedOut {
    /// The walk that last saw it open.
    pass: u64,
    answer_bytes: u64,
}

/// What one walk over the map found.
#[derive(Debug, Default)]
struct Pass {
    by_client: HashMap<Address, Vec<FlowKey>>,
    entries: u64,
    /// Closed for long enough, with their first packet.
    closed: Vec<(FlowKey, u64)>,
}

impl Flows {
    pub(super) fn new(
        map: Map<MapData, Key, Words>,
        streams: Map<MapData, [u32; 12], Words>,
        estimates: Estimates,
        tickets: Array<MapData, u32>,
        ipv6_mask: Address,
    ) -> Self {
        Self {
            ipv6_mask,
            map,
            pieces: Batches::new(PIECE, FlowKey::default().into(), Flow::default().into()),
            streams,
            estimates,
            pass: Pass::default(),
            last: Pass::default(),
            handed_out: HashMap::new(),
            resumed: 0,
            tickets,
            passes: 0,
            evictions: Evictions::default(),
            removed: 0,
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

    /// Entries, as of the last complete walk.
    pub(super) fn entries(&self) -> u64 {
        self.last.entries
    }

    /// Flows that the kernel evicted, as far as walks have told.
    pub(super) fn evicted(&self) -> u64 {
        self.evictions.count()
    }

    /// The maps' descriptors: flows, streams, estimates.
    pub(super) fn maps(&self) -> [&MapFd; 3] {
        [self.map.map().fd(), self.streams.map().fd(), self.estimates.map().fd()]
    }

    /// Walks on, and hands out answered exchanges that have been quiet for `quiet`.
    /// `programs` reads what they have done to the map.
    pub(super) fn sweep(
        &mut self,
        quiet: Duration,
        programs: impl Fn() -> io::Result<Ledger>,
        out: &mut Vec<Ended>,
    ) -> io::Result<()> {
        let quiet = u64::try_from(quiet.as_nanos()).unwrap_or(u64::MAX);
        self.evictions.walk(programs()?);
        for _ in 0..PIECES {
            if self.piece(Some(quiet), out)? == Progress::End {
                let programs = programs()?;
                let removed = programs.removed + self.removed;
                self.evictions.walked(Ledger { removed, ..programs }, self.last.entries);
                break;
            }
        }
        Ok(())
    }

    /// Walks the maps from begin to end and hands out every exchange that is open.
    pub(super) fn flush(&mut self, out: &mut Vec<Ended>) -> io::Result<()> {
        self.pieces.restart();
        self.pass = Pass::default();
        while self.piece(None, out)? == Progress::More {}
        let mut pieces = Batches::new(PIECE, [0; 12], Flow::default().into());
        let epoch = clock::epoch();
        let mut stream = |key: &[u32; 12], words: &Words| {
            let event = Flow::from(*words).open(&StreamKey::from(*key).flow);
            out.extend(event.map(|event| Ended { event, epoch }));
        };
        while pieces.next(self.streams.map().fd(), &mut stream)? == Progress::More {}
        Ok(())
    }

    /// One piece.
    fn piece(&mut self, quiet: Option<u64>, out: &mut Vec<Ended>) -> io::Result<Progress> {
        let mut reader = Reader {
            now: clock::monotonic(),
            epoch: clock::epoch(),
            quiet,
            pass: &mut self.pass,
            passes: self.passes,
            handed_out: &mut self.handed_out,
            estimates: &self.estimates,
            tickets: &self.tickets,
            ipv6_mask: self.ipv6_mask,
            out,
        };
        let progress =
            self.pieces.next(self.map.map().fd(), |key, words| reader.entry((*key).into(), words))?;
        if progress == Progress::End {
            self.end_pass();
        }
        Ok(progress)
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
                let removed = u64::from(self.map.remove(&key.into()).is_ok());
                self.removed += removed;
                self.last.entries -= removed;
            }
        }
        // A flow that was evicted will never send its record.
        let passes = self.passes;
        self.handed_out.retain(|_, handed_out| handed_out.pass + 1 >= passes);
        self.passes += 1;
    }

    fn read(&self, key: &FlowKey) -> Option<Flow> {
        self.map.get(&(*key).into(), 0).ok().map(Flow::from)
    }

    /// Flows of one client as they are now, most recent first.
    pub(super) fn of(&self, client: &ClientId, limit: usize) -> Vec<FlowSnapshot> {
        let Some(client) = clients::key(client) else { return Vec::new() };
        let keys =
            self.last.by_client.get(&client).into_iter().chain(self.pass.by_client.get(&client)).flatten();
        let unique: HashSet<_> = keys.collect();
        let epoch = clock::epoch();
        let mut flows: Vec<_> =
            unique.into_iter().filter_map(|key| Some(self.snapshot(key, self.read(key)?, epoch))).collect();
        flows.sort_by_key(|flow| Reverse(flow.last_seen));
        flows.truncate(limit);
        flows
    }

    fn snapshot(&self, key: &FlowKey, mut flow: Flow, epoch: Nanos) -> FlowSnapshot {
        let estimate = estimate(&self.estimates, key, &flow);
        let (requests, confidence) = match estimate.as_ref().and_then(|estimate| estimate.count(&flow)) {
            Some((requests, confidence)) => (requests, confidence),
            None => (flow.requests(), UNCHECKED),
        };
        let open: Vec<_> = match &estimate {
            Some(estimate) => estimate.open(&flow, key).collect(),
            None => flow.open(key).into_iter().collect(),
        };
        let protocol = wire::protocol(flow.protocol() as u8);
        let accuracy = wire::accuracy(protocol, open.iter().any(|event| event.flags & DERIVED != 0));
        FlowSnapshot {
            client: ip(key.client),
            client_port: u16::from_be(key.client_port),
            service: Service { address: Some(ip(key.server)), port: u16::from_be(key.server_port) },
            protocol,
            first_seen: epoch + Duration::from_nanos(flow.first_seen.get()),
            last_seen: epoch + Duration::from_nanos(last_seen(&flow)),
            requests: requests.into(),
            request_bytes: flow.request_bytes.get()
                + open.iter().map(|event| event.request_bytes).sum::<u64>(),
            answer_bytes: flow.answer_bytes.get() + open.iter().map(|event| event.answer_bytes).sum::<u64>(),
            in_progress: !open.is_empty(),
            accuracy,
            confidence: wire::confidence(accuracy, confidence),
        }
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
    estimates: &'a Estimates,
    tickets: &'a Array<MapData, u32>,
    ipv6_mask: Address,
    out: &'a mut Vec<Ended>,
}

impl Reader<'_> {
    fn entry(&mut self, key: FlowKey, words: &Words) {
        let flow = Flow::from(*words);
        self.pass.entries += 1;
        if !flow.is_proven() {
            return;
        }
        let client_key = client_key(&key.client, &self.ipv6_mask);
        self.pass.by_client.entry(client_key).or_default().push(key);
        if flow.closed.get() != 0 && self.now.saturating_sub(last_seen(&flow)) > CLOSED_STAYS {
            self.pass.closed.push((key, flow.first_seen.get()));
        }
        if let Some(estimate) = estimate(self.estimates, &key, &flow) {
            let answered = flow.answered.records.get() > 0;
            let over = self.quiet.is_none() || answered && self.is_quiet(flow.answered.last.get());
            for event in estimate.open(&flow, &key).filter(|_| over) {
                self.hand_out(key, &event);
            }
            return;
        }
        if self.quiet.is_none()
            && let Some(event) = flow.open_apart(&key)
        {
            self.out.push(Ended { event, epoch: self.epoch });
        }
        if let Some(event) = flow.open(&key)
            && (self.quiet.is_none() || self.is_answered(&flow, &event) && self.is_quiet(event.last))
        {
            self.hand_out(key, &event);
        }
    }

    /// Whether an answer that ended at `last` is over.
    fn is_quiet(&self, last: u64) -> bool {
        self.quiet.is_none_or(|quiet| self.now.saturating_sub(last) >= quiet)
    }

    /// Hands an exchange out, unless it has been.
    fn hand_out(&mut self, key: FlowKey, event: &ExchangeEvent) {
        let turn = Turn { flow: key, flow_start: event.flow_start, number: event.turn };
        if let Some(before) = self.handed_out.get_mut(&turn) {
            before.pass = self.passes;
            return;
        }
        self.handed_out.insert(turn, HandedOut { pass: self.passes, answer_bytes: event.answer_bytes });
        self.out.push(Ended { event: *event, epoch: self.epoch });
    }

    /// Whether there is an answer, where a lone record as long as the service's session tickets is none.
    fn is_answered(&self, flow: &Flow, event: &ExchangeEvent) -> bool {
        let pending = flow.answered.pending.get();
        if flow.answered.records.get() > 0 || pending == 0 {
            return event.records > 0;
        }
        let learned = self.tickets.get(&u32::from(event.server_port & 0xff), 0).unwrap_or(0);
        learned != u32::from(event.server_port.to_be()) << 16 | pending
    }
}

impl Turn {
    fn of(event: &ExchangeEvent) -> Self {
        let is_quic = abi::Protocol::from_number(event.protocol) == abi::Protocol::Quic;
        let flow = FlowKey {
            client: event.client,
            server: event.server,
            client_port: event.client_port.to_be(),
            server_port: event.server_port.to_be(),
            transport: u32::from(if is_quic { UDP } else { TCP }),
        };
        Self { flow, flow_start: event.flow_start, number: event.turn }
    }
}

/// What is estimated of `flow`, if anything is.
fn estimate(estimates: &Estimates, key: &FlowKey, flow: &Flow) -> Option<Estimate> {
    if flow.protocol() != abi::Protocol::TlsHttp2 {
        return None;
    }
    estimates.get(&(*key).into(), 0).ok().map(Estimate::from)
}

fn last_seen(flow: &Flow) -> u64 {
    flow.first_seen.get().max(flow.asked.end.get()).max(flow.answered.last.get())
}
