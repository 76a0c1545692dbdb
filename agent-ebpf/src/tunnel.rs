//! Tunnels: VXLAN (RFC 7348), Geneve (RFC 8926), GRE (RFC 2784, 2890) and IP in IP (RFC 2003, 2473). What is
//! inside is followed as if it had come bare.
//!
//! In flow packets of nobody we watch whose outermost headers say that they may be tunnels'; out flow the
//! segments inside. One tunnel is opened: one inside another is counted and not followed.

use core::hint::black_box;

use crate::{
    abi::Counter,
    packet::{self, Direction, IPV4, IPV6, Outer, Packet, Segment, Skip, UDP},
    stage::Stage,
    track::{self, Tables},
};

/// Which tunnels are followed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// UDP port of VXLAN, network order; 0: not followed.
    pub vxlan: u16,
    /// UDP port of Geneve, network order; 0: not followed.
    pub geneve: u16,
    /// Non-zero: GRE is followed.
    pub gre: u16,
    /// Non-zero: IPv4 and IPv6 directly inside an IP packet are followed.
    pub ip: u16,
}

/// A kind of tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Vxlan,
    Geneve,
    Gre,
    Ip4,
    Ip6,
}

/// IP protocol number of IPv4 inside.
const IP4_INSIDE: u8 = 4;
/// IP protocol number of IPv6 inside.
const IP6_INSIDE: u8 = 41;
/// IP protocol number of GRE.
const GRE: u8 = 47;
/// Protocol type of an Ethernet frame inside ("transparent Ethernet bridging").
const ETHERNET: u16 = 0x6558;

impl Tunnels {
    /// The tunnel that `outer` may be, if it is followed.
    #[inline(always)]
    fn kind(self, outer: Outer) -> Option<Kind> {
        match outer.protocol {
            UDP if outer.port == 0 => None,
            UDP if outer.port == self.vxlan => Some(Kind::Vxlan),
            UDP if outer.port == self.geneve => Some(Kind::Geneve),
            GRE if self.gre != 0 => Some(Kind::Gre),
            IP4_INSIDE if self.ip != 0 => Some(Kind::Ip4),
            IP6_INSIDE if self.ip != 0 => Some(Kind::Ip6),
            _ => None,
        }
    }

    /// Whether `outer` may be a tunnel that is followed.
    #[inline(always)]
    pub fn has(self, outer: Outer) -> bool {
        self.kind(outer).is_some()
    }
}

/// What a tunnel holds: where it begins, and what it is by its ethertype.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inner {
    at: u32,
    ethertype: u16,
    pad: u16,
}

/// Goes on with a packet whose first program found that it may be a tunnel's.
#[inline(always)]
pub(crate) fn track<P: Packet, T: Tables>(packet: &P, tables: &T, direction: Direction) -> Option<Stage> {
    let scratch = tables.scratch(direction)?;
    let found = match inside(packet, tables.tunnels(), scratch.outer) {
        Ok(inner) => {
            scratch.inner = inner;
            // From here on nobody knows by which of the tunnels' headers, as after a packet's own.
            let Inner { at, ethertype, .. } = black_box(scratch).inner;
            segment(packet, tables, at, ethertype, direction)
        }
        Err(skip) => Err(skip),
    };
    track::enter(packet, tables, found, direction)
}

/// The direction in which a frame goes of which that is not known: to a service, if it (or what is in its tunnel)
/// is addressed to one's port.
pub fn direction<P: Packet, T: Tables>(packet: &P, tables: &T) -> Direction {
    let is_port = |port| tables.is_port(port);
    let found = match packet::parse(packet, Direction::Ingress, is_port) {
        Err(Skip::Other(outer)) if tables.tunnels().has(outer) => inside(packet, tables.tunnels(), outer)
            .and_then(|inner| segment(packet, tables, inner.at, inner.ethertype, Direction::Ingress)),
        found => found,
    };
    match found {
        Err(Skip::Nobody | Skip::Other(_)) => Direction::Egress,
        // What cannot be read is counted once.
        Ok(_) | Err(Skip::Lost(_)) => Direction::Ingress,
    }
}

/// The segment inside. Another tunnel there is not opened.
#[inline(always)]
fn segment<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    at: u32,
    ethertype: u16,
    direction: Direction,
) -> Result<Segment, Skip> {
    let is_port = |port| tables.is_port(port);
    let found = if ethertype == ETHERNET {
        packet::parse_frame(packet, at, direction, is_port)
    } else {
        packet::parse_packet(packet, ethertype, at, direction, is_port)
    };
    match found {
        Err(Skip::Other(outer)) if tables.tunnels().has(outer) => Err(Skip::Lost(Counter::TunnelDepth)),
        found => found,
    }
}

/// Reads the tunnel's own header.
#[inline(always)]
fn inside<P: Packet>(packet: &P, tunnels: Tunnels, outer: Outer) -> Result<Inner, Skip> {
    if outer.is_fragment {
        return Err(Skip::Lost(Counter::Fragment));
    }
    let (ethertype, header_len) = match tunnels.kind(outer).ok_or(Skip::Nobody)? {
        Kind::Vxlan => vxlan(word(packet, outer)?)?,
        Kind::Geneve => geneve(word(packet, outer)?)?,
        Kind::Gre => gre(word(packet, outer)?)?,
        Kind::Ip4 => (IPV4, 0),
        Kind::Ip6 => (IPV6, 0),
    };
    Ok(Inner { at: outer.at + header_len, ethertype, pad: 0 })
}

/// The first word of a tunnel's header.
#[inline(always)]
fn word<P: Packet>(packet: &P, outer: Outer) -> Result<u32, Skip> {
    let [word] = packet.words(outer.at).ok_or(Skip::Lost(Counter::FrameTruncated))?;
    Ok(u32::from_be(word))
}

/// What is inside, and the length of the header that begins with `word` (RFC 7348 section 5).
#[inline(always)]
fn vxlan(word: u32) -> Result<(u16, u32), Skip> {
    const HAS_NETWORK: u32 = 1 << 27;
    if word & HAS_NETWORK == 0 { Err(Skip::Nobody) } else { Ok((ETHERNET, 8)) }
}

/// Likewise (RFC 8926 section 3.4). What is the tunnel's own is nobody's.
#[inline(always)]
fn geneve(word: u32) -> Result<(u16, u32), Skip> {
    const CONTROL: u32 = 1 << 23;
    if word >> 30 != 0 || word & CONTROL != 0 {
        return Err(Skip::Nobody);
    }
    Ok((word as u16, 8 + (word >> 24 & 0x3f) * 4))
}

/// Likewise (RFC 2784 section 2, RFC 2890 section 2). Source routes and PPTP are nobody's.
#[inline(always)]
fn gre(word: u32) -> Result<(u16, u32), Skip> {
    const CHECKSUM: u32 = 1 << 31;
    const ROUTES: u32 = 1 << 30;
    const KEY: u32 = 1 << 29;
    const SEQUENCE: u32 = 1 << 28;
    const VERSION: u32 = 7 << 16;
    if word & (ROUTES | VERSION) != 0 {
        return Err(Skip::Nobody);
    }
    let optional = |flag| if word & flag == 0 { 0 } else { 4 };
    Ok((word as u16, 4 + optional(CHECKSUM) + optional(KEY) + optional(SEQUENCE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_tunnels_are_as_long_as_they_say() {
        assert_eq!(vxlan(0x0800_0000), Ok((ETHERNET, 8)));
        assert_eq!(vxlan(0), Err(Skip::Nobody));
        assert_eq!(geneve(0x0000_6558), Ok((ETHERNET, 8)));
        assert_eq!(geneve(0x3f00_0800), Ok((IPV4, 8 + 252)));
        assert_eq!(geneve(0x0080_6558), Err(Skip::Nobody), "a control packet");
        assert_eq!(geneve(0x4000_6558), Err(Skip::Nobody), "another version");
        assert_eq!(gre(0x0000_0800), Ok((IPV4, 4)));
        assert_eq!(gre(0xb000_86dd), Ok((IPV6, 16)));
        assert_eq!(gre(0x2001_880b), Err(Skip::Nobody), "PPTP");
        assert_eq!(gre(0x4000_0800), Err(Skip::Nobody), "routes");
    }
}
