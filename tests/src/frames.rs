//! Frames made by hand: from fields to bytes, and from a super-frame to the segments that a wire carries.

use std::net::IpAddr;

/// TCP flags.
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Begin.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The last of a write.
    pub const PSH: u8 = 0x08;
    /// Acknowledgement.
    pub const ACK: u8 = 0x10;
}

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;

/// A TCP segment in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// From.
    pub source: (IpAddr, u16),
    /// To.
    pub destination: (IpAddr, u16),
    /// Sequence number.
    pub seq: u32,
    /// Flags.
    pub flags: u8,
    /// VLAN identifiers, outermost first.
    pub vlans: Vec<u16>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Tcp {
    /// The frame, with what its sender has seen of the other side.
    pub fn acknowledging(&self, ack: u32) -> Vec<u8> {
        let network = if self.source.0.is_ipv4() { IPV4 } else { IPV6 };
        let at = ETHERNET + 4 * self.vlans.len() + network + 8;
        let mut frame = self.frame();
        frame[at..at + 4].copy_from_slice(&ack.to_be_bytes());
        frame
    }

    /// The frame, without checksums, which nobody looks at.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for (position, vlan) in self.vlans.iter().enumerate() {
            let outer = position + 1 < self.vlans.len();
            frame.extend(if outer { [0x88, 0xa8] } else { [0x81, 0x00] });
            frame.extend(vlan.to_be_bytes());
        }
        let length = TCP + self.payload.len();
        match (self.source.0, self.destination.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00, 0x45, 0]);
                frame.extend(((IPV4 + length) as u16).to_be_bytes());
                frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            (source, destination) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((length as u16).to_be_bytes());
                frame.extend([6, 64]);
                for address in [source, destination] {
                    match address {
                        IpAddr::V4(v4) => frame.extend(v4.to_ipv6_mapped().octets()),
                        IpAddr::V6(v6) => frame.extend(v6.octets()),
                    }
                }
            }
        }
        frame.extend(self.source.1.to_be_bytes());
        frame.extend(self.destination.1.to_be_bytes());
        frame.extend(self.seq.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        frame.extend(&self.payload);
        frame
    }
}

/// A TLS record of application data with this many bytes inside, as TLS 1.3 wraps them.
pub fn tls_record(content: usize) -> Vec<u8> {
    let length = (content + 17) as u16;
    let mut record = vec![23, 3, 3];
    record.extend(length.to_be_bytes());
    record.resize(record.len() + usize::from(length), 0xa5);
    record
}

/// What an HTTP/2 client begins with (RFC 9113 section 3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An HTTP/2 frame (RFC 9113 section 4.1) with this many bytes of content.
pub fn http2_frame(kind: u8, flags: u8, stream: u32, content: usize) -> Vec<u8> {
    let [_, length @ ..] = (content as u32).to_be_bytes();
    let header = [&length[..], &[kind, flags], &stream.to_be_bytes()].concat();
    [header, vec![0xa5; content]].concat()
}

/// Cuts a TCP/IPv4 or TCP/IPv6 super-frame into frames with at most `payload` bytes each, as a network card
/// does. Anything else, and what is short enough, comes back as it is.
pub fn segments(frame: &[u8], payload: usize) -> Vec<Vec<u8>> {
    cut(frame, payload).unwrap_or_else(|| vec![frame.to_vec()])
}

fn cut(frame: &[u8], payload: usize) -> Option<Vec<Vec<u8>>> {
    let (network, length_at) = match frame.get(12..14)? {
        [0x08, 0x00] if frame.get(23)? == &6 => (usize::from(frame[14] & 15) * 4, ETHERNET + 2),
        [0x86, 0xdd] if frame.get(20)? == &6 => (IPV6, ETHERNET + 4),
        _ => return None,
    };
    let transport = ETHERNET + network;
    let headers = transport + usize::from(frame.get(transport + 12)? >> 4) * 4;
    let data = frame.get(headers..)?;
    if data.len() <= payload {
        return None;
    }
    let seq = u32::from_be_bytes(*frame.get(transport + 4..)?.first_chunk()?);
    let last = data.len().div_ceil(payload) - 1;
    let piece = |(index, piece): (usize, &[u8])| {
        let mut cut = [&frame[..headers], piece].concat();
        let fixed = if length_at == ETHERNET + 2 { ETHERNET } else { ETHERNET + IPV6 };
        cut[length_at..length_at + 2]
            .copy_from_slice(&((headers - fixed + piece.len()) as u16).to_be_bytes());
        let seq = seq.wrapping_add((index * payload) as u32);
        cut[transport + 4..transport + 8].copy_from_slice(&seq.to_be_bytes());
        if index < last {
            // Only the last one ends the connection.
            cut[transport + 13] &= !flags::FIN;
        }
        cut
    };
    Some(data.chunks(payload).enumerate().map(piece).collect())
}
