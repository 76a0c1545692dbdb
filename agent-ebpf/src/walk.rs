//! Walking records across segments: TLS records and HTTP/2 frames alike are a header of fixed length,
//! which tells how many bytes follow.
//!
//! In flow the payloads of one direction in order; out flow the headers in them. Nothing but the
//! headers is ever read here.

use core::{marker::PhantomData, ops::ControlFlow};

use crate::{
    abi::Counter,
    packet::{Packet, Segment},
    stream::{Place, Stream},
    track::{Step, Tables},
};

/// Records walked in one packet; more lose the boundary, which is counted. A super-frame of 64 KiB holds
/// fewer, unless they are of under 64 bytes.
pub(crate) const MAX_RECORDS: u32 = 1024;

/// A record header of `N` bytes.
pub(crate) trait Header<const N: usize>: Sized {
    /// Reads a header, if this can be one.
    fn parse(header: [u8; N]) -> Option<Self>;

    /// Length of what follows the header, bytes.
    fn content(&self) -> u32;

    /// The record that `segment` begins with, if it can begin with one.
    #[inline(always)]
    fn at_start<P: Packet>(packet: &P, segment: &Segment) -> Option<Self> {
        if segment.payload_len < N as u32 { None } else { Self::parse(packet.load(segment.payload)?) }
    }
}

/// Is told of each record.
pub(crate) trait Reader<H> {
    /// The next record, of which `present` bytes of content are in this packet, or more.
    fn record(&mut self, record: H, present: u32);
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

/// A walk on its way, over records with headers of `N` bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position<const N: usize> {
    /// Where in the packet.
    at: u32,
    /// Where the payload ends.
    end: u32,
    /// Bytes of the current record that are still to come.
    remaining: u32,
    /// A header that began in the segment before, completed.
    header: [u8; N],
    straddles: bool,
    ended: Walk,
}

impl<const N: usize> Default for Position<N> {
    fn default() -> Self {
        Self { at: 0, end: 0, remaining: 0, header: [0; N], straddles: false, ended: Walk::TooMany }
    }
}

/// Where to begin with a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begin {
    /// Bytes into the payload; `None` when nothing in it can be read.
    pub(crate) offset: Option<u32>,
    /// Bytes that went by unread and uncounted, where the boundary was lost.
    pub(crate) missed: Option<u32>,
}

/// Places `segment` (with data) in its stream. One behind a gap waits for the bytes before it, unless a record
/// that is `likely` begins it. Losing the boundary is counted.
#[inline(always)]
pub(crate) fn find<const N: usize, H: Header<N>, P: Packet, T: Tables>(
    stream: &mut Stream<N>,
    packet: &P,
    tables: &T,
    segment: &Segment,
    likely: impl FnOnce(&H) -> bool,
) -> Begin {
    let in_sync = stream.in_sync();
    match stream.place(segment.seq, segment.payload_len) {
        Place::Old => return Begin { offset: None, missed: None },
        Place::Walk(offset) => return Begin { offset: Some(offset), missed: None },
        Place::Gap | Place::Lost => {}
    }
    let end = segment.seq.wrapping_add(segment.payload_len);
    let begins = H::at_start(packet, segment).is_some_and(|header| likely(&header));
    if !begins && in_sync && stream.hold(end) {
        return Begin { offset: None, missed: None };
    }
    if in_sync {
        tables.count(Counter::Desync);
    }
    if begins {
        Begin { offset: Some(0), missed: Some(stream.resume(segment.seq)) }
    } else {
        Begin { offset: None, missed: Some(stream.lose(end)) }
    }
}

/// Follows the records of `segment` from `offset` bytes into its payload. Returns the bytes that went by
/// unread and uncounted when that loses the boundary, which is counted.
#[inline(always)]
pub(crate) fn follow<const N: usize, H: Header<N>, P: Packet, T: Tables, R: Reader<H>>(
    stream: &mut Stream<N>,
    packet: &P,
    tables: &T,
    segment: &Segment,
    offset: u32,
    position: &mut Position<N>,
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
fn walk<const N: usize, H: Header<N>, P: Packet, T: Tables, R: Reader<H>>(
    stream: &mut Stream<N>,
    packet: &P,
    tables: &T,
    segment: &Segment,
    offset: u32,
    position: &mut Position<N>,
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
    tables.repeat(MAX_RECORDS, &mut Walker { packet, reader, position, header: PhantomData });
    stream.remaining = position.remaining;
    if position.ended == Walk::Done {
        stream.keep(packet, position.at, position.end - position.at);
    } else {
        stream.stop(segment.seq.wrapping_add(position.at - segment.payload), position.remaining);
    }
    position.ended
}

/// One step a record.
struct Walker<'a, const N: usize, P, R, H> {
    packet: &'a P,
    reader: R,
    position: &'a mut Position<N>,
    header: PhantomData<H>,
}

impl<const N: usize> Position<N> {
    /// Completes the header that the segment before began. `false` when this one ends before it does, too.
    #[inline(always)]
    fn complete<P: Packet>(&mut self, packet: &P, stream: &mut Stream<N>) -> bool {
        let kept = stream.header_len as u32;
        for (position, byte) in (0..N as u32).zip(&mut stream.header) {
            if position >= kept && self.at < self.end {
                let [loaded] = packet.load(self.at).unwrap_or_default();
                *byte = loaded;
                self.at += 1;
                stream.header_len += 1;
            }
        }
        self.straddles = stream.header_len as usize == N;
        if self.straddles {
            self.header = stream.header;
            stream.header_len = 0;
        }
        self.straddles
    }
}

impl<const N: usize, P: Packet, R: Reader<H>, H: Header<N>> Step for Walker<'_, N, P, R, H> {
    #[inline(always)]
    fn step(&mut self) -> ControlFlow<()> {
        let Self { packet, reader, position, .. } = self;
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
            if position.end - position.at < N as u32 {
                position.ended = Walk::Done;
                return ControlFlow::Break(());
            }
            position.at += N as u32;
            packet.load(position.at - N as u32).unwrap_or([0; N])
        };
        let Some(record) = H::parse(header) else {
            position.ended = Walk::NoHeader;
            return ControlFlow::Break(());
        };
        position.remaining = record.content();
        reader.record(record, position.end.wrapping_sub(position.at));
        ControlFlow::Continue(())
    }
}

impl<const N: usize> Stream<N> {
    /// Keeps the first bytes of a header that continues in the next segment.
    #[inline(always)]
    fn keep<P: Packet>(&mut self, packet: &P, at: u32, len: u32) {
        if len == 0 || len >= N as u32 {
            return;
        }
        for (position, byte) in (0..N as u32 - 1).zip(&mut self.header) {
            if position < len {
                let [loaded] = packet.load(at + position).unwrap_or_default();
                *byte = loaded;
            }
        }
        self.header_len = len as u8;
    }
}
