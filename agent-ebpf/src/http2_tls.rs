//! HTTP/2 inside TLS: which exchanges there were is estimated, and how far to believe it is said.
//!
//! Frames are encrypted, but most stacks write each in a record of its own, and an empty DATA frame, which
//! ends a request or an answer, gives itself away: nine bytes. So there are two rules, one a direction:
//! - `asked`: the client's nine-byte records, save the first, which acknowledges the server's settings. A
//!   record nine bytes longer than the usual head of a request is the end of one and the head of the next.
//! - `answered`: the server's nine-byte records once its first answer has begun; before, they acknowledge.
//!
//! Frames that share a record hide an end, and nothing makes one up: so the greater of the two is the better
//! estimate, and their agreement is the confidence. While neither finds anything, or next to nothing, turns of
//! direction are counted, and believed least.
//!
//! Requests are taken to be answered in order. What the connection carried is shared out evenly among the
//! exchanges under way, and an answer that had others beside it has no time of its first byte, since nothing
//! tells whose a record was.
//!
//! Invariant: every application byte of either side, bar control frames and the client's frame headers, is in
//! one exchange.

use core::{cell::UnsafeCell, ops::ControlFlow};

use crate::{
    abi::{ABORTED, CERTAIN, Counter, ExchangeEvent, FlowKey},
    admission,
    answer::{self, MAX_SETTINGS},
    cell::{Shared32, Shared64},
    flow::{Flow, TLS_SETTINGS},
    packet::{Direction, FIN, Packet, RST, Segment},
    tls::{APPLICATION_DATA, Record},
    track::{self, Scratch, Step, Tables},
    walk::{self, Reader},
};

/// A frame header, and so the content of an empty DATA frame and of the acknowledgement of settings.
const EMPTY: u32 = 9;
/// Contents of other control frames: WINDOW_UPDATE (one to four in a record) and RST_STREAM, PING.
const CONTROL: [u32; 5] = [13, 26, 39, 52, 17];
/// Largest record content that is TLS's own: alerts, key updates.
const MAX_TLS: u32 = 8;
/// The preface, settings and a WINDOW_UPDATE; also the head of a request once its fields are in the peer's
/// table.
const MAX_SHORT: u32 = 128;
/// How far heads of requests vary: by the digits of a length.
const HEAD_VARIES: u32 = 2;
/// Requests under way whose times are kept; of more, the oldest is handed out.
const KEPT: u32 = 32;
/// A rule that finds fewer than one end in this many exchanges does not fit.
const FITS: u32 = 4;

/// Ingress's own state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Client {
    /// Begin of the request that is being sent; 0 between two.
    start: u64,
    /// Nine-byte records.
    empties: u32,
    /// Content of the usual head: a short record behind the end of a request.
    head: u32,
    /// [`Estimate::data`] when the newest turn began.
    turned_at: u32,
    /// The preface has gone by.
    greeted: bool,
    /// The record before ended a request.
    ended: bool,
    pad: u16,
}

/// When a request was sent.
#[repr(C)]
#[derive(Debug, Default)]
struct Sent {
    start: Shared64,
    end: Shared64,
}

/// What is estimated of one connection. What both directions write, they claim or add to atomically.
#[repr(C)]
#[derive(Debug)]
pub struct Estimate {
    client: UnsafeCell<Client>,
    /// The newest requests, by their number modulo [`KEPT`]; ingress's.
    sent: [Sent; KEPT as usize],
    /// Begin of the newest turn of direction; ingress's.
    turned: Shared64,
    /// The client's application bytes; ingress's.
    bytes: Shared64,
    /// Of those, what was handed out.
    given: Shared64,
    /// The connection that this is of; ingress's.
    number: Shared32,
    /// Ends of requests; ingress's.
    asked: Shared32,
    /// Turns of direction while the rules found nothing; ingress's.
    turns: Shared32,
    /// Ends of answers; egress's.
    answered: Shared32,
    /// The server's records since its settings that are no control frames; egress's.
    data: Shared32,
    /// Non-zero when the open answer has others beside it; egress's.
    mixed: Shared32,
    /// Exchanges handed out.
    exchanges: Shared32,
    /// Non-zero when the connection is over.
    over: Shared32,
}

// SAFETY: the client's half is reached only by ingress, one packet at a time; everything else is atomic.
unsafe impl Sync for Estimate {}

const _: () = assert!(size_of::<Estimate>() == 24 + KEPT as usize * 16 + 56);

impl Default for Estimate {
    fn default() -> Self {
        Self {
            client: UnsafeCell::default(),
            sent: core::array::from_fn(|_| Sent::default()),
            turned: Shared64::default(),
            bytes: Shared64::default(),
            given: Shared64::default(),
            number: Shared32::default(),
            asked: Shared32::default(),
            turns: Shared32::default(),
            answered: Shared32::default(),
            data: Shared32::default(),
            mixed: Shared32::default(),
            exchanges: Shared32::default(),
            over: Shared32::default(),
        }
    }
}

impl Estimate {
    /// Requests so far: what the better rule says.
    #[inline(always)]
    fn requests(&self) -> u32 {
        greater(greater(self.asked.get(), self.answered.get()), self.turns.get())
    }

    /// How far a count of `exchanges` is to be believed, of [`CERTAIN`]: the odds that both rules find the next
    /// one, after those that they have found so far (Laplace's rule of succession).
    #[inline(always)]
    fn confidence(&self, exchanges: u32) -> u16 {
        let agreed = lesser(lesser(self.asked.get(), self.answered.get()), exchanges);
        (u64::from(CERTAIN) * (u64::from(agreed) + 1) / (u64::from(exchanges) + 2)) as u16
    }

    /// Exchanges under way.
    #[inline(always)]
    fn under_way(&self) -> u32 {
        self.requests().saturating_sub(self.exchanges.get())
    }

    /// Whether turns of direction are all there is to go by.
    #[inline(always)]
    fn by_turns(&self) -> bool {
        self.turns.get() >= FITS * greater(self.asked.get(), self.answered.get())
    }

    #[inline(always)]
    fn sent(&self, number: u32) -> &Sent {
        &self.sent[(number % KEPT) as usize]
    }

    /// What the oldest of `among` exchanges under way has of the client's bytes, the server's, and its records.
    #[inline(always)]
    fn share(&self, flow: &Flow, among: u32) -> Share {
        let unasked = self.bytes.get().saturating_sub(self.given.get());
        let of = |whole: u64| whole.checked_div(u64::from(among)).unwrap_or(whole);
        Share {
            asked: of(unasked),
            answered: of(flow.answered.bytes.get()),
            records: of(u64::from(flow.answered.records.get())) as u32,
        }
    }

    /// Describes exchange `number`.
    #[inline(always)]
    fn describe(&self, flow: &Flow, number: u32, share: &Share, at_end: bool, event: &mut ExchangeEvent) {
        flow.describe(flow.answered.turn.get(), 0, event);
        let sent = self.sent(number);
        event.turn = number;
        event.confidence = self.confidence(if at_end { self.requests() } else { number });
        (event.start, event.request_end) = (sent.start.get(), sent.end.get());
        (event.request_bytes, event.answer_bytes) = (share.asked, share.answered);
        (event.request_head, event.answer_head) = (0, 0);
        event.records = share.records;
        if self.mixed.get() != 0 {
            (event.first, event.second) = (0, 0);
        }
    }

    /// Takes what exchange `number` had of the connection away from the rest.
    #[inline(always)]
    fn take(&self, flow: &Flow, share: &Share, among: u32) {
        self.given.add(share.asked);
        let answered = &flow.answered;
        if among <= 1 {
            self.mixed.set(0);
            answered.begin(answered.turn.get());
        } else {
            answered.bytes.set(answered.bytes.get().saturating_sub(share.answered));
            answered.records.set(answered.records.get().saturating_sub(share.records));
        }
    }

    /// Requests so far, and how far to believe that, of [`CERTAIN`]; `None` when this is not of the connection
    /// that `flow` is now.
    pub fn count(&self, flow: &Flow) -> Option<(u32, u16)> {
        (self.number.get() == number(flow)).then(|| (self.requests(), self.confidence(self.exchanges.get())))
    }

    /// The exchanges that are open, for the owner of copies of this and of its flow. Addresses and ports are
    /// those of the flow's key.
    pub fn open(&self, flow: &Flow, key: &FlowKey) -> impl Iterator<Item = ExchangeEvent> {
        let is_open = self.number.get() == number(flow) && self.over.get() == 0;
        let under_way = if is_open { self.under_way() } else { 0 };
        (1..=under_way).rev().map(move |among| {
            let mut event = ExchangeEvent::of(key);
            let number = self.exchanges.get() + 1;
            let share = self.share(flow, among);
            self.describe(flow, number, &share, true, &mut event);
            self.take(flow, &share, among);
            self.exchanges.set(number);
            event
        })
    }
}

/// What [`Estimate::number`] is for the connection that a flow is now: 0 is for none.
#[inline(always)]
fn number(flow: &Flow) -> u32 {
    flow.asked.connection.get().wrapping_add(1)
}

/// What one exchange has of its connection.
struct Share {
    asked: u64,
    answered: u64,
    records: u32,
}

#[inline(always)]
fn lesser(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn greater(a: u32, b: u32) -> u32 {
    if a < b { b } else { a }
}

/// The connection of a segment.
struct Estimating<'a, T> {
    tables: &'a T,
    segment: &'a Segment,
    flow: &'a Flow,
    estimate: &'a Estimate,
    now: u64,
}

/// A packet from the client.
#[inline(always)]
pub(crate) fn ingress<P: Packet, T: Tables>(packet: &P, tables: &T) {
    let Some(scratch) = tables.scratch(Direction::Ingress) else { return };
    let Scratch { segment, work, .. } = scratch;
    let Some(flow) = track::lookup(tables, segment) else { return };
    let key = segment.key;
    let Some(estimate) = tables.estimate(&key).or_else(|| tables.insert_estimate(&key)) else {
        tables.count(Counter::StreamLost);
        return;
    };
    let connection = Estimating { tables, segment, flow, estimate, now: tables.now() };
    // SAFETY: promised by the implementor of `Tables`: one packet of this direction at a time.
    let (half, client) = unsafe { (flow.client_half(), &mut *estimate.client.get()) };
    if estimate.number.get() != number(flow) {
        connection.take_over(client);
        // Its ports, used again, are those of a new connection.
        half.turns += u32::from(half.turns == 0);
    }
    if segment.payload_len > 0 {
        let begin = walk::find(&mut half.stream, packet, tables, segment, |_: &Record| true);
        connection.asked(begin.missed);
        if let Some(offset) = begin.offset {
            flow.asked.end.set(connection.now);
            let reader = Asking { connection: &connection, client, overhead: flow.answered.overhead() };
            let position = &mut work.position;
            let missed = walk::follow(&mut half.stream, packet, tables, segment, offset, position, reader);
            connection.asked(missed);
        }
    }
    if flow.closed.get() != 0 {
        connection.end();
    }
}

/// A packet to the client.
#[inline(always)]
pub(crate) fn egress<P: Packet, T: Tables>(packet: &P, tables: &T) {
    let Some(scratch) = tables.scratch(Direction::Egress) else { return };
    let Scratch { segment, work, .. } = scratch;
    let Some(flow) = track::lookup(tables, segment) else { return };
    let Some(estimate) = tables.estimate(&segment.key) else { return };
    if estimate.number.get() != number(flow) {
        return;
    }
    let connection = Estimating { tables, segment, flow, estimate, now: tables.now() };
    // SAFETY: promised by the implementor of `Tables`.
    let half = unsafe { flow.server_half() };
    if segment.payload_len > 0 {
        let begin = walk::find(&mut half.stream, packet, tables, segment, |_: &Record| true);
        connection.answered(begin.missed);
        if let Some(offset) = begin.offset {
            if half.stream.remaining > 0 {
                flow.answered.last.set(connection.now);
            }
            let reader = Answering { connection: &connection, overhead: flow.answered.overhead() };
            let position = &mut work.position;
            let missed = walk::follow(&mut half.stream, packet, tables, segment, offset, position, reader);
            connection.answered(missed);
        }
    }
    if segment.has(FIN | RST) {
        connection.end();
    }
}

impl<T: Tables> Estimating<'_, T> {
    /// The first packet since the server has shown that it speaks HTTP/2. What began as a turn like that of any
    /// TLS connection is the first request.
    #[inline(always)]
    fn take_over(&self, client: &mut Client) {
        let Self { flow, estimate, now, .. } = self;
        // The ports may have been used before.
        self.end();
        *client = Client::default();
        let Estimate { asked, turns, answered, data, mixed, exchanges, over, .. } = estimate;
        for cell in [asked, turns, answered, data, mixed, exchanges, over] {
            cell.set(0);
        }
        estimate.given.set(0);
        estimate.bytes.set(0);
        estimate.number.set(number(flow));
        if flow.claim().is_some() {
            client.greeted = true;
            client.start = flow.asked.start.get();
            estimate.bytes.set(flow.asked.bytes.get());
            estimate.turns.set(1);
            estimate.turned.set(client.start);
            self.send(1, client.start, *now);
        }
    }

    /// Keeps when request `number` was sent.
    #[inline(always)]
    fn send(&self, number: u32, start: u64, end: u64) {
        let sent = self.estimate.sent(number);
        sent.start.set(start);
        sent.end.set(end);
    }

    /// A request counts.
    #[inline(always)]
    fn count(&self) {
        if let Some(client) = admission::client(self.tables, self.flow, self.segment) {
            client.requests.add(1);
        }
    }

    /// A request ends.
    #[inline(always)]
    fn ask(&self, client: &mut Client) {
        let Self { estimate, now, .. } = self;
        let start = if client.start == 0 { *now } else { client.start };
        client.start = 0;
        let number = estimate.asked.get() + 1;
        if number > estimate.requests() {
            self.count();
        }
        self.send(number, start, *now);
        estimate.asked.set(number);
        if estimate.under_way() >= KEPT {
            self.hand_out(0, false);
        }
    }

    /// The client sends something that is not control.
    #[inline(always)]
    fn turn(&self, client: &mut Client) {
        let Self { estimate, now, .. } = self;
        let data = estimate.data.get();
        if data == client.turned_at && estimate.requests() > 0 {
            return;
        }
        client.turned_at = data;
        estimate.turned.set(*now);
        // Where the ends of answers do not show, the next request does.
        let shows = FITS * estimate.answered.get() > estimate.exchanges.get();
        if !shows && client.start == 0 && estimate.under_way() == 1 || estimate.by_turns() {
            self.hand_out(0, false);
        }
        if estimate.by_turns() {
            let number = estimate.requests() + 1;
            self.send(number, *now, *now);
            estimate.turns.set(number);
            self.count();
        }
    }

    /// An answer ends.
    #[inline(always)]
    fn answer(&self) {
        let Self { estimate, flow, .. } = self;
        let number = estimate.answered.get() + 1;
        if number > estimate.requests() {
            let start = estimate.turned.get();
            self.count();
            self.send(number, start, flow.asked.end.get());
        }
        estimate.answered.set(number);
        if number > estimate.exchanges.get() {
            self.hand_out(0, false);
        }
    }

    /// Bytes of the client went by unread.
    #[inline(always)]
    fn asked(&self, missed: Option<u32>) {
        self.estimate.bytes.add(u64::from(missed.unwrap_or(0)));
    }

    /// Bytes of the server went by unread.
    #[inline(always)]
    fn answered(&self, missed: Option<u32>) {
        if let Some(missed) = missed {
            self.flow.answered.add(missed, self.now);
        }
    }

    /// Hands the oldest exchange out, if there is one, and nobody else does.
    #[inline(always)]
    fn hand_out(&self, flags: u8, at_end: bool) {
        let Self { tables, segment, flow, estimate, .. } = self;
        let among = estimate.under_way();
        let number = estimate.exchanges.get().wrapping_add(1);
        if among == 0 || estimate.exchanges.swap(number) == number {
            return;
        }
        let share = estimate.share(flow, among);
        track::deliver(*tables, flow, segment, (share.asked, share.answered), |event| {
            estimate.describe(flow, number, &share, at_end, event);
            event.flags |= flags;
        });
        estimate.take(flow, &share, among);
    }

    /// The connection is over, and what was under way with it.
    #[inline(always)]
    fn end(&self) {
        if self.estimate.over.swap(1) == 0 {
            self.tables.repeat(KEPT, &mut End { connection: self });
        }
    }
}

/// Hands out what is open when a connection ends.
struct End<'a, T> {
    connection: &'a Estimating<'a, T>,
}

impl<T: Tables> Step for End<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> ControlFlow<()> {
        let estimate = self.connection.estimate;
        if estimate.under_way() == 0 {
            return ControlFlow::Break(());
        }
        // Where the ends of answers show, one that does not was cut.
        let cut = 2 * estimate.answered.get() > estimate.requests();
        self.connection.hand_out(if cut { ABORTED } else { 0 }, true);
        ControlFlow::Continue(())
    }
}

/// Reads the client's records.
struct Asking<'a, T> {
    connection: &'a Estimating<'a, T>,
    client: &'a mut Client,
    overhead: u32,
}

impl<T: Tables> Reader<Record> for Asking<'_, T> {
    #[inline(always)]
    fn record(&mut self, record: Record, _present: u32) {
        let Self { connection, client, overhead } = self;
        let content = record.len.saturating_sub(*overhead);
        if record.kind != APPLICATION_DATA || content <= MAX_TLS || CONTROL.contains(&content) {
            return;
        }
        if content == EMPTY {
            client.empties += 1;
            if client.empties > 1 {
                connection.ask(client);
                client.ended = true;
            }
            return;
        }
        if !client.greeted {
            client.greeted = true;
            if content <= MAX_SHORT {
                return;
            }
        }
        if client.hides_end(content) && (client.start != 0 || connection.estimate.under_way() > 0) {
            connection.ask(client);
        } else if client.ended {
            client.learn_head(content);
        }
        client.ended = false;
        connection.turn(client);
        connection.estimate.bytes.add(u64::from(content.saturating_sub(EMPTY)));
        if client.start == 0 {
            client.start = connection.now;
        }
    }
}

impl Client {
    /// Whether a record is the end of a request and the head of the next.
    #[inline(always)]
    fn hides_end(&self, content: u32) -> bool {
        let least = self.head + EMPTY - HEAD_VARIES;
        self.head != 0 && content.wrapping_sub(least) <= 2 * HEAD_VARIES
    }

    /// Learns the usual head from a record behind the end of a request. One that is a little shorter has a field
    /// less, which the peer's table has.
    #[inline(always)]
    fn learn_head(&mut self, content: u32) {
        if content <= MAX_SHORT && (content > self.head || content + EMPTY <= self.head) {
            self.head = content;
        }
    }
}

/// Reads the server's records.
struct Answering<'a, T> {
    connection: &'a Estimating<'a, T>,
    overhead: u32,
}

impl<T: Tables> Reader<Record> for Answering<'_, T> {
    #[inline(always)]
    fn record(&mut self, record: Record, _present: u32) {
        let Estimating { flow, estimate, now, .. } = self.connection;
        let content = record.len.saturating_sub(self.overhead);
        if record.kind != APPLICATION_DATA || content <= MAX_TLS || CONTROL.contains(&content) {
            return;
        }
        if flow.answered.tls.get() & TLS_SETTINGS == 0 && content <= MAX_SETTINGS && content != EMPTY {
            // What came before were session tickets.
            answer::settings(&flow.answered);
            flow.answered.begin(flow.answered.turn.get());
            estimate.data.set(0);
            return;
        }
        if estimate.under_way() > 1 {
            estimate.mixed.set(1);
        }
        if content == EMPTY {
            if estimate.data.get() > 0 {
                flow.answered.bytes.set(flow.answered.bytes.get() + u64::from(content));
                flow.answered.last.set(*now);
                self.connection.answer();
            }
        } else {
            estimate.data.set(estimate.data.get() + 1);
            flow.answered.add(content, *now);
        }
    }
}
