//! TLS records (RFC 8446 section 5.1, RFC 5246 section 6.2) and the ServerHello.
//!
//! Of records nothing but the five bytes of a header is ever read.

use crate::{
    packet::{Packet, Segment},
    stream::Stream,
    walk::Header,
};

/// Content type: handshake.
pub(crate) const HANDSHAKE: u8 = 22;
/// Content type: application data (and, in TLS 1.3, everything that is encrypted).
pub(crate) const APPLICATION_DATA: u8 = 23;

/// Bytes of a record header.
pub(crate) const HEADER: u32 = 5;
/// 2^14 of plaintext and what the ciphers of TLS 1.2 may add.
const MAX_RECORD: u32 = (1 << 14) + 2048;

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

impl Header<{ HEADER as usize }> for Record {
    #[inline(always)]
    fn parse(header: [u8; HEADER as usize]) -> Option<Self> {
        let record = Self { kind: header[0], len: u16::from_be_bytes([header[3], header[4]]) as u32 };
        let plausible = record.kind.wrapping_sub(20) <= 4
            && header[1] == 3
            && header[2] <= 4
            && record.len.wrapping_sub(1) < MAX_RECORD;
        if plausible { Some(record) } else { None }
    }

    #[inline(always)]
    fn content(&self) -> u32 {
        self.len
    }
}

/// What the usual segment of an established flow is: the next of its stream, and within one record of
/// application data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Within {
    /// Length of the record that begins here; 0 when it began before.
    pub(crate) begins: u32,
    /// Bytes of the record that are still to come after this segment.
    pub(crate) remaining: u32,
}

impl Within {
    /// `None` for every other segment.
    #[inline(always)]
    pub(crate) fn of<P: Packet>(
        stream: &Stream<{ HEADER as usize }>,
        packet: &P,
        segment: &Segment,
    ) -> Option<Self> {
        if !stream.is_next(segment.seq) {
            return None;
        }
        let len = segment.payload_len;
        if stream.remaining > 0 {
            let fits = stream.remaining >= len;
            return if fits { Some(Self { begins: 0, remaining: stream.remaining - len }) } else { None };
        }
        let record = Record::at_start(packet, segment)?;
        let fits = record.kind == APPLICATION_DATA && HEADER + record.len >= len;
        if fits { Some(Self { begins: record.len, remaining: HEADER + record.len - len }) } else { None }
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
