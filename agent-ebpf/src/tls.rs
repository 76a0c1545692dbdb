//! Walking TLS records (RFC 8446 section 5.1, RFC 5246 section 6.2) across segments.
//!
//! In flow the payloads of one direction in order; out flow the headers of the records in them.
//! Nothing but the five bytes of a header is ever read.

use core::ops::ControlFlow;

use crate::{
    abi::Counter,
    packet::{Packet, Segment},
    stream::Stream,
    track::{Step, Tables},
};

/// Content type: handshake.
pub(crate) const HANDSHAKE: u8 = 22;
/// Content type: application data (and, in TLS 1.3, everything that is encrypted).
pub(crate) const APPLICATION_DATA: u8 = 23;

const HEADER: u32 = 5;
/// 2^14 of plaintext and what the ciphers of TLS 1.2 may add.
const MAX_RECORD: u32 = (1 << 14) + 2048;

/// Records walked in one packet; more lose the boundary, which is counted. A super-frame of 64 KiB holds
/// fewer, unless they are of under 64 bytes.
pub(crate) const MAX_RECORDS: u32 = 1024;

/// Bytes that TLS 1.3 adds to each record: content type and tag.
pub(crate) const OVERHEAD_13: u32 = 17;
/// Length of an encrypted TLS 1.3 Finished, SHA-256.
const FINISHED_SHA256: u32 = 53;
/// Length of an encrypted TLS 1.3 Finished, SHA-384.
const FINISHED_SHA384: u32 = 69;
/// Length of an encrypted TLS 1.3 EndOfEarlyData.
pub(crate) const END_OF_EARLY_DATA: u32 = 21;

/// Whether an encrypted record of this length is a Finished.
#[inline(always)]
pub(crate) fn is_finished(len: u32) -> bool {
    len == FINISHED_SHA256 || len == FINISHED_SHA384
}

/// One record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Content type.
    pub(crate) kind: u8,
    /// Length of what follows the header, bytes.
    pub(crate) len: u32,
}

impl Record {
    /// Reads a header, if this can be one.
    #[inline(always)]
    pub(crate) fn parse(header: [u8; HEADER as usize]) -> Option<Self> {
        let record = Self { kind: header[0], len: u16::from_be_bytes([header[3], header[4]]) as u32 };
        let plausible = record.kind.wrapping_sub(20) <= 4
            && header[1] == 3
            && header[2] <= 4
            && record.len.wrapping_sub(1) < MAX_RECORD;
        if plausible { Some(record) } else { None }
    }

    /// The record that `segment` begins with, if it can begin with one.
    #[inline(always)]
    pub(crate) fn at_start<P: Packet>(packet: &P, segment: &Segment) -> Option<Self> {
        if segment.payload_len < HEADER { None } else { Self::parse(packet.load(segment.payload)?) }
    }
}

/// Is told of each record.
pub(crate) trait Reader {
    /// The next record.
    fn record(&mut self, record: Record);
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum Walk {
    /// After [`MAX_RECORDS`] records.
    #[default]
    TooMany = 0,
    /// At the end of the segment.
    Done = 1,
    /// At bytes that are no record header.
    NoHeader = 2,
}

/// A walk on its way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Position {
    /// Where in the packet.
    at: u32,
    /// Where the payload ends.
    end: u32,
    /// Bytes of the current record that are still to come.
    remaining: u32,
    /// A header that began in the segment before, completed.
    header: [u8; HEADER as usize],
    straddles: bool,
    ended: Walk,
    pad: u8,
}

/// Follows the records of `segment` from `offset` bytes into its payload. Returns the bytes that went by
/// unread and uncounted when that loses the boundary, which is counted.
#[inline(always)]
pub(crate) fn follow<P: Packet, T: Tables, R: Reader>(
    stream: &mut Stream,
    packet: &P,
    tables: &T,
    segment: &Segment,
    offset: u32,
    position: &mut Position,
    reader: R,
) -> Option<u32> {
    let end = segment.seq.wrapping_add(segment.payload_len);
    let uncounted = match walk(stream, packet, tables, segment, offset, position, reader) {
        Walk::Done => stream.walked(end),
        Walk::NoHeader => Some(stream.lose(end)),
        Walk::TooMany => {
            tables.count(Counter::RecordLimit);
            Some(stream.lose(end))
        }
    };
    if uncounted.is_some() {
        tables.count(Counter::Desync);
    }
    uncounted
}

/// Walks the records of `segment` from `offset` bytes into its payload.
#[inline(always)]
fn walk<P: Packet, T: Tables, R: Reader>(
    stream: &mut Stream,
    packet: &P,
    tables: &T,
    segment: &Segment,
    offset: u32,
    position: &mut Position,
    reader: R,
) -> Walk {
    let end = segment.payload + segment.payload_len;
    let at = segment.payload + offset;
    if stream.header_len == 0 && stream.remaining >= end - at {
        // Most segments of a long request lie inside one record.
        stream.remaining -= end - at;
        return Walk::Done;
    }
    *position = Position { at, end, remaining: stream.remaining, ..Position::default() };
    if stream.header_len > 0 && !position.complete(packet, stream) {
        return Walk::Done;
    }
    tables.repeat(MAX_RECORDS, &mut Walker { packet, reader, position });
    stream.remaining = position.remaining;
    if position.ended == Walk::Done {
        stream.keep(packet, position.at, position.end - position.at);
    } else {
        stream.stop(segment.seq.wrapping_add(position.at - segment.payload), position.remaining);
    }
    position.ended
}

/// One step a record.
struct Walker<'a, P, R> {
    packet: &'a P,
    reader: R,
    position: &'a mut Position,
}

impl Position {
    /// Completes the header that the segment before began. `false` when this one ends before it does, too.
    #[inline(always)]
    fn complete<P: Packet>(&mut self, packet: &P, stream: &mut Stream) -> bool {
        let kept = stream.header_len as u32;
        self.header = [stream.header[0], stream.header[1], stream.header[2], stream.header[3], 0];
        for (position, byte) in (0..HEADER).zip(&mut self.header) {
            if position < kept || self.at >= self.end {
                continue;
            }
            let [loaded] = packet.load(self.at).unwrap_or_default();
            *byte = loaded;
            self.at += 1;
            stream.header_len += 1;
        }
        self.straddles = stream.header_len as u32 == HEADER;
        if self.straddles {
            stream.header_len = 0;
        } else {
            stream.header = [self.header[0], self.header[1], self.header[2], self.header[3]];
        }
        self.straddles
    }
}

impl<P: Packet, R: Reader> Step for Walker<'_, P, R> {
    #[inline(always)]
    fn step(&mut self) -> ControlFlow<()> {
        let Self { packet, reader, position } = self;
        let header = if position.straddles {
            position.straddles = false;
            position.header
        } else {
            let left = position.end.wrapping_sub(position.at);
            if position.remaining >= left {
                (position.remaining, position.at) = (position.remaining - left, position.end);
                position.ended = Walk::Done;
                return ControlFlow::Break(());
            }
            position.at += position.remaining;
            position.remaining = 0;
            if position.end - position.at < HEADER {
                position.ended = Walk::Done;
                return ControlFlow::Break(());
            }
            position.at += HEADER;
            packet.load(position.at - HEADER).unwrap_or_default()
        };
        let Some(record) = Record::parse(header) else {
            position.ended = Walk::NoHeader;
            return ControlFlow::Break(());
        };
        position.remaining = record.len;
        reader.record(record);
        ControlFlow::Continue(())
    }
}

impl Stream {
    /// Keeps the first bytes of a header that continues in the next segment.
    #[inline(always)]
    fn keep<P: Packet>(&mut self, packet: &P, at: u32, len: u32) {
        if len == 0 || len >= HEADER {
            return;
        }
        for (position, byte) in (0..HEADER - 1).zip(&mut self.header) {
            if position < len {
                let [loaded] = packet.load(at + position).unwrap_or_default();
                *byte = loaded;
            }
        }
        self.header_len = len as u8;
    }
}

/// What the ServerHello settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// TLS 1.3.
    pub(crate) tls13: bool,
    /// Bytes that encryption adds to each record.
    pub(crate) overhead: u32,
}

/// What most servers would say.
const USUAL: Hello = Hello { tls13: true, overhead: OVERHEAD_13 };

/// Reads the ServerHello at the begin of `segment`'s payload (RFC 8446 section 4.1.3); `None` when it
/// begins with something else. One that is cut by the segment's end is taken for a usual one.
#[inline(always)]
pub(crate) fn server_hello<P: Packet>(packet: &P, segment: &Segment) -> Option<Hello> {
    const SERVER_HELLO: u8 = 2;
    const SESSION_ID_LEN: u32 = HEADER + 4 + 2 + 32;
    const MAX_SESSION_ID: u8 = 32;
    if segment.payload_len < SESSION_ID_LEN + 3 + MAX_SESSION_ID as u32 {
        let [kind] = packet.load(segment.payload)?;
        return if kind == HANDSHAKE { Some(USUAL) } else { None };
    }
    let start: [u8; 6] = packet.load(segment.payload)?;
    if start[0] != HANDSHAKE || start[5] != SERVER_HELLO {
        return None;
    }
    let [session_id] = packet.load(segment.payload + SESSION_ID_LEN)?;
    if session_id > MAX_SESSION_ID {
        return None;
    }
    let suite: [u8; 2] = packet.load(segment.payload + SESSION_ID_LEN + 1 + session_id as u32)?;
    Some(match suite {
        // CCM with a short tag, then the other suites of TLS 1.3.
        [0x13, 0x05] => Hello { tls13: true, overhead: 9 },
        [0x13, _] => USUAL,
        // ChaCha20-Poly1305 (RFC 7905): no explicit nonce.
        [0xcc, _] => Hello { tls13: false, overhead: 16 },
        _ => Hello { tls13: false, overhead: 24 },
    })
}
