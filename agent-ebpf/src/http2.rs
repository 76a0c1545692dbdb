//! HTTP/2 in clear text (RFC 9113): every stream is an exchange of its own, told exactly.
//!
//! In flow the segments of a connection that began with the client's preface; out flow exchanges. The
//! frames of both directions are walked like TLS records; nothing but their nine-byte headers is read.
//!
//! A stream is kept as a [`Flow`] of one turn: what the client asked, what the server answered, and who
//! ended it, by the same rules. Bytes are what nginx logs: of a request the contents of its HEADERS,
//! CONTINUATION and DATA frames, of an answer the whole frames. Records are the answer's head and its DATA
//! frames; an empty DATA frame and trailers end an answer and are none. An interim answer (1xx) is forgotten
//! when the next head comes. The server's END_STREAM ends an exchange, or RST_STREAM of either side, or the
//! connection.
//!
//! Invariant: as many streams are counted begun as are handed out, lost ones (counted) and open ones
//! together.

use core::{cell::UnsafeCell, ops::ControlFlow};

use crate::{
    abi::{ABORTED, Counter, DERIVED, Protocol, StreamKey},
    admission,
    cell::Shared32,
    flow::Flow,
    http,
    packet::{Direction, FIN, Packet, RST, Segment},
    stream::Stream,
    track::{self, Scratch, Step, Tables},
    walk::{self, Header, Position, Reader},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;

/// Flag of DATA and HEADERS.
const END_STREAM: u8 = 0x1;
/// Flag of HEADERS and CONTINUATION.
const END_HEADERS: u8 = 0x4;

/// Flag of HEADERS: five bytes of priority come before the field block.
const PRIORITY: u8 = 0x20;

/// Bytes of a frame's header.
const HEADER: u32 = 9;
/// Bytes of the client's preface, before its first frame (section 3.4).
const PREFACE: u32 = 24;
/// Streams below the newest that are looked at when a connection ends with streams open.
const MAX_BEHIND: u32 = 1 << 14;

/// A frame's header (section 4.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Frame {
    len: u32,
    stream: u32,
    kind: u8,
    flags: u8,
    /// Not all of the frame has come yet.
    unfinished: bool,
    pad: u8,
}

impl Header<{ HEADER as usize }> for Frame {
    /// Lengths and streams are checked as receivers must. A kind that is not known is stepped over.
    #[inline(always)]
    fn parse(header: [u8; HEADER as usize]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = header;
        let frame = Self {
            len: u32::from_be_bytes([0, a, b, c]),
            stream: u32::from_be_bytes(stream),
            kind,
            flags,
            ..Self::default()
        };
        frame.is_valid().then_some(frame)
    }

    #[inline(always)]
    fn content(&self) -> u32 {
        self.len
    }
}

impl Frame {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        let connection = self.stream == 0;
        let fits = match self.kind {
            DATA | HEADERS | CONTINUATION => !connection,
            // PRIORITY, RST_STREAM, PUSH_PROMISE
            2 => !connection && self.len == 5,
            RST_STREAM => !connection && self.len == 4,
            5 => !connection && self.len >= 4,
            // SETTINGS, PING, GOAWAY, WINDOW_UPDATE
            4 => connection && self.len.is_multiple_of(6),
            6 => connection && self.len == 8,
            7 => connection && self.len >= 8,
            8 => self.len == 4,
            _ => true,
        };
        // The highest bit is reserved.
        fits && self.stream >> 31 == 0
    }

    /// Whether a segment may begin with this where the boundary is not known: a frame of a known kind, with
    /// flags that are defined, of the usual greatest size, about the connection or a client's stream.
    #[inline(always)]
    fn is_likely(&self) -> bool {
        const FLAGS: [u8; 10] = [0x09, 0x2d, 0, 0, 0x01, 0x0c, 0x01, 0, 0, 0x04];
        let Some(defined) = FLAGS.get(self.kind as usize) else { return false };
        self.flags & !defined == 0 && self.len <= 1 << 14 && (self.stream == 0 || self.stream & 1 == 1)
    }

    /// Whether it is a part of a request or an answer.
    #[inline(always)]
    fn is_message(&self) -> bool {
        matches!(self.kind, DATA | HEADERS | CONTINUATION)
    }

    /// What a request's log counts: fields or body, padding included.
    #[inline(always)]
    fn request_bytes(&self) -> u32 {
        let prioritised = self.kind == HEADERS && self.flags & PRIORITY != 0;
        if prioritised { self.len.saturating_sub(5) } else { self.len }
    }

    /// What an answer's log counts: the whole frame.
    #[inline(always)]
    fn answer_bytes(&self) -> u32 {
        HEADER + self.len
    }
}

/// One direction of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Half {
    stream: Stream<{ HEADER as usize }>,
    /// The newest frame.
    frame: Frame,
    /// Number of the connection that this half belongs to.
    number: u32,
    /// The stream that ends with its header block, 0 for none: END_STREAM came before END_HEADERS.
    ending: u32,
}

/// One connection that speaks HTTP/2 in clear text. Like a [`Flow`] it has two halves, each its direction's.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Connection {
    client: UnsafeCell<Half>,
    server: UnsafeCell<Half>,
    /// Streams begun; ingress's.
    begun: Shared32,
    /// The newest stream; ingress's.
    newest: Shared32,
    /// Streams ended.
    ended: Shared32,
    /// Non-zero when the connection has ended, and all its streams with it.
    over: Shared32,
    /// Non-zero when frames of it were missed.
    derived: Shared32,
    pad: Shared32,
}

// SAFETY: the halves are reached only through `halves`, whose caller promises that one packet of a
// direction is handled at a time; everything else is atomic.
unsafe impl Sync for Connection {}

const _: () = assert!(size_of::<Connection>() == 128);

impl Connection {
    /// The half of a direction.
    ///
    /// # Safety
    /// At most one packet of this direction of the flow is handled at a time, and the reference is not
    /// kept beyond it.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the caller promises to be the only one")]
    unsafe fn half(&self, direction: Direction) -> &mut Half {
        let half = match direction {
            Direction::Ingress => &self.client,
            Direction::Egress => &self.server,
        };
        // SAFETY: promised by the caller.
        unsafe { &mut *half.get() }
    }
}

/// Room for a packet while its frames are walked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    position: Position<{ HEADER as usize }>,
    /// The stream at hand.
    key: StreamKey,
}

/// Whether a segment of a connection met in its middle begins, with these bytes, with the head of a request:
/// HEADERS of up to 4 KiB, all in one frame, of a client's stream.
#[inline(always)]
pub(crate) fn is_request(start: [u8; 8]) -> bool {
    // As one number: the length's upper bits, the kind, the flags but three, the reserved bit.
    const FIXED: u64 = 0xfff0_00ff_d680_0000;
    const WHOLE_HEAD: u64 = (HEADERS as u64) << 32 | (END_HEADERS as u64) << 24;
    u64::from_be_bytes(start) & FIXED == WHOLE_HEAD
}

/// A packet from the client.
#[inline(always)]
pub(crate) fn ingress<P: Packet, T: Tables>(packet: &P, tables: &T) {
    let Some(scratch) = tables.scratch(Direction::Ingress) else { return };
    let Scratch { segment, http2: Work { position, key }, .. } = scratch;
    let Some(flow) = track::lookup(tables, segment) else { return };
    let number = flow.asked.connection.get();
    *key = StreamKey { flow: segment.key, connection: number, stream: 0 };
    let known = tables.connection(&key.flow);
    let Some(connection) = known.or_else(|| tables.insert_connection(&key.flow)) else {
        tables.count(Counter::StreamLost);
        return;
    };
    let streams = Streams { tables, segment, flow, connection, now: tables.now() };
    // SAFETY: promised by the implementor of `Tables`.
    let half = unsafe { connection.half(Direction::Ingress) };
    if half.number != number {
        *half = Half { number, ..Half::default() };
        connection.restart();
    }
    if !half.stream.is_started() {
        half.begin(packet, segment, connection);
    }
    if segment.payload_len > 0
        && let Some(offset) = streams.place(half, packet)
    {
        flow.asked.end.set(streams.now);
        if let Some(frame) = half.go_on(segment.payload_len - offset)
            && let Some(stream) = streams.find(key, frame.stream)
        {
            stream.asked.end.set(streams.now);
        }
        let Half { stream, frame, .. } = half;
        let reader = Asking { streams: &streams, key, frame };
        if walk::follow(stream, packet, tables, segment, offset, position, reader).is_some() {
            connection.derived.set(1);
        }
    }
    if flow.closed.get() != 0 {
        streams.abandon(key);
    }
}

/// A packet to the client.
#[inline(always)]
pub(crate) fn egress<P: Packet, T: Tables>(packet: &P, tables: &T) {
    let Some(scratch) = tables.scratch(Direction::Egress) else { return };
    let Scratch { segment, http2: Work { position, key }, .. } = scratch;
    let Some(flow) = track::lookup(tables, segment) else { return };
    let number = flow.asked.connection.get();
    *key = StreamKey { flow: segment.key, connection: number, stream: 0 };
    // Only what the client began is followed.
    let Some(connection) = tables.connection(&key.flow) else { return };
    let streams = Streams { tables, segment, flow, connection, now: tables.now() };
    // SAFETY: promised by the implementor of `Tables`.
    let half = unsafe { connection.half(Direction::Egress) };
    if half.number != number {
        *half = Half { number, ..Half::default() };
    }
    // SAFETY: as above.
    if !half.stream.is_started() && unsafe { flow.server_half() }.stream.is_next(segment.seq) {
        half.stream.start(segment.seq);
    }
    if segment.payload_len > 0
        && let Some(offset) = streams.place(half, packet)
    {
        flow.answered.last.set(streams.now);
        if let Some(frame) = half.go_on(segment.payload_len - offset)
            && let Some(stream) = streams.find(key, frame.stream)
        {
            stream.answered.last.set(streams.now);
            if !frame.unfinished && frame.ends(&mut half.ending) {
                streams.end(key, stream, 0);
            }
        }
        let Half { stream, frame, ending, .. } = half;
        let reader = Answering { streams: &streams, key, frame, ending };
        if walk::follow(stream, packet, tables, segment, offset, position, reader).is_some() {
            connection.derived.set(1);
        }
    }
    if segment.has(FIN | RST) {
        streams.abandon(key);
    }
}

impl Half {
    /// The client's first segment: its preface, unless the connection is met in its middle.
    #[inline(always)]
    fn begin<P: Packet>(&mut self, packet: &P, segment: &Segment, connection: &Connection) {
        if packet.load(segment.payload).is_some_and(http::is_http2_preface) {
            self.stream.start(segment.seq);
            self.stream.remaining = PREFACE;
        } else {
            connection.derived.set(1);
        }
    }

    /// Takes the bytes that go on with the newest frame, `present` or fewer. Returns that frame where it is
    /// a part of a request or an answer.
    #[inline(always)]
    fn go_on(&mut self, present: u32) -> Option<Frame> {
        if !self.frame.unfinished {
            return None;
        }
        self.frame.unfinished = self.stream.remaining > present;
        if self.frame.is_message() { Some(self.frame) } else { None }
    }
}

impl Connection {
    /// The ports are used again.
    #[inline(always)]
    fn restart(&self) {
        for cell in [&self.begun, &self.newest, &self.ended, &self.over, &self.derived] {
            cell.set(0);
        }
    }
}

/// The streams of the connection of a segment.
struct Streams<'a, T> {
    tables: &'a T,
    segment: &'a Segment,
    flow: &'a Flow,
    connection: &'a Connection,
    now: u64,
}

impl<'a, T: Tables> Streams<'a, T> {
    /// Where in the segment to begin the walk; `None` when nothing in it can be read.
    #[inline(always)]
    fn place<P: Packet>(&self, half: &mut Half, packet: &P) -> Option<u32> {
        let in_sync = half.stream.in_sync();
        let begin = walk::find(&mut half.stream, packet, self.tables, self.segment, Frame::is_likely);
        if begin.missed.is_some() {
            half.frame = Frame::default();
            if in_sync {
                self.connection.derived.set(1);
            }
        }
        begin.offset
    }

    #[inline(always)]
    fn find(&self, key: &mut StreamKey, stream: u32) -> Option<&'a Flow> {
        key.stream = stream;
        self.tables.stream(key)
    }

    /// A request begins.
    #[inline(always)]
    fn begin(&self, key: &StreamKey) -> Option<&'a Flow> {
        let Self { tables, segment, flow, connection, now } = self;
        connection.newest.set(key.stream);
        // SAFETY: promised by the implementor of `Tables`: only ingress comes here.
        let half = unsafe { flow.client_half() };
        if let Some(client) = admission::settled(*tables, half, segment) {
            client.requests.add(1);
        }
        let Some(stream) = tables.insert_stream(key) else {
            tables.count(Counter::StreamLost);
            return None;
        };
        connection.begun.add(1);
        half.turns += 1;
        stream.proven.set(flow.proven.get());
        stream.first_seen.set(flow.first_seen.get());
        stream.asked.mode.set(Protocol::Http2 as u32);
        stream.asked.start.set(*now);
        stream.asked.turn.set(half.turns);
        Some(stream)
    }

    /// An exchange is over, if nobody has ended it before.
    #[inline(always)]
    fn end(&self, key: &StreamKey, stream: &Flow, flags: u8) {
        let Self { tables, segment, flow, connection, .. } = self;
        let Some(turn) = stream.claim() else { return };
        stream.proven.set(flow.proven.get());
        let (asked, answered) = stream.totals(turn);
        flow.request_bytes.add(asked);
        flow.answer_bytes.add(answered);
        let derived = if connection.derived.get() != 0 { DERIVED } else { 0 };
        track::hand_out(*tables, stream, segment, turn, flags | derived);
        connection.ended.add(1);
        tables.remove_stream(key);
    }

    /// The connection is over, and with it what is still open.
    #[inline(always)]
    fn abandon(&self, key: &mut StreamKey) {
        if self.connection.over.swap(1) != 0 {
            return;
        }
        key.stream = self.connection.newest.get().wrapping_add(2);
        self.tables.repeat(MAX_BEHIND, &mut Abandon { streams: self, key });
        self.tables.repeat(MAX_BEHIND, &mut Lose { streams: self });
    }

    #[inline(always)]
    fn has_open(&self) -> bool {
        self.connection.ended.get() != self.connection.begun.get()
    }
}

/// Ends the open streams of a connection, from the newest on.
struct Abandon<'a, T> {
    streams: &'a Streams<'a, T>,
    key: &'a mut StreamKey,
}

impl<T: Tables> Step for Abandon<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> ControlFlow<()> {
        let Self { streams, key } = self;
        if !streams.has_open() || key.stream < 2 {
            return ControlFlow::Break(());
        }
        if let Some(stream) = streams.find(key, key.stream - 2) {
            streams.end(key, stream, ABORTED);
        }
        ControlFlow::Continue(())
    }
}

/// Counts the streams that should have been open and were not found: their map had no room for them.
struct Lose<'a, T> {
    streams: &'a Streams<'a, T>,
}

impl<T: Tables> Step for Lose<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> ControlFlow<()> {
        if !self.streams.has_open() {
            return ControlFlow::Break(());
        }
        self.streams.connection.ended.add(1);
        self.streams.tables.count(Counter::StreamLost);
        ControlFlow::Continue(())
    }
}

/// Reads the client's frames.
struct Asking<'a, T> {
    streams: &'a Streams<'a, T>,
    key: &'a mut StreamKey,
    frame: &'a mut Frame,
}

impl<T: Tables> Reader<Frame> for Asking<'_, T> {
    #[inline(always)]
    fn record(&mut self, frame: Frame, present: u32) {
        let Self { streams, key, frame: newest } = self;
        **newest = Frame { unfinished: frame.len > present, ..frame };
        if !frame.is_message() && frame.kind != RST_STREAM {
            return;
        }
        let mut stream = streams.find(key, frame.stream);
        if stream.is_none()
            && frame.kind != RST_STREAM
            && frame.stream & 1 == 1
            && frame.stream > streams.connection.newest.get()
            && streams.connection.over.get() == 0
        {
            stream = streams.begin(key);
        }
        let Some(stream) = stream else { return };
        if frame.kind == RST_STREAM {
            streams.end(key, stream, ABORTED);
            return;
        }
        stream.asked.end.set(streams.now);
        let (bytes, head) = (stream.asked.bytes.get(), stream.asked.head.get());
        if frame.kind != DATA && bytes == u64::from(head) {
            stream.asked.head.set(head + frame.request_bytes());
        }
        stream.asked.bytes.set(bytes + u64::from(frame.request_bytes()));
    }
}

/// Reads the server's frames.
struct Answering<'a, T> {
    streams: &'a Streams<'a, T>,
    key: &'a mut StreamKey,
    frame: &'a mut Frame,
    ending: &'a mut u32,
}

impl<T: Tables> Reader<Frame> for Answering<'_, T> {
    #[inline(always)]
    fn record(&mut self, frame: Frame, present: u32) {
        let Self { streams, key, frame: newest, ending } = self;
        let frame = Frame { unfinished: frame.len > present, ..frame };
        **newest = frame;
        if !frame.is_message() && frame.kind != RST_STREAM {
            return;
        }
        let Some(stream) = streams.find(key, frame.stream) else { return };
        if frame.kind == RST_STREAM {
            streams.end(key, stream, ABORTED);
            return;
        }
        frame.answer(stream, streams.now);
        if !frame.unfinished && frame.ends(ending) {
            streams.end(key, stream, 0);
        }
    }
}

impl Frame {
    /// Adds the frame to the answer of `stream`.
    #[inline(always)]
    fn answer(&self, stream: &Flow, now: u64) {
        let answered = &stream.answered;
        let turn = stream.asked.turn.get();
        let ends = self.flags & END_STREAM != 0;
        // A head after a head: the one before was an interim answer.
        let interim = self.kind == HEADERS && !ends && answered.records.get() == 1;
        if answered.turn.get() != turn || interim {
            answered.begin(turn);
        }
        let (bytes, before) = (answered.bytes.get(), answered.head.get());
        if self.kind != DATA && bytes == u64::from(before) {
            answered.head.set(before + self.answer_bytes());
        }
        let head = self.kind == HEADERS && answered.records.get() == 0;
        if head || self.kind == DATA && !(ends && self.len == 0) {
            answered.add(self.answer_bytes(), now);
        } else {
            answered.bytes.set(bytes + u64::from(self.answer_bytes()));
            answered.last.set(now);
        }
    }

    /// Whether the answer ends with this frame. `ending` remembers one that ends with its header block.
    #[inline(always)]
    fn ends(&self, ending: &mut u32) -> bool {
        let ends_block = self.flags & END_HEADERS != 0;
        match self.kind {
            CONTINUATION => ends_block && *ending == self.stream,
            _ if self.flags & END_STREAM == 0 => false,
            HEADERS if !ends_block => {
                *ending = self.stream;
                false
            }
            _ => true,
        }
    }
}
