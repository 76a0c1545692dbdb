//! Frames put into tunnels, as a tunnel's end sends them.

/// A tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// RFC 7348, to this UDP port.
    Vxlan(u16),
    /// RFC 8926, with this many bytes of options, a multiple of four.
    Geneve(u8),
    /// RFC 2784 and 2890, with an Ethernet frame or only its IP packet inside, and with these optional fields.
    Gre {
        /// An Ethernet frame inside.
        ethernet: bool,
        /// With a checksum.
        checksum: bool,
        /// With a key.
        key: bool,
        /// With a sequence number.
        sequence: bool,
    },
    /// The IP packet directly inside another (RFC 2003, 2473, 4213).
    Ip,
}

/// What the outer packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// IPv4 behind a VLAN tag.
    TaggedV4,
}

const ETHERNET: usize = 14;

impl Tunnel {
    /// Every kind that the programs open by default, with and without what is optional.
    pub const USUAL: [Self; 8] = [
        Self::Vxlan(4789),
        Self::Geneve(0),
        Self::Geneve(20),
        Self::Geneve(252),
        Self::Gre { ethernet: false, checksum: false, key: false, sequence: false },
        Self::Gre { ethernet: true, checksum: false, key: true, sequence: false },
        Self::Gre { ethernet: false, checksum: true, key: true, sequence: true },
        Self::Ip,
    ];

    /// `frame`, an untagged Ethernet frame with an IP packet, inside the tunnel.
    pub fn wrap(self, frame: &[u8], outside: Outside) -> Vec<u8> {
        let packet = &frame[ETHERNET..];
        let ethertype = &frame[ETHERNET - 2..ETHERNET];
        let (protocol, payload) = match self {
            Self::Vxlan(port) => (17, udp(port, &[&[8, 0, 0, 0, 0, 0, 42, 0], frame])),
            Self::Geneve(options) => {
                let header = [options / 4, 0, 0x65, 0x58, 0, 0, 42, 0];
                (17, udp(6081, &[&header, &vec![0xa5; usize::from(options)], frame]))
            }
            Self::Gre { ethernet, checksum, key, sequence } => {
                let flags = u8::from(checksum) << 7 | u8::from(key) << 5 | u8::from(sequence) << 4;
                let optional = 4 * (usize::from(checksum) + usize::from(key) + usize::from(sequence));
                let (kind, inside) = if ethernet { (&[0x65, 0x58][..], frame) } else { (ethertype, packet) };
                (47, [&[flags, 0], kind, &vec![0xa5; optional], inside].concat())
            }
            Self::Ip => (if ethertype == [0x86, 0xdd] { 41 } else { 4 }, packet.to_vec()),
        };
        [outer(outside, protocol, payload.len()), payload].concat()
    }
}

fn udp(port: u16, parts: &[&[u8]]) -> Vec<u8> {
    let payload = parts.concat();
    let length = (8 + payload.len()) as u16;
    [&51_515_u16.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], &payload].concat()
}

/// Ethernet and IP headers before `length` bytes of `protocol`.
fn outer(outside: Outside, protocol: u8, length: usize) -> Vec<u8> {
    let mut header = vec![2; 12];
    if outside == Outside::TaggedV4 {
        header.extend([0x81, 0x00, 0, 9]);
    }
    if outside == Outside::V6 {
        header.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        header.extend((length as u16).to_be_bytes());
        header.extend([protocol, 64]);
        header.extend([0xfd; 16]);
        header.extend([0xfe; 16]);
    } else {
        header.extend([0x08, 0x00, 0x45, 0]);
        header.extend(((20 + length) as u16).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        header.extend([192, 0, 2, 1]);
        header.extend([192, 0, 2, 2]);
    }
    header
}
