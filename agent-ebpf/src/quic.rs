//! HTTP/3 over QUIC, estimated: all is encrypted but the handshake's headers, so that direction and size
//! alone tell where a request begins and what an answer amounts to.
//!
//! A client that only acknowledges sends little; more than that after an answer begins a request. Bytes
//! are those of the datagrams without what QUIC adds to each.
//!
//! Invariant: nothing is estimated of a flow whose first Initial packet was not seen: it may be no QUIC.

use core::ops::ControlFlow;

use crate::{
    abi::Protocol,
    flow::{ClientHalf, Flow, GUESSED, SYN_SEEN, ServerHalf, UPLOADS},
    hello,
    packet::{Direction, Packet, Segment},
    request::Begun,
    track::{self, Scratch, Step, Tables},
};

/// Version 1 (RFC 9000).
const V1: [u8; 4] = [0, 0, 0, 1];
/// Version 2 (RFC 9369).
const V2: [u8; 4] = [0x6b, 0x33, 0x43, 0xcf];
/// First bit of a packet with a long header.
const LONG: u8 = 0x80;
/// First two bits of a packet with a short header.
const SHORT: u8 = 0x40;
/// What a packet with a short header adds to its connection id: the first byte, a packet number of two, and
/// the tag.
const OVERHEAD: u32 = 1 + 2 + 16;
/// What QUIC adds to a STREAM frame.
const STREAM_FRAME: u32 = 5;
/// The longest content of a client's packet that acknowledges and moves windows.
const MAX_CONTROL: u32 = 32;
/// Of a server's: it acknowledges less, and the head of an answer is short.
const MAX_SERVER_CONTROL: u32 = 24;
/// A datagram of this length may be one of several that a request takes.
const FULL: u32 = 1150;
/// The longest datagram that fits an Ethernet frame.
const MAX_DATAGRAM: u32 = 1472;
/// What a server may say while it still reads a request.
const MAX_ASIDE: u64 = 600;
/// Packets that one datagram may hold: Initial, 0-RTT, Handshake, 1-RTT.
const MAX_COALESCED: u32 = 4;

/// The kinds of packets with long headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Opens a connection.
    Initial,
    /// Early data.
    ZeroRtt,
    /// What ends the handshake, or a refusal.
    Other,
}

impl Kind {
    /// Reads the first byte and the version of a packet with a long header, if they are those of one (RFC 9000
    /// section 17.2, RFC 9369 section 3.2).
    #[inline(always)]
    pub(crate) fn read(first: u8, version: [u8; 4]) -> Option<Self> {
        let kind = match version {
            V1 => first >> 4 & 3,
            V2 => (first >> 4).wrapping_sub(1) & 3,
            _ => return None,
        };
        if first & LONG == 0 {
            return None;
        }
        Some(match kind {
            0 => Self::Initial,
            1 => Self::ZeroRtt,
            _ => Self::Other,
        })
    }
}

/// A walk over the packets of one datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Walk {
    at: u32,
    end: u32,
    /// Length of the destination's connection id; 0 when no packet has told.
    id_len: u32,
    /// Bytes of early data.
    early: u32,
    /// Bytes of the packet with a short header that comes last.
    short: u32,
    /// There is an Initial packet, so the datagram was padded.
    padded: bool,
    pad: [u8; 3],
}

struct Walker<'a, P> {
    packet: &'a P,
    walk: &'a mut Walk,
}

impl<P: Packet> Step for Walker<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> ControlFlow<()> {
        let Self { packet, walk } = self;
        let Some([first, a, b, c, d, id_len]) = packet.load(walk.at) else { return ControlFlow::Break(()) };
        if first & LONG == 0 {
            if first & SHORT != 0 {
                walk.short = walk.end.wrapping_sub(walk.at);
            }
            return ControlFlow::Break(());
        }
        let Some(kind) = Kind::read(first, [a, b, c, d]) else { return ControlFlow::Break(()) };
        walk.id_len = id_len as u32;
        let mut at = walk.at + 6 + id_len as u32;
        let [source_len] = packet.load(at).unwrap_or_default();
        at += 1 + source_len as u32;
        if kind == Kind::Initial {
            walk.padded = true;
            let (token, read) = number(*packet, at);
            at += token + read;
        }
        let (len, read) = number(*packet, at);
        at += len + read;
        if kind == Kind::ZeroRtt {
            walk.early += len.saturating_sub(OVERHEAD);
        }
        if read == 0 || at >= walk.end {
            return ControlFlow::Break(());
        }
        walk.at = at;
        ControlFlow::Continue(())
    }
}

/// A number of variable length (RFC 9000 section 16) up to 2^14, and how many bytes it takes; 0 when it is
/// larger.
#[inline(always)]
fn number<P: Packet>(packet: &P, at: u32) -> (u32, u32) {
    let [first, second] = packet.load(at).unwrap_or([0xff; 2]);
    match first >> 6 {
        0 => (first as u32, 1),
        1 => (u16::from_be_bytes([first & 0x3f, second]) as u32, 2),
        _ => (0, 0),
    }
}

/// A datagram of the client.
#[inline(always)]
pub(crate) fn ingress<P: Packet, T: Tables>(packet: &P, tables: &T) {
    let Some(scratch) = tables.scratch(Direction::Ingress) else { return };
    let Scratch { segment, datagram, .. } = scratch;
    let Some(flow) = track::lookup(tables, segment) else { return };
    // SAFETY: promised by the implementor of `Tables`.
    let half = unsafe { flow.client_half() };
    let now = tables.now();
    hello::datagram(packet, tables, flow, half, segment);
    if let Some(begun) = asked(packet, tables, flow, half, segment, datagram, now) {
        track::end(tables, flow, segment, 0);
        track::begin(tables, flow, half, segment, &begun, now);
    }
}

/// A datagram of the server.
#[inline(always)]
pub(crate) fn egress<P: Packet, T: Tables>(packet: &P, tables: &T) {
    let Some(scratch) = tables.scratch(Direction::Egress) else { return };
    let segment = &scratch.segment;
    let Some(flow) = track::lookup(tables, segment) else { return };
    // SAFETY: promised by the implementor of `Tables`.
    answered(packet, tables, flow, unsafe { flow.server_half() }, segment);
}

/// Takes a datagram of the client; returns the turn that it begins, if it does.
#[inline(always)]
fn asked<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
    walk: &mut Walk,
    now: u64,
) -> Option<Begun> {
    let mode = Protocol::Quic as u32;
    if half.flags & SYN_SEEN == 0 {
        return None;
    }
    *walk = Walk { at: segment.payload, end: segment.payload + segment.payload_len, ..Walk::default() };
    tables.repeat(MAX_COALESCED, &mut Walker { packet, walk });
    if walk.id_len > 0 {
        half.id_len = walk.id_len as u8;
    }
    if is_probe(segment, &mut half.turn_seq) && walk.id_len == 0 {
        return None;
    }
    let content = walk.early + walk.short.saturating_sub(OVERHEAD + half.id_len as u32);
    if content <= MAX_CONTROL {
        return None;
    }
    let bytes = content.saturating_sub(STREAM_FRAME) as u64;
    // All datagrams of a request but its last are full, and the server does not answer before that.
    let goes_on = half.flags & UPLOADS != 0 && flow.answered.bytes.get() < MAX_ASIDE;
    if segment.payload_len >= FULL {
        half.flags |= UPLOADS;
    } else {
        half.flags &= !UPLOADS;
    }
    let guessed = half.flags & GUESSED != 0;
    half.flags &= !GUESSED;
    if half.turns == 0 || flow.is_answered() && !goes_on {
        half.flags |= if walk.padded { GUESSED } else { 0 };
        return Some(Begun { bytes, head: 0, mode, early: false });
    }
    // What was mostly padding is left out once there is something better.
    half.bytes = if guessed { bytes } else { half.bytes + bytes };
    flow.asked.bytes.set(half.bytes);
    flow.asked.end.set(now);
    None
}

/// Whether a datagram is longer than all before it: that is how the length that a path takes is probed (RFC
/// 8899), with padding, and what is longer than usual comes only after a probe got through.
#[inline(always)]
fn is_probe(segment: &Segment, longest: &mut u32) -> bool {
    let len = segment.payload_len;
    // Super-frames tell nothing.
    if len <= *longest || len > MAX_DATAGRAM {
        return false;
    }
    *longest = len;
    len >= FULL
}

/// Takes a datagram of the server.
#[inline(always)]
fn answered<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &mut ServerHalf,
    segment: &Segment,
) {
    let Some([first, a, b, c, d, id_len]) = packet.load(segment.payload) else { return };
    if first & LONG != 0 {
        if Kind::read(first, [a, b, c, d]).is_some() {
            half.ticket_len = id_len as u16;
            is_probe(segment, &mut half.answers);
        }
        return;
    }
    if is_probe(segment, &mut half.answers) {
        return;
    }
    let turn = flow.asked.turn.get();
    if turn == 0 || first & SHORT == 0 {
        return;
    }
    if flow.answered.turn.get() != turn {
        flow.answered.begin(turn);
    }
    // A super-frame holds several.
    let datagrams = segment.payload_len.div_ceil(MAX_DATAGRAM);
    let content = segment.payload_len.saturating_sub(datagrams * (OVERHEAD + half.ticket_len as u32));
    if content <= MAX_SERVER_CONTROL {
        return;
    }
    if half.finished == 0 {
        // The end of the handshake, tickets and settings.
        half.finished = 1;
        if segment.payload_len < FULL {
            return;
        }
    }
    flow.answered.add(content.saturating_sub(datagrams * STREAM_FRAME), tables.now());
}
