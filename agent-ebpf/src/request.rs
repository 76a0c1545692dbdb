//! The client's direction: where a request begins.
//!
//! A request begins with the first application bytes after the server has answered the one before
//! (or, in clear text, with a request line). Under TLS, application bytes are those of records of type
//! 23 that are neither handshake (a TLS 1.3 Finished is one of them) nor alerts.

use crate::{
    abi::{Counter, Protocol},
    admission,
    flow::{
        ANSWER_DERIVED, ClientHalf, EARLY, EARLY_ENDED, Flow, HANDSHAKE_DONE, PIPELINE, REQUEST_DERIVED,
        SETTLED, SYN_DOUBTFUL, SYN_SEEN, TLS_13, TLS_HTTP2, TLS_KNOWN, is_established, protocol,
    },
    hello, http,
    http1::{self, Framing},
    http2,
    packet::{FIN, PSH, Packet, RST, SYN, Segment},
    stream::{Place, Taken, estimate_application_bytes},
    tls::{APPLICATION_DATA, END_OF_EARLY_DATA, HANDSHAKE, Record, Within, is_finished},
    track::Tables,
    walk::{self, Header as _, Position, Reader},
};

/// Room to work in while a segment is handled. It lies in a map, like all that is written in a loop: the
/// verifier follows the values of variables, and would follow each combination on its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    pub(crate) found: Found,
    pub(crate) position: Position<5>,
    pub(crate) http1: http1::Work,
}

/// A turn that begins with this segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    /// Its application bytes so far.
    pub(crate) bytes: u64,
    /// Those of the record that it begins with; 0 where it begins with bytes that were missed, or with no record.
    pub(crate) head: u32,
    /// The flow's mode from here on.
    pub(crate) mode: u32,
    /// It is TLS 1.3 early data: it counts once the server has accepted it.
    pub(crate) early: bool,
}

/// Largest record content that is control, not application data: alerts, key updates.
const MAX_CONTROL: u32 = 8;
/// Encrypted handshake records (client certificates) that may come before the Finished.
const MAX_HANDSHAKE_RECORDS: u8 = 4;
/// A segment too short for a request: an alert on its own.
const MAX_ALERT_SEGMENT: u32 = 31;
/// The longest segment that ends a handshake without a client certificate: ChangeCipherSpec and Finished.
const MAX_FINISHED_SEGMENT: u32 = 80;

/// Takes the usual segment of an established flow: an acknowledgement, or the next data of the request
/// under way, within one record. `false` for every other; then nothing has changed.
///
/// The precise clock is read where a request may end: with the last record of what the client had to send,
/// which TCP marks.
#[inline(always)]
pub(crate) fn goes_on<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
) -> bool {
    let tls = flow.answered.tls.get();
    if !is_established(flow.asked.mode.get())
        || segment.has(SYN | FIN | RST)
        || half.flags & (SYN_DOUBTFUL | SETTLED) != SETTLED
        || tls & TLS_HTTP2 != 0
    {
        return false;
    }
    if segment.payload_len == 0 {
        return true;
    }
    let Some(within) = Within::of(&half.stream, packet, segment) else { return false };
    if within.begins > 0 {
        let content = within.begins.saturating_sub(flow.answered.overhead());
        if content <= MAX_CONTROL || flow.asked.turn.get() == 0 || flow.is_answered() {
            return false;
        }
        half.bytes += content as u64;
        flow.asked.bytes.set(half.bytes);
    }
    half.stream.step(segment.payload_len, within.remaining);
    if within.remaining == 0 {
        flow.asked.end.set(if segment.has(PSH) { tables.now() } else { tables.coarse_now() });
    }
    true
}

/// Takes a segment with data; returns the turn that it begins, if it does.
#[inline(always)]
pub(crate) fn segment<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
    work: &mut Work,
    now: u64,
) -> Option<Begun> {
    let mut mode = flow.asked.mode.get();
    if protocol(mode) == Protocol::Unknown {
        mode |= recognise(packet, half, segment) as u32;
        flow.asked.mode.set(mode);
    }
    mode = http2_inside(flow, mode);
    match protocol(mode) {
        Protocol::Tls => {
            if mode & HANDSHAKE_DONE == 0 {
                hello::client(packet, tables, flow, half, segment);
            }
            records(packet, tables, flow, half, segment, work, mode, now)
        }
        Protocol::Unknown => {
            // Behind a gap at the begin. In clear text nothing may leave, so the service decides.
            if tables.speaks_tls(segment.key.server_port) {
                hello::client(packet, tables, flow, half, segment);
            }
            half.stream.hold(segment.seq.wrapping_add(segment.payload_len));
            None
        }
        // It has a stage of its own, which places the segment.
        Protocol::TlsHttp2 => None,
        // Likewise, in a stream of its own.
        Protocol::Http2 => {
            half.stream.hold(segment.seq.wrapping_add(segment.payload_len));
            None
        }
        known => clear_text(packet, flow, half, segment, &mut work.http1, (mode, known), now),
    }
}

/// The mode of a flow whose server has shown that it speaks HTTP/2: once the handshake is over, a stage of its
/// own goes on with it.
#[inline(always)]
pub(crate) fn http2_inside(flow: &Flow, mode: u32) -> u32 {
    let known = flow.answered.tls.get() & TLS_HTTP2 != 0;
    if !known || protocol(mode) != Protocol::Tls || mode & HANDSHAKE_DONE == 0 {
        return mode;
    }
    let mode = mode & !0xff | Protocol::TlsHttp2 as u32;
    flow.asked.mode.set(mode);
    mode
}

/// What the connection speaks, from the begin of a segment. A connection met in its middle stays
/// unknown until a segment begins with something that can be told.
#[inline(always)]
fn recognise<P: Packet>(packet: &P, half: &ClientHalf, segment: &Segment) -> Protocol {
    if Record::at_start(packet, segment).is_some() {
        return Protocol::Tls;
    }
    // Behind a gap nothing can be told of the begin.
    let begins = half.flags & SYN_SEEN != 0 && half.stream.next == segment.seq;
    match start(packet, segment) {
        Some(start) if http::is_request(start) => Protocol::Http1,
        Some(start) if http::is_http2_preface(start) => Protocol::Http2,
        // So short that only its first byte tells.
        None if begins && packet.load(segment.payload) == Some([HANDSHAKE]) => Protocol::Tls,
        None if begins && packet.load(segment.payload).is_some_and(http::may_be_request) => Protocol::Http1,
        _ if begins => Protocol::Other,
        Some(start) if http2::is_request(start) => Protocol::Http2,
        _ => Protocol::Unknown,
    }
}

#[inline(always)]
fn start<P: Packet>(packet: &P, segment: &Segment) -> Option<[u8; 8]> {
    if segment.payload_len < 8 { None } else { packet.load(segment.payload) }
}

/// Clear text: every byte is the application's.
#[inline(always)]
fn clear_text<P: Packet>(
    packet: &P,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
    reading: &mut http1::Work,
    (mode, protocol): (u32, Protocol),
    now: u64,
) -> Option<Begun> {
    let Taken { bytes, fresh, fills, gap } = half.stream.take(segment.seq, segment.payload_len);
    if bytes == 0 && !fills {
        return None;
    }
    let answered = half.turns == 0 || flow.asked.turn.get() == 0 || flow.is_answered();
    let inside = half.framing.is_inside() && !fills;
    let skipped = half.framing.skip(bytes);
    if inside && (skipped || !gap) {
        if !skipped {
            reading.read(segment, bytes);
        }
        half.bytes += bytes as u64;
        flow.asked.bytes.set(half.bytes);
        flow.asked.end.set(now);
        return None;
    }
    let may_begin = answered || half.framing.is_between();
    let head = (fresh || fills) && protocol == Protocol::Http1 && is_head(packet, segment, may_begin);
    // A head that fills a gap has begun its turn already when the turn begins with that gap.
    let begins = if head {
        !(fills && segment.seq == half.turn_seq)
    } else {
        answered && begins_unseen(half, protocol, gap)
    };
    if !begins {
        if !fills {
            half.framing.lose();
        }
        half.bytes += bytes as u64;
        flow.asked.bytes.set(half.bytes);
        flow.asked.end.set(now);
        return None;
    }
    half.turn_seq = half.stream.next;
    half.framing.lose();
    if head && !gap && half.turn_seq == segment.seq {
        half.framing = Framing::BEGIN;
        reading.read(segment, segment.payload_len);
    }
    let pipelined = if answered { 0 } else { PIPELINE };
    Some(Begun { bytes: bytes as u64, head: 0, mode: mode & !PIPELINE | pipelined, early: false })
}

/// Whether a segment begins with a request line. Of one too short to tell, what came before it decides.
#[inline(always)]
fn is_head<P: Packet>(packet: &P, segment: &Segment, may_begin: bool) -> bool {
    match start(packet, segment) {
        Some(start) => http::is_request(start),
        None => may_begin && packet.load(segment.payload).is_some_and(http::may_be_request),
    }
}

/// Whether client bytes after an answer begin a request although no request line was seen: where there
/// are none, or where it may be in a gap.
#[inline(always)]
fn begins_unseen(half: &ClientHalf, protocol: Protocol, gap: bool) -> bool {
    protocol != Protocol::Http1 || gap || half.turns == 0
}

/// What the records of one segment come to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    /// Application bytes of the open turn.
    bytes: u64,
    /// Application bytes that went by unread before a turn that begins.
    carried: u32,
    /// The mode from here on.
    mode: u32,
    /// Content of the record that the turn begins with.
    head: u32,
    /// The open turn is answered: the next application data begins another.
    answered: bool,
    /// A turn begins.
    pub(crate) begins: bool,
    /// Application data was among them, or a part of it.
    application: bool,
    /// What became of early data.
    early: EarlyData,
}

/// What a segment tells of TLS 1.3 early data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum EarlyData {
    /// Nothing.
    #[default]
    None,
    /// A turn begins with it.
    Begins,
    /// It was accepted: the turn counts from now.
    Accepted,
    /// It was rejected: the turn is taken back.
    Rejected,
}

/// TLS: walks the records, or what can be told without.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "what a packet is, what its flow is, and room to work")]
fn records<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
    work: &mut Work,
    mode: u32,
    now: u64,
) -> Option<Begun> {
    let answered = flow.asked.turn.get() == 0 || is_over(tables, flow, segment);
    let Work { found, position, .. } = work;
    *found = Found { bytes: half.bytes, mode, answered, ..Found::default() };
    let place = half.stream.place(segment.seq, segment.payload_len);
    let offset = match place {
        Place::Old => return None,
        Place::Walk(offset) => Some(offset),
        // Which records of a handshake are which only their order tells: what is missing is waited for.
        Place::Gap if mode & HANDSHAKE_DONE == 0 => None,
        Place::Gap | Place::Lost => Record::at_start(packet, segment).map(|record| {
            if place == Place::Lost && half.turns == 0 && record.kind == APPLICATION_DATA {
                // Met in mid-connection.
                found.mode |= HANDSHAKE_DONE;
            }
            let missed = half.stream.resume(segment.seq);
            found.miss(flow, half, missed);
            0
        }),
    };
    match offset {
        Some(offset) => walk(packet, tables, flow, half, segment, offset, position, found),
        None => unwalked(tables, flow, half, segment, place, found),
    }
    settle(tables, flow, half, segment, found, now)
}

/// Walks the records of a segment from `offset` bytes into it.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "what a packet is, what its flow is, and what comes of it")]
fn walk<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
    offset: u32,
    position: &mut Position<5>,
    found: &mut Found,
) {
    found.application = half.stream.remaining > 0 && found.mode & HANDSHAKE_DONE != 0;
    let overhead = flow.answered.overhead();
    let tls = flow.answered.tls.get();
    let ClientHalf { stream, flags, skipped, .. } = half;
    let handshake = Handshake { found, overhead, flags, skipped, tls };
    if let Some(uncounted) = walk::follow(stream, packet, tables, segment, offset, position, handshake) {
        if found.mode & HANDSHAKE_DONE != 0 {
            if found.answered && !found.begins {
                found.begins = true;
                found.bytes = u64::from(found.carried);
            }
            found.application = true;
            found.bytes += u64::from(estimate_application_bytes(uncounted));
        }
        found.mode |= REQUEST_DERIVED;
    }
}

/// A segment whose records cannot be walked: it waits for the bytes before it, or is taken as it is.
#[inline(always)]
fn unwalked<T: Tables>(
    tables: &T,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
    place: Place,
    found: &mut Found,
) {
    let answered = found.answered;
    let end = segment.seq.wrapping_add(segment.payload_len);
    if place == Place::Lost
        && flow.answered.tls.get() & TLS_KNOWN != 0
        && segment.payload_len > MAX_FINISHED_SEGMENT
    {
        // The end of the handshake went by unread: this is more than it would take.
        found.mode |= HANDSHAKE_DONE;
    }
    if found.mode & HANDSHAKE_DONE == 0 || segment.payload_len <= MAX_ALERT_SEGMENT {
        if !half.stream.hold(end) {
            half.stream.lose(end);
        }
        return;
    }
    found.application = true;
    found.begins = answered;
    let gives_up = answered && half.stream.is_holding();
    if place == Place::Gap && !gives_up && half.stream.hold(end) {
        if answered {
            found.bytes = 0;
        }
        return;
    }
    if half.stream.in_sync() {
        tables.count(Counter::Desync);
    }
    let missed = half.stream.lose(segment.seq);
    found.miss(flow, half, missed);
    let own = u64::from(estimate_application_bytes(half.stream.lose(end)));
    found.bytes = own + if answered { u64::from(found.carried) } else { found.bytes };
}

/// The client sends no more: what still waits behind a gap belongs to the open turn.
#[inline(always)]
pub(crate) fn finish(flow: &Flow, half: &mut ClientHalf) {
    if half.stream.is_holding() {
        let missed = half.stream.lose(half.stream.high);
        Found { mode: flow.asked.mode.get(), ..Found::default() }.miss(flow, half, missed);
    }
}

impl Found {
    /// Bytes before this segment went by unread. They belong to the open turn; once that is answered, the
    /// server had all of it, and they belong to the next.
    #[inline(always)]
    fn miss(&mut self, flow: &Flow, half: &mut ClientHalf, missed: u32) {
        if self.answered {
            self.carried = estimate_application_bytes(missed);
        } else if missed > 0 {
            half.bytes += estimate_application_bytes(missed) as u64;
            flow.asked.bytes.set(half.bytes);
            flow.asked.mode.set(flow.asked.mode.get() | REQUEST_DERIVED);
        }
        self.bytes = half.bytes;
        self.mode |= REQUEST_DERIVED;
    }
}

/// Publishes what was found.
#[inline(always)]
fn settle<T: Tables>(
    tables: &T,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
    found: &Found,
    now: u64,
) -> Option<Begun> {
    if found.early == EarlyData::Rejected {
        // The server will not read it; the client asks again after the handshake.
        flow.asked.turn.set(0);
    }
    if found.early == EarlyData::Accepted
        && let Some(client) = admission::settled(tables, half, segment)
    {
        client.requests.add(1);
    }
    if found.begins {
        let early = found.early == EarlyData::Begins;
        return Some(Begun { bytes: found.bytes, head: found.head, mode: found.mode, early });
    }
    if flow.asked.mode.get() != found.mode {
        flow.asked.mode.set(found.mode);
    }
    if found.application {
        half.bytes = found.bytes;
        flow.asked.bytes.set(found.bytes);
        flow.asked.end.set(now);
    }
    None
}

/// Whether the open turn is answered, where a lone first record that is as long as the service's
/// session tickets is no answer. Before it is known how long those are, the server's next record tells: then
/// [`answer::begins`](crate::answer::begins) makes up for a request that went uncounted here.
#[inline(always)]
fn is_over<T: Tables>(tables: &T, flow: &Flow, segment: &Segment) -> bool {
    if !flow.is_answered() {
        return false;
    }
    let pending = flow.answered.pending.get();
    pending == 0
        || flow.answered.records.get() > 0
        || tables.ticket_len(segment.key.server_port).is_some_and(|len| len != pending)
}

/// Which records of the client are application data.
struct Handshake<'a> {
    found: &'a mut Found,
    overhead: u32,
    flags: &'a mut u8,
    skipped: &'a mut u8,
    tls: u32,
}

impl Reader<Record> for Handshake<'_> {
    #[inline(always)]
    fn record(&mut self, record: Record, _present: u32) {
        if record.kind != APPLICATION_DATA {
            return;
        }
        if self.found.mode & HANDSHAKE_DONE == 0 && self.is_handshake(record.len) {
            return;
        }
        let content = record.len.saturating_sub(self.overhead);
        if content <= MAX_CONTROL {
            return;
        }
        if self.found.answered && !self.found.begins {
            self.begin(content);
        }
        self.found.bytes += content as u64;
        self.found.application = true;
    }
}

impl Handshake<'_> {
    /// A turn begins with a record of this content.
    #[inline(always)]
    fn begin(&mut self, content: u32) {
        let found = &mut *self.found;
        found.begins = true;
        found.head = if found.carried == 0 { content } else { 0 };
        found.bytes = u64::from(found.carried);
        found.mode &= !PIPELINE;
        if found.carried == 0 {
            found.mode &= !REQUEST_DERIVED;
        }
        if found.mode & EARLY != 0 {
            found.early = EarlyData::Begins;
        } else if self.tls & TLS_KNOWN == 0 {
            found.mode |= ANSWER_DERIVED;
        }
    }

    /// Whether a record before the end of the handshake belongs to it.
    #[inline(always)]
    fn is_handshake(&mut self, len: u32) -> bool {
        let found = &mut *self.found;
        if self.tls & TLS_KNOWN == 0 {
            // Nothing can be encrypted before the ServerHello but early data.
            found.mode |= EARLY;
            return false;
        }
        if self.tls & TLS_13 == 0 {
            found.mode |= HANDSHAKE_DONE;
            return false;
        }
        let early = found.mode & EARLY != 0;
        if early && len == END_OF_EARLY_DATA {
            *self.flags |= EARLY_ENDED;
            found.early = EarlyData::Accepted;
            return true;
        }
        *self.skipped += 1;
        if is_finished(len) || *self.skipped >= MAX_HANDSHAKE_RECORDS {
            if early && *self.flags & EARLY_ENDED == 0 {
                found.early = EarlyData::Rejected;
                found.answered = true;
            }
            found.mode = found.mode & !EARLY | HANDSHAKE_DONE;
        }
        true
    }
}
