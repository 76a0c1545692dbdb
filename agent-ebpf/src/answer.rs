//! The server's direction: what an answer amounts to.
//!
//! Every application record of the server belongs to the turn that is open when it leaves. Under TLS 1.3
//! session tickets look like application data and may come after the first request: two equal records
//! at its begin are tickets, and a lone one is kept pending until the next record tells.

use crate::{
    abi::{Counter, Protocol},
    flow::{
        APART, Answered, EARLY, Flow, HANDSHAKE_DONE, PIPELINE, ServerHalf, TLS_13, TLS_HTTP2, TLS_KNOWN,
        TLS_SETTINGS, is_established, protocol,
    },
    http::{self, CONTINUE_LEN},
    packet::{FIN, PSH, Packet, RST, SYN, Segment},
    stream::{Place, Taken, estimate_application_bytes},
    tls::{self, APPLICATION_DATA, Record, Within, is_finished},
    track::Tables,
    walk::{self, Header as _, Position, Reader},
};

/// Content of an encrypted alert.
const ALERT: u32 = 2;
/// The end of a chunked body, which is no record of its own (RFC 9112 section 7.1); a key update is as long.
const CHUNK_END: u32 = 5;
/// The first application record of an HTTP/1 server holds a status line and header fields, that of an
/// HTTP/2 server its settings.
pub(crate) const MAX_SETTINGS: u32 = 64;
/// Content of EncryptedExtensions with ALPN for `h2` (RFC 7301 section 3.1), alone, with an acknowledged server
/// name, with accepted early data, or with both. Those for `http/1.1` are six bytes longer, those without ALPN
/// nine shorter.
const ENCRYPTED_EXTENSIONS_HTTP2: [u32; 3] = [15, 19, 23];
/// Lengths that session tickets have.
const TICKET_LEN: core::ops::RangeInclusive<u32> = 100..=1400;
/// Tickets after which a connection gets no more: servers send two, or one on resumption.
const MAX_TICKETS: u8 = 2;

/// Two tickets leave one right after the other; an answer as long as the one before takes a request and some thought.
/// Nanoseconds.
const MAX_TICKETS_APART: u64 = 10_000_000;

/// The connection began anew: so does this half.
#[inline(always)]
pub(crate) fn connect(flow: &Flow, half: &mut ServerHalf, connection: u32) {
    let unreported = half.unreported;
    *half = ServerHalf { unreported, connection, ..ServerHalf::default() };
    flow.answered.tls.set(0);
    flow.answered.turn.set(0);
    flow.answered.records.set(0);
    flow.answered.pending.set(0);
}

/// Takes the usual segment of an established flow: an acknowledgement, or the next data of the answer under
/// way, within one record. `false` for every other; then nothing has changed.
///
/// The time is that at which the server's socket sent it. Where that is not known the precise clock is read where an
/// answer may end: with the last record of what the server had to send, which TCP marks.
#[inline(always)]
pub(crate) fn goes_on<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &mut ServerHalf,
    segment: &Segment,
) -> bool {
    let answered = &flow.answered;
    if !is_established(flow.asked.mode.get())
        || segment.has(SYN | FIN | RST)
        || half.connection != flow.asked.connection.get()
    {
        return false;
    }
    if segment.payload_len == 0 {
        return true;
    }
    if answered.turn.get() != flow.asked.turn.get() || answered.records.get() < 2 {
        return false;
    }
    let Some(within) = Within::of(&half.stream, packet, segment) else { return false };
    let content = within.begins.saturating_sub(answered.overhead());
    if within.begins > 0 && content <= CHUNK_END {
        return false;
    }
    half.stream.step(segment.payload_len, within.remaining);
    if within.begins > 0 {
        answered.count(content);
    }
    if within.remaining == 0 {
        let last = match packet.sent_at() {
            Some(time) => time,
            None if segment.has(PSH) => tables.now(),
            None => tables.coarse_now(),
        };
        answered.last.set(last);
    }
    true
}

/// The settings of an HTTP/2 server go by.
#[inline(always)]
pub(crate) fn settings(answered: &Answered) {
    answered.tls.set(answered.tls.get() | TLS_HTTP2 | TLS_SETTINGS);
}

/// Takes a segment with data.
#[inline(always)]
pub(crate) fn segment<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &mut ServerHalf,
    segment: &Segment,
    position: &mut Position<5>,
) {
    let mode = flow.asked.mode.get();
    let turn = flow.asked.turn.get();
    let answered = &flow.answered;
    if turn != 0 && answered.turn.get() != turn && answered.shared.get() != APART {
        answered.begin(turn);
    }
    match protocol(mode) {
        Protocol::Tls => records(packet, tables, flow, half, segment, position, mode, turn),
        Protocol::Unknown | Protocol::Http2 | Protocol::TlsHttp2 => {}
        _ => clear_text(packet, answered, half, segment, turn, tables.now()),
    }
}

/// An answer that a segment begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    /// To this turn.
    To(u32),
    /// To a request that was taken for a part of the one before.
    Unasked,
}

/// The answer that a segment begins with, as far as that tells more than the turn that is open.
#[inline(always)]
pub(crate) fn begins<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &mut ServerHalf,
    segment: &Segment,
) -> Option<Begins> {
    match protocol(flow.asked.mode.get()) {
        Protocol::Http1 => begins_in_clear_text(packet, flow, half, segment),
        Protocol::Tls if follows_an_answer(packet, tables, flow, half, segment) => Some(Begins::Unasked),
        _ => None,
    }
}

/// TLS: whether the pending record was an answer and no ticket, and the client asked again behind it. Of a service
/// whose tickets are not known yet, this is the first that tells.
#[inline(always)]
fn follows_an_answer<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &ServerHalf,
    segment: &Segment,
) -> bool {
    let (asked, answered) = (&flow.asked, &flow.answered);
    let pending = answered.pending.get();
    let port = segment.key.server_port;
    if pending == 0
        || answered.turn.get() != asked.turn.get()
        || asked.end.get() <= answered.first.get()
        || !half.stream.is_next(segment.seq)
        || half.stream.remaining != 0
        || tables.ticket_len(port).is_some()
    {
        return false;
    }
    let Some(record) = Record::at_start(packet, segment) else { return false };
    let apart = tables.now() - answered.first.get();
    if record.kind != APPLICATION_DATA || record.len == pending && apart < MAX_TICKETS_APART {
        return false;
    }
    tables.learn_ticket_len(port, 0);
    true
}

/// Clear text: the answer whose status line a segment begins with. No request line was seen for it where several
/// requests came in one segment, which could not be read.
#[inline(always)]
fn begins_in_clear_text<P: Packet>(
    packet: &P,
    flow: &Flow,
    half: &mut ServerHalf,
    segment: &Segment,
) -> Option<Begins> {
    let (mode, turn) = (flow.asked.mode.get(), flow.asked.turn.get());
    if turn == 0
        || segment.payload_len < 12
        || !half.stream.is_fresh(segment.seq)
        || !packet.load(segment.payload).is_some_and(http::is_final_answer)
    {
        return None;
    }
    let before = flow.turns_before.get();
    let seen = turn.wrapping_sub(before);
    // One more than the requests that were seen, and this one's turn has an answer already.
    if half.answers >= seen && flow.is_answered() {
        return Some(Begins::Unasked);
    }
    // Who did not wait is answered in the order of the requests. Who did is answered now.
    let in_order = mode & PIPELINE != 0 && half.answers < seen;
    half.answers = if in_order { half.answers + 1 } else { seen };
    Some(Begins::To(before.wrapping_add(half.answers)))
}

/// Clear text: every byte is the application's, bar an interim answer.
#[inline(always)]
fn clear_text<P: Packet>(
    packet: &P,
    answered: &Answered,
    half: &mut ServerHalf,
    segment: &Segment,
    turn: u32,
    now: u64,
) {
    let Taken { mut bytes, fresh, .. } = half.stream.take(segment.seq, segment.payload_len);
    if fresh
        && answered.records.get() == 0
        && segment.payload_len >= CONTINUE_LEN
        && packet.load(segment.payload).is_some_and(http::is_continue)
    {
        bytes = bytes.saturating_sub(CONTINUE_LEN);
    }
    if turn != 0 && bytes > 0 {
        answered.add(bytes, now);
    }
}

/// TLS: walks the records.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "what a packet is, what its flow is, and room to work")]
fn records<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &mut ServerHalf,
    segment: &Segment,
    position: &mut Position<5>,
    mode: u32,
    turn: u32,
) {
    let answered = &flow.answered;
    if answered.tls.get() & TLS_KNOWN == 0
        && let Some(hello) = tls::server_hello(packet, segment)
    {
        tables.learn_tls(segment.key.server_port);
        answered.tls.set(TLS_KNOWN | if hello.tls13 { TLS_13 } else { 0 } | hello.overhead);
    }
    let end = segment.seq.wrapping_add(segment.payload_len);
    let offset = match half.stream.place(segment.seq, segment.payload_len) {
        Place::Old => return,
        Place::Walk(offset) => offset,
        _ => {
            let boundary = Record::at_start(packet, segment).is_some();
            if half.stream.in_sync() {
                tables.count(Counter::Desync);
            }
            let missed = if boundary { half.stream.resume(segment.seq) } else { half.stream.lose(end) };
            miss(answered, missed, turn, tables.now());
            if !boundary {
                return;
            }
            0
        }
    };
    let now = tables.now();
    if turn != 0 && half.stream.remaining > 0 && answered.records.get() > 0 {
        answered.last.set(now);
    }
    let ServerHalf { stream, ticket_len, tickets, finished, .. } = half;
    let reader = Answer {
        tables,
        answered,
        ticket_len,
        tickets,
        finished,
        port: segment.key.server_port,
        mode,
        turn,
        tls13: answered.tls.get() & TLS_13 != 0,
        overhead: answered.overhead(),
        now,
    };
    if let Some(uncounted) = walk::follow(stream, packet, tables, segment, offset, position, reader) {
        miss(answered, uncounted, turn, now);
    }
}

/// Bytes of the answer went by unread.
#[inline(always)]
fn miss(answered: &Answered, missed: u32, turn: u32, now: u64) {
    if turn != 0 {
        answered.derived.set(1);
        if missed > 0 {
            answered.add(estimate_application_bytes(missed), now);
        }
    }
}

/// Reads the server's records.
struct Answer<'a, T> {
    tables: &'a T,
    answered: &'a Answered,
    ticket_len: &'a mut u16,
    tickets: &'a mut u8,
    finished: &'a mut u8,
    port: u16,
    mode: u32,
    turn: u32,
    tls13: bool,
    overhead: u32,
    now: u64,
}

impl<T: Tables> Reader<Record> for Answer<'_, T> {
    #[inline(always)]
    fn record(&mut self, record: Record, _present: u32) {
        if record.kind != APPLICATION_DATA || self.is_handshake(record.len) {
            return;
        }
        let content = record.len.saturating_sub(self.overhead);
        if content <= ALERT {
            return;
        }
        if self.turn == 0 {
            self.unasked(record.len, content);
        } else {
            self.answer(record.len, content);
        }
    }
}

impl<T: Tables> Answer<'_, T> {
    /// TLS 1.3 encrypts its handshake, too: everything before the client's Finished, which with early
    /// data ends at the server's own.
    #[inline(always)]
    fn is_handshake(&mut self, len: u32) -> bool {
        if !self.tls13 || self.mode & HANDSHAKE_DONE != 0 || *self.finished != 0 {
            return false;
        }
        if ENCRYPTED_EXTENSIONS_HTTP2.contains(&len.saturating_sub(self.overhead)) {
            self.answered.tls.set(self.answered.tls.get() | TLS_HTTP2);
        }
        if self.mode & EARLY != 0 && is_finished(len) {
            *self.finished = 1;
        }
        true
    }

    /// Before the first request: session tickets, or an HTTP/2 server's settings.
    #[inline(always)]
    fn unasked(&mut self, len: u32, content: u32) {
        if content <= MAX_SETTINGS {
            settings(self.answered);
        }
        self.ticket(len, 1);
    }

    #[inline(always)]
    fn answer(&mut self, len: u32, content: u32) {
        if self.answered.pending.get() != 0 && self.was_ticket(len) {
            return;
        }
        if self.answered.records.get() > 0 {
            if content == CHUNK_END {
                self.answered.bytes.set(self.answered.bytes.get() + content as u64);
                self.answered.last.set(self.now);
            } else {
                self.answered.add(content, self.now);
            }
            return;
        }
        if content == CONTINUE_LEN || self.may_be_ticket(len) {
            return;
        }
        if self.turn == 1 && content <= MAX_SETTINGS {
            settings(self.answered);
        }
        self.answered.add_first(content, self.now);
    }

    /// Whether the first record of the first answer may be a ticket: it is then kept until the next one.
    #[inline(always)]
    fn may_be_ticket(&mut self, len: u32) -> bool {
        if !self.tls13 || self.turn != 1 || *self.tickets >= MAX_TICKETS || !TICKET_LEN.contains(&len) {
            return false;
        }
        if *self.tickets > 0 && len == *self.ticket_len as u32 {
            self.ticket(len, 1);
            return true;
        }
        self.answered.first.set(self.now);
        self.answered.pending.set(len);
        true
    }

    /// The record after a pending one. `true` when both are tickets; else the pending one is counted, or
    /// was the only ticket.
    #[inline(always)]
    fn was_ticket(&mut self, len: u32) -> bool {
        let pending = self.answered.pending.get();
        self.answered.pending.set(0);
        if len == pending {
            self.answered.first.set(0);
            self.ticket(len, 2);
            return true;
        }
        let learned = self.tables.ticket_len(self.port);
        if learned == Some(pending) {
            self.answered.first.set(0);
            self.ticket(pending, 1);
        } else {
            if learned.is_none() {
                self.tables.learn_ticket_len(self.port, 0);
            }
            self.answered.add_first(pending.saturating_sub(self.overhead), self.answered.first.get());
        }
        false
    }

    #[inline(always)]
    fn ticket(&mut self, len: u32, tickets: u8) {
        if self.tls13 && TICKET_LEN.contains(&len) {
            *self.ticket_len = len as u16;
            *self.tickets = self.tickets.saturating_add(tickets);
            self.tables.learn_ticket_len(self.port, len);
        }
    }
}
