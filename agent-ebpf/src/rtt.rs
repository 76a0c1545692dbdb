//! How long a client takes to answer the server: in the TCP handshake, and in the first client's turn of the TLS
//! handshake behind the ClientHello.
//!
//! The first is the way to whoever ends the TCP connection, the second that to whoever ends TLS. A relay that ends
//! TCP and hands TLS on makes the second longer, by the way from the relay to the client.
//!
//! In flow the packets of a handshake; out flow two events of a connection, for userspace.
//!
//! Invariant: an answer to what the server has sent twice is not timed (Karn's algorithm, RFC 6298 section 3), nor is
//! one that may not be an answer: early data.

use crate::{
    abi::{Counter, Protocol},
    admission,
    flow::{
        CONNECTED, ClientHalf, EARLY, Flow, HANDSHAKE_DONE, SETTLED, SYN_SEEN, ServerHalf, TLS_KNOWN, TURNED,
        protocol,
    },
    hello::Tells,
    packet::{RST, SYN, Segment, UDP},
    track::Tables,
};

/// A segment with nothing but a ChangeCipherSpec, which some clients send before they have all of the server's
/// flight (RFC 8446 appendix D.4).
const CHANGE_CIPHER_SPEC: u32 = 6;

/// Notes when the server's words of a handshake leave.
#[inline(always)]
pub(crate) fn egress<T: Tables>(tables: &T, flow: &Flow, half: &ServerHalf, segment: &Segment) {
    let answered = &flow.answered;
    let mode = flow.asked.mode.get();
    let is_new = if segment.transport == UDP {
        return;
    } else if segment.has(SYN) {
        answered.greeting.get() != segment.seq.wrapping_add(1)
            || answered.accepted.get() != segment.ack.wrapping_sub(1)
    } else if segment.payload_len > 0 && protocol(mode) == Protocol::Tls && mode & HANDSHAKE_DONE == 0 {
        half.stream.is_fresh(segment.seq)
    } else {
        return;
    };
    flow.answered.greeted.set(if is_new { micros(tables.now()) } else { 0 });
}

/// Times the client's answers to them. Comes before the segment is taken.
#[inline(always)]
pub(crate) fn ingress<T: Tables>(
    tables: &T,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
    now: u64,
) {
    const KNOWN: u8 = SYN_SEEN | SETTLED;
    if half.flags & KNOWN != KNOWN || segment.transport == UDP || segment.has(SYN | RST) {
        return;
    }
    let tells = if half.flags & CONNECTED == 0 && admission::completes_handshake(flow, half, segment) {
        half.flags |= CONNECTED;
        Tells::TcpRoundTrip
    } else if half.flags & (CONNECTED | TURNED) == CONNECTED && is_turn(flow, half, segment) {
        half.flags |= TURNED;
        Tells::TlsRoundTrip
    } else {
        return;
    };
    let greeted = flow.answered.greeted.get();
    if greeted == 0 {
        return;
    }
    let handed_out = tables.round_trip(|event| {
        event.describe(flow, segment, tells);
        event.position = micros(now).wrapping_sub(greeted);
        event.len = 0;
    });
    if !handed_out {
        tables.count(Counter::HelloRingFull);
    }
}

/// Whether this is the client's answer to the ServerHello (or to what the server sends instead, when it wants
/// another ClientHello) and to what came with it.
#[inline(always)]
fn is_turn(flow: &Flow, half: &ClientHalf, segment: &Segment) -> bool {
    segment.payload_len > CHANGE_CIPHER_SPEC
        && flow.answered.tls.get() & TLS_KNOWN != 0
        && flow.asked.mode.get() & (HANDSHAKE_DONE | EARLY) == 0
        && half.stream.is_fresh(segment.seq)
}

/// Microseconds that wrap around after 71 minutes, and are never 0.
#[inline(always)]
fn micros(nanos: u64) -> u32 {
    (nanos / 1000) as u32 | 1
}
