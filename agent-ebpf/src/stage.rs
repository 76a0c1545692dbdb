//! Stages: what only some packets need, each in a program of its own, so that the program which every
//! packet runs through stays small.
//!
//! A program ends with the stage that its packet needs next. In the kernel that is a tail call, natively a
//! call. The stage finds the packet's [`Segment`](crate::packet::Segment) where the first program has left
//! it, in the room that [`Tables::scratch`] hands out.

use crate::{
    head, http1, http2, http2_tls,
    packet::{Direction, Packet},
    proxy, quic,
    track::{self, Tables},
    tunnel,
};

/// A stage. Its number is its place in the kernel's arrays of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Where connections, requests and answers begin and end.
    Turns,
    /// HTTP/2 in clear text.
    Http2,
    /// HTTP/2 inside TLS.
    TlsHttp2,
    /// HTTP/3 over QUIC.
    Quic,
    /// Tunnels, which are opened.
    Tunnel,
    /// PROXY headers, which are taken off.
    Proxy,
    /// Heads of requests that proxies make.
    Head,
    /// Heads in clear-text HTTP/1, and requests behind others in a segment.
    Http1,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Turns,
        Self::Http2,
        Self::TlsHttp2,
        Self::Quic,
        Self::Tunnel,
        Self::Proxy,
        Self::Head,
        Self::Http1,
    ];

    /// What the names of its programs end with.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Turns => "turns",
            Self::Http2 => "http2",
            Self::TlsHttp2 => "h2tls",
            Self::Quic => "quic",
            Self::Tunnel => "inner",
            Self::Proxy => "proxy",
            Self::Head => "head",
            Self::Http1 => "http1",
        }
    }

    /// Goes on with a packet from the network. Returns the stage after this one, if there is one.
    #[inline(always)]
    pub fn ingress<P: Packet, T: Tables>(self, packet: &P, tables: &T) -> Option<Self> {
        match self {
            Self::Turns => return track::asks(packet, tables),
            Self::Http2 => http2::ingress(packet, tables),
            Self::TlsHttp2 => http2_tls::ingress(packet, tables),
            Self::Quic => quic::ingress(packet, tables),
            Self::Tunnel => return tunnel::track(packet, tables, Direction::Ingress),
            Self::Proxy => return proxy::ingress(packet, tables),
            Self::Head => return head::ingress(packet, tables),
            Self::Http1 => http1::ingress(packet, tables),
        }
        None
    }

    /// Goes on with a packet to the network. Returns the stage after this one, if there is one.
    #[inline(always)]
    pub fn egress<P: Packet, T: Tables>(self, packet: &P, tables: &T) -> Option<Self> {
        match self {
            Self::Turns => return track::answers(packet, tables),
            Self::Http2 => http2::egress(packet, tables),
            Self::TlsHttp2 => http2_tls::egress(packet, tables),
            Self::Quic => quic::egress(packet, tables),
            Self::Http1 => http1::egress(packet, tables),
            Self::Tunnel => return tunnel::track(packet, tables, Direction::Egress),
            // What proxies say comes from the network.
            Self::Proxy | Self::Head => {}
        }
        None
    }
}
