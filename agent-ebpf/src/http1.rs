//! HTTP/1 in clear text: where heads end, and requests that begin behind others in the same segment.
//!
//! In flow a client's segments in order, and those with which answers begin; out flow the lengths of heads, and a turn for
//! each request. Of heads the line ends are read, and the value of Content-Length; of bodies nothing.
//!
//! Invariant: [`Framing`] says where in its message the client's stream is, or that it does not know: after a gap, or behind
//! a body whose length its head does not tell. A request is then found by the request line at the begin of a segment.

use core::ops::ControlFlow;

use crate::{
    abi::PIPELINED,
    flow::{ClientHalf, Flow, PIPELINE},
    http,
    packet::{Direction, Packet, Segment},
    request::Begun,
    stage::Stage,
    track::{self, Scratch, Step, Tables},
};

/// A head that is longer is not read to its end.
const MAX_HEAD: u32 = 1 << 14;
/// Steps in one packet; beyond them the place in the message is lost.
const MAX_STEPS: u32 = 1 << 14;
/// A body that is longer is not stepped over.
const MAX_BODY: u32 = 400_000_000;

const CONTENT_LENGTH: &[u8; 15] = b"content-length:";
/// In [`Framing::matched`]: the name is [`CONTENT_LENGTH`].
const NAMED: u8 = CONTENT_LENGTH.len() as u8;
/// In [`Framing::matched`]: the line is another.
const OTHER: u8 = u8::MAX;

/// It is not known where in a message the stream is.
const UNKNOWN: u8 = 0;
/// In a head.
const HEAD: u8 = 1;
/// In a body, or behind it.
const BODY: u8 = 2;

/// Where in its message a stream is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Framing {
    /// Bytes of the body that are still to come; in a head, as far as it has told.
    rest: u32,
    phase: u8,
    /// Bytes of the line at hand that are those of [`CONTENT_LENGTH`].
    matched: u8,
    pad: [u8; 2],
}

/// What is to be read of a segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    /// Where in the packet reading goes on; 0 when nothing is to be read.
    pub(crate) at: u32,
    /// Where the payload ends.
    end: u32,
    /// Of the server's stream.
    framing: Framing,
}

impl Work {
    /// Reads the last `len` bytes of a segment's payload.
    #[inline(always)]
    pub(crate) fn read(&mut self, segment: &Segment, len: u32) {
        self.end = segment.payload + segment.payload_len;
        self.at = self.end - len;
    }

    /// The stage that reads, if there is something to read.
    #[inline(always)]
    pub(crate) fn stage(&self) -> Option<Stage> {
        if self.at != 0 { Some(Stage::Http1) } else { None }
    }

    /// Reads the head that a segment begins with.
    #[inline(always)]
    pub(crate) fn read_head(&mut self, segment: &Segment) {
        self.read(segment, segment.payload_len);
        self.framing = Framing::BEGIN;
    }
}

impl Framing {
    /// At the begin of a message.
    pub(crate) const BEGIN: Self = Self { rest: 0, phase: HEAD, matched: 0, pad: [0; 2] };

    /// Whether what comes next goes on with a message.
    #[inline(always)]
    pub(crate) fn is_inside(self) -> bool {
        self.phase == HEAD || self.phase == BODY && self.rest > 0
    }

    /// Whether what comes next begins a message.
    #[inline(always)]
    pub(crate) fn is_between(self) -> bool {
        self.phase == BODY && self.rest == 0
    }

    /// Takes bytes that are not looked at. `false` when they are more than the body has: then nothing has changed.
    #[inline(always)]
    pub(crate) fn skip(&mut self, bytes: u32) -> bool {
        let fits = self.phase == BODY && self.rest >= bytes;
        if fits {
            self.rest -= bytes;
        }
        fits
    }

    /// The place is lost.
    #[inline(always)]
    pub(crate) fn lose(&mut self) {
        self.phase = UNKNOWN;
    }

    /// Reads the next bytes of a head, up to eight (the first the lowest): as many as tell nothing but where a line ends or
    /// begins with Content-Length. How many; where there is none, the first is to be read by itself.
    #[inline(always)]
    fn word(&mut self, word: u64) -> u32 {
        const CONTENT: u64 = u64::from_le_bytes(*b"content-");
        const LENGTH: u64 = u64::from_le_bytes(*b"length:\0");
        // Not of the last byte: it would make a dash of a carriage return.
        const SMALL: u64 = (ONES * b' ' as u64) >> 8;
        let first = word as u8;
        match self.matched {
            0 if word | SMALL == CONTENT => {
                self.matched = 8;
                return 8;
            }
            8 if (word | SMALL >> 8) << 8 == LENGTH << 8 => {
                self.matched = NAMED;
                return 7;
            }
            0 if first != b'\r' && first != b'\n' => self.matched = OTHER,
            OTHER => {}
            _ => return 0,
        }
        let Some(at) = line_feed(word) else { return 8 };
        self.matched = 0;
        at + 1
    }

    /// Reads the next byte of a head. Whether the head ends with it.
    #[inline(always)]
    fn byte(&mut self, byte: u8) -> bool {
        match (byte, self.matched) {
            (b'\n', 0) => {
                self.phase = BODY;
                return true;
            }
            (b'\n', _) => self.matched = 0,
            // Before a line feed it is no matter (RFC 9112 section 2.2).
            (b'\r', _) | (_, OTHER) => {}
            (_, NAMED) => {
                let digit = byte.wrapping_sub(b'0');
                if digit <= 9 && self.rest < MAX_BODY {
                    self.rest = self.rest * 10 + u32::from(digit);
                }
            }
            (_, matched) => {
                self.matched = if byte | 0x20 == content_length(matched) { matched + 1 } else { OTHER };
            }
        }
        false
    }
}

/// The byte at `at` (below [`NAMED`]) of [`CONTENT_LENGTH`], out of two words: of an array the verifier would have to see
/// that it is not left, which depends on the registers that the compiler chooses.
#[inline(always)]
fn content_length(at: u8) -> u8 {
    const WORDS: u128 = {
        let mut padded = [0; 16];
        padded.split_at_mut(CONTENT_LENGTH.len()).0.copy_from_slice(CONTENT_LENGTH);
        u128::from_le_bytes(padded)
    };
    let word = if at < 8 { WORDS as u64 } else { (WORDS >> 64) as u64 };
    (word >> (at % 8 * 8)) as u8
}

/// Reads on in what `work` has of a head. Where the head ends, if it does.
#[inline(always)]
fn head<P: Packet>(packet: &P, framing: &mut Framing, work: &mut Work) -> Option<u32> {
    let left = work.end.wrapping_sub(work.at);
    if left >= 8
        && let Some([low, high]) = packet.words(work.at)
    {
        let taken = framing.word(u64::from(u32::from_le(low)) | u64::from(u32::from_le(high)) << 32);
        if taken > 0 {
            work.at += taken;
            return None;
        }
    }
    // Two bytes are read where they lie, one is not.
    let byte = match packet.load::<2>(work.at) {
        Some([byte, _]) if left >= 2 => byte,
        _ => packet.load::<1>(work.at).unwrap_or_default()[0],
    };
    work.at += 1;
    if framing.byte(byte) { Some(work.at) } else { None }
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Where the first line feed among these bytes is; the lowest byte is the first.
#[inline(always)]
fn line_feed(word: u64) -> Option<u32> {
    // A line feed becomes a zero: up to the first one, the only byte from which one borrows although its highest bit is
    // clear.
    let word = word ^ (ONES * b'\n' as u64);
    let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
    if zeros == 0 {
        return None;
    }
    // The lowest one bit, at the low end of its byte, shifts the number of that byte to the top.
    let first = (zeros & zeros.wrapping_neg()) >> 7;
    Some((first.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32)
}

/// A segment of the client.
#[inline(always)]
pub(crate) fn ingress<P: Packet, T: Tables>(packet: &P, tables: &T) {
    let Some(Scratch { segment, work, .. }) = tables.scratch(Direction::Ingress) else { return };
    let Some(flow) = track::lookup(tables, segment) else { return };
    // SAFETY: promised by the implementor of `Tables`.
    let half = unsafe { flow.client_half() };
    let work = &mut work.http1;
    tables.repeat(MAX_STEPS, &mut Requests { packet, tables, flow, half, segment, work });
    if work.at < work.end {
        half.framing.lose();
    }
}

/// A segment of the server with which an answer begins.
#[inline(always)]
pub(crate) fn egress<P: Packet, T: Tables>(packet: &P, tables: &T) {
    let Some(Scratch { segment, work, .. }) = tables.scratch(Direction::Egress) else { return };
    let Some(flow) = track::lookup(tables, segment) else { return };
    tables.repeat(MAX_HEAD, &mut Answer { packet, flow, segment, work: &mut work.http1 });
}

/// Reads requests: a part of a head, or a body, a step.
struct Requests<'a, P, T> {
    packet: &'a P,
    tables: &'a T,
    flow: &'a Flow,
    half: &'a mut ClientHalf,
    segment: &'a Segment,
    work: &'a mut Work,
}

impl<P: Packet, T: Tables> Step for Requests<'_, P, T> {
    #[inline(always)]
    fn step(&mut self) -> ControlFlow<()> {
        let left = self.work.end.wrapping_sub(self.work.at);
        if self.work.at >= self.work.end {
            return ControlFlow::Break(());
        }
        match self.half.framing.phase {
            HEAD => self.head(),
            BODY if self.half.framing.rest > 0 => {
                let taken = if self.half.framing.rest < left { self.half.framing.rest } else { left };
                self.half.framing.rest -= taken;
                self.work.at += taken;
                ControlFlow::Continue(())
            }
            BODY => self.begin(left),
            _ => ControlFlow::Break(()),
        }
    }
}

impl<P: Packet, T: Tables> Requests<'_, P, T> {
    #[inline(always)]
    fn head(&mut self) -> ControlFlow<()> {
        let Self { packet, flow, half, segment, work, .. } = self;
        let end = head(*packet, &mut half.framing, work);
        let len = segment.seq.wrapping_add(work.at - segment.payload).wrapping_sub(half.turn_seq);
        if end.is_some() {
            flow.asked.head.set(len);
        } else if len > MAX_HEAD {
            half.framing.lose();
        }
        ControlFlow::Continue(())
    }

    /// A request begins behind another, with the last `left` bytes of the segment, if they are one.
    #[inline(always)]
    fn begin(&mut self, left: u32) -> ControlFlow<()> {
        let Self { packet, tables, flow, half, segment, work } = self;
        let is_request = if left >= 8 {
            packet.load(work.at).is_some_and(http::is_request)
        } else {
            packet.load(work.at).is_some_and(http::may_be_request)
        };
        if !is_request {
            half.framing.lose();
            return ControlFlow::Break(());
        }
        half.bytes = half.bytes.saturating_sub(u64::from(left));
        flow.asked.bytes.set(half.bytes);
        let pipelined = !flow.is_answered();
        track::end(*tables, flow, segment, if pipelined { PIPELINED } else { 0 });
        let mode = flow.asked.mode.get() & !PIPELINE | if pipelined { PIPELINE } else { 0 };
        let begun = Begun { bytes: u64::from(left), head: 0, mode, early: false };
        track::begin(*tables, flow, half, segment, &begun, flow.asked.end.get());
        half.turn_seq = segment.seq.wrapping_add(work.at - segment.payload);
        half.framing = Framing::BEGIN;
        ControlFlow::Continue(())
    }
}

/// Reads the head of an answer.
struct Answer<'a, P> {
    packet: &'a P,
    flow: &'a Flow,
    segment: &'a Segment,
    work: &'a mut Work,
}

impl<P: Packet> Step for Answer<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> ControlFlow<()> {
        let Self { packet, flow, segment, work } = self;
        if work.at >= work.end {
            return ControlFlow::Break(());
        }
        let mut framing = work.framing;
        let end = head(*packet, &mut framing, work);
        work.framing = framing;
        let Some(end) = end else { return ControlFlow::Continue(()) };
        flow.answered.head.set(end - segment.payload);
        ControlFlow::Break(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length of the head that a message begins with, and of its body, whether its bytes come one by one or not.
    fn read(message: &[u8]) -> Option<(usize, u32)> {
        let mut framing = Framing::BEGIN;
        let end = message.iter().position(|byte| framing.byte(*byte)).map(|end| (end + 1, framing.rest));
        for first in 0..message.len() {
            assert_eq!(read_from(message, first), end, "the first {first} bytes one by one");
        }
        end
    }

    /// Likewise, with words from `first` on.
    fn read_from(message: &[u8], first: usize) -> Option<(usize, u32)> {
        let mut framing = Framing::BEGIN;
        let mut at = 0;
        while at < message.len() {
            let word = message.get(at..at + 8).filter(|_| at >= first);
            let taken = word.map_or(0, |word| framing.word(u64::from_le_bytes(word.try_into().unwrap())));
            at += taken as usize;
            if taken == 0 {
                at += 1;
                if framing.byte(message[at - 1]) {
                    return Some((at, framing.rest));
                }
            }
        }
        None
    }

    #[test]
    fn heads_end_with_an_empty_line_and_tell_how_long_their_body_is() {
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 405\r\nContent-Type: a/b; x=9\r\n\r\n";
        for (head, body) in [
            (post, 405),
            ("GET / HTTP/1.1\r\nHost: content-length: 7\r\n\r\n", 0),
            ("PUT / HTTP/1.1\ncontent-LENGTH:12\n\n", 12),
            ("PUT / HTTP/1.1\r\nX-Content-Length: 12\r\nContent-Lengths: 3\r\n\r\n", 0),
            ("PUT / HTTP/1.1\r\nContent\rlength: 12\r\nContent-Type: content-length: 5\r\n\r\n", 0),
            ("PUT / HTTP/1.1\r\nCONTENT-LENGTH:   7\r\nC: content-length: 5\r\n\r\n", 7),
        ] {
            assert_eq!(
                read([head.as_bytes(), b"{\n\n}"].concat().as_slice()),
                Some((head.len(), body)),
                "{head}"
            );
            assert_eq!(read(&head.as_bytes()[..head.len() - 1]), None, "{head}");
        }
    }

    #[test]
    fn line_feeds_are_found_wherever_they_are() {
        assert_eq!(line_feed(u64::from_le_bytes(*b"\x0b\x8a\x09\xff\0abc")), None);
        for at in 0..8 {
            for bytes in [*b"\x0b\x0b\x0b\xff\0abc", *b"\n\n\n\n\n\n\n\n"] {
                let mut bytes = bytes;
                bytes[..at].fill(b'\x0b');
                bytes[at] = b'\n';
                assert_eq!(line_feed(u64::from_le_bytes(bytes)), Some(at as u32), "{bytes:?}");
            }
        }
    }
}
