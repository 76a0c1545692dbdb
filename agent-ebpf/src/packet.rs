//! From a frame to a TCP or UDP segment of a watched port: Ethernet, up to two VLAN tags, IPv4 with
//! options, IPv6 with extension headers.
//!
//! In flow bytes that anybody on the network chose; out flows a [`Segment`] or the reason why there is
//! none. The frame of nobody we watch leaves on the shortest path: the port is looked at first.

use crate::abi::{Address, Counter, FlowKey, V4_MAPPED};

/// Bytes of one frame.
pub trait Packet {
    /// Length of the frame on the wire, bytes.
    fn len(&self) -> u32;

    /// Whether the frame has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `N` bytes from `offset`; `None` where the frame (or what was captured of it) ends before.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// Fills `to` (which is not empty) with the bytes from `offset`; `false` where the frame ends before.
    fn copy(&self, offset: u32, to: &mut [u8]) -> bool;

    /// When the frame's sender on this host sent it, monotonic nanoseconds; `None` where nobody says.
    fn sent_at(&self) -> Option<u64> {
        None
    }

    /// `N` words of four bytes from `offset`, in network order. In the kernel each is one load, where bytes
    /// would be four.
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
}

/// Direction of a hook, seen from the service's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Ingress,
    /// To the client.
    Egress,
}

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// TCP flag: no more data.
pub const FIN: u8 = 0x01;
/// TCP flag: begin.
pub const SYN: u8 = 0x02;
/// TCP flag: reset.
pub const RST: u8 = 0x04;
/// TCP flag: the sender has nothing more to send for now (RFC 9293 section 3.9.1).
pub const PSH: u8 = 0x08;
/// TCP flag: acknowledgement.
pub const ACK: u8 = 0x10;

/// One TCP segment or UDP datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Key of its flow. Looked up where it lies: copying what was just written would stall.
    pub key: FlowKey,
    /// [`TCP`] or [`UDP`].
    pub transport: u8,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// TCP sequence number; 0 for UDP.
    pub seq: u32,
    /// TCP acknowledgement number; 0 for UDP.
    pub ack: u32,
    /// Where the payload begins in the frame.
    pub payload: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// Bytes of the IP packet.
    pub ip_bytes: u32,
}

impl Segment {
    /// Whether any of these TCP flags is set.
    #[inline(always)]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// Why a frame is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// It is nobody's whom we watch.
    Nobody,
    /// It cannot be: the reason to count.
    Lost(Counter),
    /// It is nobody's whom we watch, if it is not a tunnel's.
    Other(Outer),
}

/// A frame that ends too soon. Told by `let … else`: through `ok_or` and `?` the words of a header would share their
/// place with the reason, and be put together from bytes.
const TRUNCATED: Skip = Skip::Lost(Counter::FrameTruncated);

/// What lies behind the IP header of a packet that is nobody's whom we watch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outer {
    /// Where it begins in the frame; of UDP what is inside.
    pub at: u32,
    /// Destination port of UDP, network order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether it is a part of what was sent.
    pub is_fragment: bool,
}

impl Outer {
    #[inline(always)]
    fn new(protocol: u8, at: u32) -> Self {
        Self { at, protocol, ..Self::default() }
    }
}

const ETHERNET: u32 = 14;
/// Ethertype of IPv4.
pub(crate) const IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub(crate) const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
const MAX_VLAN_TAGS: usize = 2;
const MAX_EXTENSIONS: usize = 6;

/// Reads `packet` up to its TCP or UDP payload. `watched` is asked for the service's port (network
/// order) as soon as it is known.
#[inline(always)]
pub fn parse<P: Packet>(
    packet: &P,
    direction: Direction,
    watched: impl FnOnce(u16) -> bool,
) -> Result<Segment, Skip> {
    parse_frame(packet, 0, direction, watched)
}

/// Likewise, of an Ethernet frame that begins at `offset`.
#[inline(always)]
pub(crate) fn parse_frame<P: Packet>(
    packet: &P,
    offset: u32,
    direction: Direction,
    watched: impl FnOnce(u16) -> bool,
) -> Result<Segment, Skip> {
    let (ethertype, offset) = ethernet(packet, offset)?;
    parse_packet(packet, ethertype, offset, direction, watched)
}

/// Likewise, of a packet of this ethertype that begins at `offset`.
#[inline(always)]
pub(crate) fn parse_packet<P: Packet>(
    packet: &P,
    ethertype: u16,
    offset: u32,
    direction: Direction,
    watched: impl FnOnce(u16) -> bool,
) -> Result<Segment, Skip> {
    let network = match ethertype {
        IPV4 => ipv4(packet, offset)?,
        IPV6 => ipv6(packet, offset)?,
        VLAN | QINQ => return Err(Skip::Lost(Counter::HeaderChain)),
        _ => return Err(Skip::Nobody),
    };
    transport(packet, direction, &network, watched)
}

/// The ethertype behind the VLAN tags of the frame at `start`, and where its packet begins.
#[inline(always)]
fn ethernet<P: Packet>(packet: &P, start: u32) -> Result<(u16, u32), Skip> {
    let Some(ethertype) = packet.load(start + ETHERNET - 2) else { return Err(TRUNCATED) };
    let mut ethertype = u16::from_be_bytes(ethertype);
    let mut offset = start + ETHERNET;
    for _ in 0..MAX_VLAN_TAGS {
        if ethertype != VLAN && ethertype != QINQ {
            break;
        }
        let Some(tag) = packet.load::<4>(offset) else { return Err(TRUNCATED) };
        ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        offset += 4;
    }
    Ok((ethertype, offset))
}

/// What the IP header says, but for its addresses: only of who is watched are they read.
struct Network {
    version: Version,
    /// Where the addresses begin.
    addresses: u32,
    protocol: u8,
    /// Where the transport header begins.
    transport: u32,
    /// Where the IP packet ends.
    end: u32,
    /// Bytes of the IP packet.
    bytes: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, offset: u32) -> Result<Network, Skip> {
    let Some([start, fragment, protocol]) = packet.words(offset) else { return Err(TRUNCATED) };
    let start = u32::from_be(start);
    let header_len = (start >> 24 & 0x0f) * 4;
    if start >> 28 != 4 || header_len < 20 {
        return Err(Skip::Lost(Counter::IpMalformed));
    }
    let protocol = (u32::from_be(protocol) >> 16) as u8;
    // More fragments, or a fragment offset.
    let is_fragment = u32::from_be(fragment) & 0x3fff != 0;
    if protocol != TCP && protocol != UDP {
        return Err(Skip::Other(Outer { is_fragment, ..Outer::new(protocol, offset + header_len) }));
    }
    if is_fragment {
        return Err(Skip::Lost(Counter::Fragment));
    }
    let bytes = total_length(packet, offset, start & 0xffff)?;
    if bytes < header_len {
        return Err(Skip::Lost(Counter::IpMalformed));
    }
    Ok(Network {
        version: Version::V4,
        addresses: offset + 12,
        protocol,
        transport: offset + header_len,
        end: offset + bytes,
        bytes,
    })
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, offset: u32) -> Result<Network, Skip> {
    let Some([start, rest]) = packet.words(offset) else { return Err(TRUNCATED) };
    if u32::from_be(start) >> 28 != 6 {
        return Err(Skip::Lost(Counter::IpMalformed));
    }
    let payload = u32::from_be(rest) >> 16;
    let announced = if payload == 0 { 0 } else { payload + 40 };
    let bytes = total_length(packet, offset, announced)?;
    let (protocol, transport) = extensions(packet, offset + 40, (u32::from_be(rest) >> 8) as u8)?;
    if transport > offset + bytes {
        return Err(Skip::Lost(Counter::IpMalformed));
    }
    Ok(Network {
        version: Version::V6,
        addresses: offset + 8,
        protocol,
        transport,
        end: offset + bytes,
        bytes,
    })
}

impl Network {
    /// Source and destination; `None` where the frame ends before.
    #[inline(always)]
    fn addresses<P: Packet>(&self, packet: &P) -> Option<(Address, Address)> {
        if self.version == Version::V4 {
            let [source, destination] = packet.words(self.addresses)?;
            return Some(([0, 0, V4_MAPPED, source], [0, 0, V4_MAPPED, destination]));
        }
        let [s0, s1, s2, s3, d0, d1, d2, d3] = packet.words(self.addresses)?;
        Some(([s0, s1, s2, s3], [d0, d1, d2, d3]))
    }
}

/// Bytes of the IP packet at `offset` that announces `announced`. Frames may be padded, so the frame
/// may be longer; a length of 0 is a super-frame of more than 64 KiB, which only its frame can tell.
#[inline(always)]
fn total_length<P: Packet>(packet: &P, offset: u32, announced: u32) -> Result<u32, Skip> {
    let present = packet.len().saturating_sub(offset);
    if announced == 0 {
        return Ok(present);
    }
    if announced > present {
        return Err(Skip::Lost(Counter::IpMalformed));
    }
    Ok(announced)
}

/// Follows IPv6 extension headers (RFC 8200) to TCP or UDP: the protocol and where it begins.
#[inline(always)]
fn extensions<P: Packet>(packet: &P, mut offset: u32, mut next: u8) -> Result<(u8, u32), Skip> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    for _ in 0..=MAX_EXTENSIONS {
        let unit = match next {
            TCP | UDP => return Ok((next, offset)),
            HOP_BY_HOP | ROUTING | DESTINATION => 8,
            AUTHENTICATION => 4,
            FRAGMENT => 0,
            other => return Err(Skip::Other(Outer::new(other, offset))),
        };
        let Some(header) = packet.load::<4>(offset) else { return Err(TRUNCATED) };
        next = header[0];
        offset += match unit {
            8 => header[1] as u32 * 8 + 8,
            4 => header[1] as u32 * 4 + 8,
            // An "atomic" fragment is whole (RFC 6946).
            _ if u16::from_be_bytes([header[2], header[3]]) & 0xfff9 == 0 => 8,
            _ => return Err(Skip::Lost(Counter::Fragment)),
        };
    }
    Err(Skip::Lost(Counter::HeaderChain))
}

#[inline(always)]
fn transport<P: Packet>(
    packet: &P,
    direction: Direction,
    network: &Network,
    watched: impl FnOnce(u16) -> bool,
) -> Result<Segment, Skip> {
    let Some([ports]) = packet.words(network.transport) else { return Err(TRUNCATED) };
    let ports = u32::from_be(ports);
    let (source, destination) = (((ports >> 16) as u16).to_be(), (ports as u16).to_be());
    let (client_port, server_port) = match direction {
        Direction::Ingress => (source, destination),
        Direction::Egress => (destination, source),
    };
    if !watched(server_port) {
        if network.protocol == TCP {
            return Err(Skip::Nobody);
        }
        let outer = Outer { port: destination, ..Outer::new(UDP, network.transport + 8) };
        return Err(Skip::Other(outer));
    }
    let Some((source, destination)) = network.addresses(packet) else { return Err(TRUNCATED) };
    let (client, server) = match direction {
        Direction::Ingress => (source, destination),
        Direction::Egress => (destination, source),
    };
    let (flags, seq, ack, header_len) = match network.protocol {
        TCP => {
            let Some(header) = packet.words::<4>(network.transport) else { return Err(TRUNCATED) };
            let [_, seq, ack, rest] = header.map(u32::from_be);
            ((rest >> 16) as u8, seq, ack, (rest >> 28) * 4)
        }
        _ => (0, 0, 0, 8),
    };
    let payload = network.transport + header_len;
    if payload > network.end || (network.protocol == TCP && header_len < 20) {
        return Err(Skip::Lost(Counter::TcpMalformed));
    }
    Ok(Segment {
        key: FlowKey { client, server, client_port, server_port, transport: u32::from(network.protocol) },
        transport: network.protocol,
        flags,
        seq,
        ack,
        payload,
        payload_len: network.end - payload,
        ip_bytes: network.bytes,
    })
}
