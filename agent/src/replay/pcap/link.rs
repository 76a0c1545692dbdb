//! What stands before the IP packet of a frame, and how it becomes an Ethernet header.

use super::Record;
use crate::replay::Captured;

/// Bytes of an Ethernet header, and where its ethertype is.
const ETHERNET: usize = 14;
const ETHERTYPE: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// No ethertype of anything that is followed.
const OTHER: [u8; 2] = [0, 0];

/// A link type that is read (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Ethernet,
    /// BSD loopback: an address family in the byte order of whoever captured.
    Loopback,
    /// An IP packet and nothing else.
    Raw,
    /// Linux's `any`.
    LinuxSll,
    /// The same, second version.
    LinuxSll2,
}

impl Link {
    /// The link type of this number; `None` when it is not read.
    pub(super) fn of(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Ethernet,
            // 12 and 14 are what some systems write for 101; 228 and 229 tell the version, which the packet does, too.
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            0 | 108 => Self::Loopback,
            113 => Self::LinuxSll,
            276 => Self::LinuxSll2,
            _ => return None,
        })
    }

    /// Bytes before the network packet.
    fn header(self) -> usize {
        match self {
            Self::Ethernet => ETHERNET,
            Self::Loopback => 4,
            Self::Raw => 0,
            Self::LinuxSll => 16,
            Self::LinuxSll2 => 20,
        }
    }

    /// The ethertype of what is in this frame, which is not Ethernet; `None` when it is too short to tell.
    fn ethertype(self, frame: &[u8]) -> Option<[u8; 2]> {
        let bytes = |at: usize| frame.get(at..)?.first_chunk().copied();
        match self {
            Self::Ethernet => bytes(ETHERTYPE),
            Self::Loopback => frame.first_chunk().copied().map(family),
            Self::Raw => frame.first().map(|first| match first >> 4 {
                4 => IPV4,
                6 => IPV6,
                _ => OTHER,
            }),
            Self::LinuxSll => bytes(14),
            Self::LinuxSll2 => bytes(0),
        }
    }

    /// The frame in `bytes`, which are those of its record, with an Ethernet header. What stands before the network
    /// packet, of link header and record header more than 14 bytes, is not needed any more: it becomes that header.
    pub(super) fn frame<'a>(self, bytes: &'a mut [u8], record: &Record) -> Captured<'a> {
        let Record { frame, wire_len, time, .. } = record;
        let captured = |len, bytes| Captured { time: *time, len, bytes };
        if self == Self::Ethernet {
            return captured(*wire_len, &bytes[frame.clone()]);
        }
        let len = wire_len.saturating_sub(self.header() as u32).saturating_add(ETHERNET as u32);
        let network = frame.start + self.header();
        let Some(ethertype) = self.ethertype(&bytes[frame.clone()]).filter(|_| network <= frame.end) else {
            return captured(len, &[]);
        };
        let begin = network - ETHERNET;
        bytes[begin + ETHERTYPE..network].copy_from_slice(&ethertype);
        captured(len, &bytes[begin..frame.end])
    }
}

/// The ethertype for an address family of BSD loopback; IPv6 has another number on each system.
fn family(number: [u8; 4]) -> [u8; 2] {
    match u32::from_le_bytes(number).min(u32::from_be_bytes(number)) {
        2 => IPV4,
        10 | 24 | 28 | 30 => IPV6,
        _ => OTHER,
    }
}
