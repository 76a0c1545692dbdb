//! The begin of a TLS connection, handed to userspace: the client's bytes up to the end of its
//! ClientHello, from which userspace tells the JA4 fingerprint.
//!
//! In flow the client's segments until the server has answered; out flow their bytes, each with its
//! position in the stream. Nothing is put together here: userspace sorts, and drops what it has seen.
//!
//! Invariant: only bytes of handshake records leave, as far as the order of segments lets that be told,
//! and none beyond [`MAX_HELLO`] of a connection.

use crate::{
    abi::{Address, Counter},
    flow::{ClientHalf, Flow, SETTLED, SYN_SEEN, TLS_KNOWN},
    packet::{Packet, Segment},
    quic::Kind,
    stream::Stream,
    tls::{HANDSHAKE, HEADER, Record},
    track::Tables,
    walk::Header as _,
};

/// Bytes of a connection's begin that are looked at: a post-quantum ClientHello has about 1,800.
pub const MAX_HELLO: u32 = 4096;
/// Datagrams with Initial packets that are looked at: a ClientHello takes one or two, some are lost, and
/// others acknowledge.
const MAX_DATAGRAMS: u8 = 8;
/// Datagrams with Initial packets are padded to this (RFC 9000 section 14.1).
const MIN_INITIAL: u32 = 1200;

/// What an event tells of the begin of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tells {
    /// What the client said: its bytes follow.
    Bytes = 0,
    /// How long the client took to complete the TCP handshake.
    TcpRoundTrip = 1,
    /// How long the client took to answer the server's part of the TLS handshake.
    TlsRoundTrip = 2,
}

/// What is said of the begin of a connection, and of the bytes that follow in the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HelloEvent {
    /// Client address.
    pub client: Address,
    /// Service address.
    pub server: Address,
    /// First packet of the flow, nanoseconds of the kernel's monotonic clock.
    pub flow_start: u64,
    /// Client port, host order.
    pub client_port: u16,
    /// Service port, host order.
    pub server_port: u16,
    /// Where in the client's stream the bytes begin (TCP), or the number of the datagram, from 0 (UDP); of a round
    /// trip, how long it took, microseconds.
    pub position: u32,
    /// How many bytes follow.
    pub len: u32,
    /// IP protocol number.
    pub transport: u8,
    /// [`Tells`].
    pub tells: u8,
    /// Zero.
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<HelloEvent>() == 56);

impl HelloEvent {
    /// The event in these bytes of the ring buffer, and the client's bytes behind it; `None` when there are
    /// too few.
    pub fn from_bytes(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, bytes) = bytes.split_at_checked(size_of::<Self>())?;
        let words: [[u8; 8]; 7] = head.as_chunks().0.first_chunk().copied()?;
        let event = Self::from(words.map(u64::from_ne_bytes));
        Some((event, bytes.get(..event.len as usize)?))
    }

    /// What it tells.
    pub const fn tells(&self) -> Tells {
        match self.tells {
            1 => Tells::TcpRoundTrip,
            2 => Tells::TlsRoundTrip,
            _ => Tells::Bytes,
        }
    }

    /// Sets all but `position` and `len`.
    #[inline(always)]
    pub(crate) fn describe(&mut self, flow: &Flow, segment: &Segment, tells: Tells) {
        self.client = segment.key.client;
        self.server = segment.key.server;
        self.flow_start = flow.first_seen.get();
        self.client_port = u16::from_be(segment.key.client_port);
        self.server_port = u16::from_be(segment.key.server_port);
        self.transport = segment.transport;
        self.tells = tells as u8;
        self.pad = [0; 2];
    }
}

/// Hands out what `segment` has of the client's first records. Nothing once the server has answered: the
/// ClientHello was whole by then.
#[inline(always)]
pub(crate) fn client<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &ClientHalf,
    segment: &Segment,
) {
    const KNOWN: u8 = SYN_SEEN | SETTLED;
    if half.flags & KNOWN != KNOWN || flow.answered.tls.get() & TLS_KNOWN != 0 {
        return;
    }
    let position = segment.seq.wrapping_sub(half.turn_seq);
    if position >= MAX_HELLO {
        return;
    }
    let len = handshake_bytes(packet, &half.stream, segment).min(MAX_HELLO - position);
    if len == 0 {
        return;
    }
    hand_out(packet, tables, flow, segment, position, len);
}

#[inline(always)]
fn hand_out<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    segment: &Segment,
    position: u32,
    len: u32,
) {
    let handed_out = tables.hello(packet, segment.payload, len, |event| {
        event.describe(flow, segment, Tells::Bytes);
        event.position = position;
        event.len = len;
    });
    if !handed_out {
        tables.count(Counter::HelloRingFull);
    }
}

/// Hands out a datagram of the client that begins with a QUIC Initial packet, if it is one of the first.
#[inline(always)]
pub(crate) fn datagram<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    flow: &Flow,
    half: &mut ClientHalf,
    segment: &Segment,
) {
    if half.skipped >= MAX_DATAGRAMS || !is_initial(packet, segment) {
        return;
    }
    half.flags |= SYN_SEEN;
    let position = half.skipped as u32;
    half.skipped += 1;
    hand_out(packet, tables, flow, segment, position, segment.payload_len.min(MAX_HELLO));
}

/// Whether a datagram begins with an Initial packet of QUIC.
#[inline(always)]
fn is_initial<P: Packet>(packet: &P, segment: &Segment) -> bool {
    if segment.payload_len < MIN_INITIAL {
        return false;
    }
    let [first, version @ ..]: [u8; 5] = packet.load(segment.payload).unwrap_or_default();
    Kind::read(first, version) == Some(Kind::Initial)
}

/// Bytes at the begin of `segment` that belong to handshake records. Early data, which may follow, is
/// left out where the stream is in order; elsewhere boundaries are not known.
#[inline(always)]
fn handshake_bytes<P: Packet>(packet: &P, stream: &Stream, segment: &Segment) -> u32 {
    if segment.seq != stream.next || stream.header_len > 0 {
        return segment.payload_len;
    }
    let end = match Record::at_start(packet, segment) {
        _ if stream.remaining > 0 => stream.remaining,
        Some(record) if record.kind == HANDSHAKE => HEADER + record.len,
        Some(_) => 0,
        // A header that continues in the next segment.
        None => segment.payload_len,
    };
    // A ClientHello may go on in a second record.
    if end >= segment.payload_len || packet.load(segment.payload + end) == Some([HANDSHAKE]) {
        segment.payload_len
    } else {
        end
    }
}
