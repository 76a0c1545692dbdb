//! Stages: what only some packets need, each in a program of its own, so that the program which every
//! packet runs through stays small.
//!
//! A hook's first program ends with the stage that its packet needs. In the kernel that is a tail call,
//! natively a call. The stage finds the packet's [`Segment`](crate::packet::Segment) where the first program
//! has left it, in the room that [`Tables::scratch`] hands out.

use crate::{http2, packet::Packet, quic, track::Tables};

/// A stage. Its number is its place in the kernel's arrays of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// HTTP/2 in clear text.
    Http2 = 0,
    /// HTTP/3 over QUIC.
    Quic = 1,
}

/// Number of [`Stage`]s.
pub const STAGES: u32 = 2;

impl Stage {
    /// Goes on with a packet from the network.
    #[inline(always)]
    pub fn ingress<P: Packet, T: Tables>(self, packet: &P, tables: &T) {
        match self {
            Self::Http2 => http2::ingress(packet, tables),
            Self::Quic => quic::ingress(packet, tables),
        }
    }

    /// Goes on with a packet to the network.
    #[inline(always)]
    pub fn egress<P: Packet, T: Tables>(self, packet: &P, tables: &T) {
        match self {
            Self::Http2 => http2::egress(packet, tables),
            Self::Quic => quic::egress(packet, tables),
        }
    }
}
