//! ClientHellos out of QUIC Initial packets, whose keys anybody on the path can derive (RFC 9001 section 5.2,
//! RFC 9369).
//!
//! In flow the first datagrams of a client; out flows its CRYPTO stream. A datagram may hold several
//! packets, a packet several CRYPTO frames in any order, and the stream may take several datagrams.

use rustls::{
    Side,
    crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
    quic::{DirectionalKeys, Version},
};

use crate::assembly::Assembly;

const V1: u32 = 1;
const V2: u32 = 0x6b33_43cf;
/// Longest connection id (RFC 9000 section 17.2).
const MAX_CONNECTION_ID: u8 = 20;
/// Header protection takes its sample this far behind the begin of the packet number.
const SAMPLE_AT: usize = 4;

/// The begin of one QUIC connection, as far as its client's datagrams have come.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    /// The id that the client chose for the server in its first packet; the keys come from it.
    first_id: Option<Vec<u8>>,
    crypto: Assembly,
}

impl Handshake {
    /// Takes a datagram of the client; what is no Initial packet, or not of this connection, is passed over.
    pub(super) fn datagram(&mut self, mut datagram: &[u8]) {
        while let Some((packet, rest)) = Long::read(datagram) {
            if let Some(initial) = packet.initial {
                self.initial(&packet, initial);
            }
            datagram = rest;
        }
    }

    /// The CRYPTO stream up to the first gap.
    pub(super) fn begin(&self) -> &[u8] {
        self.crypto.begin()
    }

    fn initial(&mut self, packet: &Long<'_>, version: Version) {
        let first = self.first_id.get_or_insert_with(|| packet.destination.to_vec());
        // After a Retry the client begins anew with the id that the server chose.
        let frames = open(packet, version, first).or_else(|| open(packet, version, packet.destination));
        if let Some(frames) = frames {
            self.frames(&frames);
        }
    }

    /// Takes the CRYPTO frames out of a packet (RFC 9000 section 17.2.2 says which others there may be).
    fn frames(&mut self, frames: &[u8]) -> Option<()> {
        const PADDING: u64 = 0;
        const PING: u64 = 1;
        const ACK: u64 = 2;
        const ACK_ECN: u64 = 3;
        const CRYPTO: u64 = 6;
        let mut reader = Reader(frames);
        loop {
            match reader.number()? {
                PADDING | PING => {}
                kind @ (ACK | ACK_ECN) => {
                    let (_largest, _delay) = (reader.number()?, reader.number()?);
                    let ranges = reader.number()?;
                    let _first = reader.number()?;
                    for _ in 0..ranges {
                        let (_gap, _length) = (reader.number()?, reader.number()?);
                    }
                    if kind == ACK_ECN {
                        let _counts = (reader.number()?, reader.number()?, reader.number()?);
                    }
                }
                CRYPTO => {
                    let position = usize::try_from(reader.number()?).ok()?;
                    let len = reader.number()?;
                    self.crypto.add(position, reader.bytes(len)?);
                }
                _ => return None,
            }
        }
    }
}

/// A packet with a long header (RFC 9000 section 17.2).
struct Long<'a> {
    /// All of it.
    packet: &'a [u8],
    /// The version, when it is an Initial packet of one that is known.
    initial: Option<Version>,
    destination: &'a [u8],
    /// Where its packet number begins.
    number_at: usize,
}

impl<'a> Long<'a> {
    /// The packet that `datagram` begins with, and what follows it; `None` for any but a packet with a long
    /// header of a known version.
    fn read(datagram: &'a [u8]) -> Option<(Self, &'a [u8])> {
        const LONG: u8 = 0xc0;
        let mut reader = Reader(datagram);
        let &[first] = reader.take()?;
        let number = u32::from_be_bytes(*reader.take()?);
        let kind = first >> 4 & 3;
        // The kinds of packets have other numbers in version 2: Initial, then Retry, which has no length.
        let (version, initial, retry) = match number {
            V1 => (Version::V1, kind == 0, kind == 3),
            V2 => (Version::V2, kind == 1, kind == 0),
            _ => return None,
        };
        if first & LONG != LONG || retry {
            return None;
        }
        let destination = reader.connection_id()?;
        let _source = reader.connection_id()?;
        if initial {
            let token = reader.number()?;
            reader.bytes(token)?;
        }
        let len = reader.number()?;
        let number_at = datagram.len() - reader.0.len();
        reader.bytes(len)?;
        let (packet, rest) = datagram.split_at(datagram.len() - reader.0.len());
        Some((Self { packet, initial: initial.then_some(version), destination, number_at }, rest))
    }
}

/// Removes header protection (RFC 9001 section 5.4) and decrypts with the keys that come from `id`: the
/// packet's frames, or `None` when those are not its keys.
fn open(packet: &Long<'_>, version: Version, id: &[u8]) -> Option<Vec<u8>> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()?;
    let DirectionalKeys { header: protection, packet: key } = suite.keys(id, Side::Server, version).remote;
    let mut bytes = packet.packet.to_vec();
    let (first, rest) = bytes.split_first_mut()?;
    let (number, payload) = rest.get_mut(packet.number_at - 1..)?.split_at_mut_checked(SAMPLE_AT)?;
    let sample = payload.get(..protection.sample_len())?;
    protection.decrypt_in_place(sample, first, number).ok()?;
    let number_len = usize::from(*first & 3) + 1;
    // The first packets of a connection have numbers that are not cut.
    let number = number[..number_len].iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    let (header, payload) = bytes.split_at_mut(packet.number_at + number_len);
    key.decrypt_in_place(number, header, payload).ok().map(<[u8]>::to_vec)
}

/// Reads from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    fn bytes(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of variable length (RFC 9000 section 16).
    fn number(&mut self) -> Option<u64> {
        let &[first] = self.take()?;
        let rest = self.bytes((1 << (first >> 6)) - 1)?;
        Some(rest.iter().fold(u64::from(first & 0x3f), |number, &byte| number << 8 | u64::from(byte)))
    }

    fn connection_id(&mut self) -> Option<&'a [u8]> {
        let &[len] = self.take()?;
        if len > MAX_CONNECTION_ID { None } else { self.bytes(len.into()) }
    }
}
