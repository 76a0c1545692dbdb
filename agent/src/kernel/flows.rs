//! The flow map, swept: exchanges that are over although nothing says so, and flows that are closed; and walked, for
//! whoever asks which flows a client has.
//!
//! The kernel ends an exchange when the client asks again or the connection closes. A client that keeps
//! its connection idle has its last exchange reported from here, once it has been quiet.
//!
//! Invariants: an exchange is handed out once. What the sweep has handed out is remembered until the
//! kernel's own record of it comes, which is then dropped. Nothing here grows with the number of flows.

use std::{cmp::Reverse, io, net::IpAddr, time::Duration};

use aya::maps::{Array, HashMap as Map, IterableMap as _, MapData, MapFd};
use hydrometer_ebpf::{
    abi::{self, Address, DERIVED, ExchangeEvent, FlowKey, StreamKey, client_key, ip},
    flow::{Flow, UNCHECKED},
    http2_tls::Estimate,
};
use hydrometer_engine::{Accuracy, ClientId, Nanos, Protocol, Service};

use super::{
    batch::{Batches, Progress},
    clients, clock,
    evictions::{Evictions, Ledger},
};
use crate::{
    identity::Identities,
    known::{Ending, Known},
    wire::{self, Ended},
};

type Key = [u32; size_of::<FlowKey>() / 4];
type Words = [u64; size_of::<Flow>() / 8];
/// What is estimated of HTTP/2 connections inside TLS, by the key of their flow.
pub(super) type Estimates = Map<MapData, Key, [u64; size_of::<Estimate>() / 8]>;

/// Entries read at a time.
const PIECE: usize = 1024;
/// How long a closed flow stays for those who look, nanoseconds.
const CLOSED_STAYS: u64 = 5_000_000_000;

/// The flow map and what the sweep remembers.
pub(super) struct Flows {
    map: Map<MapData, Key, Words>,
    pieces: Batches<Key, Words>,
    /// HTTP/2 streams. Their ends show, so the sweep leaves them alone.
    streams: Map<MapData, [u32; 12], Words>,
    estimates: Estimates,
    /// Entries that the walk under way has met.
    met: u64,
    /// Entries that the walk before met.
    entries: u64,
    /// Answers that went on after they had been handed out.
    resumed: u64,
    tickets: Array<MapData, u32>,
    ipv6_mask: Address,
    evictions: Evictions,
    /// Flows that the sweep has removed.
    removed: u64,
}

/// One live flow, read from the kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowSnapshot {
    /// Client side.
    pub client: IpAddr,
    /// Client port.
    pub client_port: u16,
    /// Service side.
    pub service: Service,
    /// What it speaks.
    pub protocol: Protocol,
    /// First packet.
    pub first_seen: Nanos,
    /// Last packet.
    pub last_seen: Nanos,
    /// Requests begun.
    pub requests: u64,
    /// Application bytes from the client.
    pub request_bytes: u64,
    /// Application bytes to the client.
    pub answer_bytes: u64,
    /// An answer is outstanding.
    pub in_progress: bool,
    /// Accuracy of these figures.
    pub accuracy: Accuracy,
    /// How far an estimate of the requests is to be believed, from 0 to 1.
    pub confidence: Option<f32>,
}

/// What userspace keeps of flows: the walk says which there are.
pub(super) struct Kept<'a> {
    pub(super) known: &'a mut Known,
    pub(super) identities: &'a mut Identities,
}

impl Kept<'_> {
    fn see(&mut self, flow: u64) {
        self.known.see(flow);
        self.identities.see(flow);
    }

    fn forget(&mut self, flow: u64) {
        self.known.forget(flow);
        self.identities.forget(flow);
    }

    fn walked(&mut self) {
        self.known.walked();
        self.identities.walked();
    }
}

/// A walk over the flow map in search of one client's flows.
#[derive(Debug)]
pub struct FlowWalk {
    client: Address,
    pieces: Batches<Key, Words>,
    /// The most recent ones so far.
    found: Vec<FlowSnapshot>,
    /// How many of them are wanted.
    limit: usize,
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
            met: 0,
            entries: 0,
            resumed: 0,
            tickets,
            evictions: Evictions::default(),
            removed: 0,
        }
    }

    /// Whether the sweep has handed this exchange out. An answer that went on after that is counted.
    pub(super) fn was_handed_out(&mut self, event: &ExchangeEvent, known: &mut Known) -> bool {
        let ending = known.end(event);
        self.resumed += u64::from(ending == Ending::Resumed);
        ending != Ending::First
    }

    /// Answers that went on after they had been handed out.
    pub(super) fn resumed(&self) -> u64 {
        self.resumed
    }

    /// Entries, as of the last complete walk.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Flows that the kernel evicted, as far as walks have told.
    pub(super) fn evicted(&self) -> u64 {
        self.evictions.count()
    }

    /// The maps' descriptors: flows, streams, estimates.
    pub(super) fn maps(&self) -> [&MapFd; 3] {
        [self.map.map().fd(), self.streams.map().fd(), self.estimates.map().fd()]
    }

    /// Walks on by a piece, and hands out answered exchanges that have been quiet for `quiet`.
    /// `programs` reads what they have done to the map.
    pub(super) fn sweep(
        &mut self,
        quiet: Duration,
        programs: impl Fn() -> io::Result<Ledger>,
        kept: &mut Kept<'_>,
        out: &mut Vec<Ended>,
    ) -> io::Result<Progress> {
        let quiet = u64::try_from(quiet.as_nanos()).unwrap_or(u64::MAX);
        self.evictions.walk(programs()?);
        let progress = self.piece(Some(quiet), kept, out)?;
        if progress == Progress::End {
            let programs = programs()?;
            let removed = programs.removed + self.removed;
            self.evictions.walked(Ledger { removed, ..programs }, self.entries);
        }
        Ok(progress)
    }

    /// Begins a walk over all maps that hands out every exchange that is open.
    pub(super) fn begin_flush(&mut self) {
        self.pieces.restart();
        self.met = 0;
    }

    /// A piece of it.
    pub(super) fn flush(&mut self, kept: &mut Kept<'_>, out: &mut Vec<Ended>) -> io::Result<Progress> {
        self.piece(None, kept, out)
    }

    /// Hands out every HTTP/2 stream that is open.
    pub(super) fn flush_streams(&self, out: &mut Vec<Ended>) -> io::Result<()> {
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
    fn piece(
        &mut self,
        quiet: Option<u64>,
        kept: &mut Kept<'_>,
        out: &mut Vec<Ended>,
    ) -> io::Result<Progress> {
        let mut reader = Reader {
            now: clock::monotonic(),
            epoch: clock::epoch(),
            quiet,
            met: 0,
            closed: Vec::new(),
            kept,
            estimates: &self.estimates,
            tickets: &self.tickets,
            out,
        };
        let progress =
            self.pieces.next(self.map.map().fd(), |key, words| reader.entry((*key).into(), words))?;
        let Reader { met, closed, .. } = reader;
        self.met += met;
        for (key, first_seen) in closed {
            self.remove(&key, first_seen, kept);
        }
        if progress == Progress::End {
            self.entries = std::mem::take(&mut self.met);
            kept.walked();
        }
        Ok(progress)
    }

    /// Removes a flow that is closed, unless its ports are in use again.
    fn remove(&mut self, key: &FlowKey, first_seen: u64, kept: &mut Kept<'_>) {
        let is_closed =
            self.read(key).is_some_and(|flow| flow.closed.get() != 0 && flow.first_seen.get() == first_seen);
        // It may have been evicted meanwhile.
        if is_closed && self.map.remove(&(*key).into()).is_ok() {
            self.removed += 1;
            self.met -= 1;
            kept.forget(wire::key_flow(key, first_seen));
        }
    }

    fn read(&self, key: &FlowKey) -> Option<Flow> {
        self.map.get(&(*key).into(), 0).ok().map(Flow::from)
    }

    /// Walks on by a piece.
    pub(super) fn walk_on(&self, walk: &mut FlowWalk) -> io::Result<Progress> {
        let epoch = clock::epoch();
        let FlowWalk { client, pieces, found, limit } = walk;
        let progress = pieces.next(self.map.map().fd(), |key, words| {
            let key = FlowKey::from(*key);
            if client_key(&key.client, &self.ipv6_mask) == *client {
                let flow = Flow::from(*words);
                if flow.is_proven() {
                    found.push(self.snapshot(&key, flow, epoch));
                }
            }
        })?;
        if found.len() > *limit {
            found.sort_by_key(|flow| Reverse(flow.last_seen));
            found.truncate(*limit);
        }
        Ok(progress)
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

impl FlowWalk {
    /// Of the most recent ones, at most `limit`; `None` where the kernel cannot know of the client.
    pub fn new(client: &ClientId, limit: usize) -> Option<Self> {
        let pieces = Batches::new(PIECE, FlowKey::default().into(), Flow::default().into());
        Some(Self { client: clients::key(client)?, pieces, found: Vec::new(), limit })
    }

    /// What was found, most recent first.
    pub fn found(mut self) -> Vec<FlowSnapshot> {
        self.found.sort_by_key(|flow| Reverse(flow.last_seen));
        self.found
    }
}

/// Reads entries of one piece.
struct Reader<'a, 'b> {
    now: u64,
    epoch: Nanos,
    /// Quiet for this long is over; `None`: everything is.
    quiet: Option<u64>,
    /// Entries met.
    met: u64,
    /// Closed for long enough, with their first packet.
    closed: Vec<(FlowKey, u64)>,
    kept: &'a mut Kept<'b>,
    estimates: &'a Estimates,
    tickets: &'a Array<MapData, u32>,
    out: &'a mut Vec<Ended>,
}

impl Reader<'_, '_> {
    fn entry(&mut self, key: FlowKey, words: &Words) {
        let flow = Flow::from(*words);
        self.met += 1;
        if !flow.is_proven() {
            return;
        }
        let first_seen = flow.first_seen.get();
        self.kept.see(wire::key_flow(&key, first_seen));
        if flow.closed.get() != 0 && self.now.saturating_sub(last_seen(&flow)) > CLOSED_STAYS {
            self.closed.push((key, first_seen));
        }
        if let Some(estimate) = estimate(self.estimates, &key, &flow) {
            let answered = flow.answered.records.get() > 0;
            let over = self.quiet.is_none() || answered && self.is_quiet(flow.answered.last.get());
            for event in estimate.open(&flow, &key).filter(|_| over) {
                self.hand_out(&event);
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
            self.hand_out(&event);
        }
    }

    /// Whether an answer that ended at `last` is over.
    fn is_quiet(&self, last: u64) -> bool {
        self.quiet.is_none_or(|quiet| self.now.saturating_sub(last) >= quiet)
    }

    /// Hands an exchange out, unless it has been.
    fn hand_out(&mut self, event: &ExchangeEvent) {
        if self.kept.known.hand_out(event) {
            self.out.push(Ended { event: *event, epoch: self.epoch });
        }
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
