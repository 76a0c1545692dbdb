//! What kernel and userspace share: keys, the ring buffer's record, counters. [`crate::flow::Flow`]
//! and [`crate::client::Client`] are the values of the maps.
//!
//! Invariant: every type here is `repr(C)` without implicit padding, and its size is asserted at
//! compile time for both targets.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address as the wire has it: four words in network order; IPv4 as `::ffff:a.b.c.d`.
pub type Address = [u32; 4];

/// Third word of an IPv4 address in [`Address`].
pub const V4_MAPPED: u32 = 0xffff_u32.to_be();

/// `address` in the form of the standard library.
pub fn ip(address: Address) -> IpAddr {
    if is_v4(&address) {
        IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(address[3])))
    } else {
        let [a, b, c, d] = address.map(|word| u128::from(u32::from_be(word)));
        IpAddr::V6(Ipv6Addr::from_bits(a << 96 | b << 64 | c << 32 | d))
    }
}

/// `ip` in the form of the maps.
pub fn address(ip: IpAddr) -> Address {
    let bits = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    [(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32, bits as u32].map(u32::to_be)
}

/// Whether this is an IPv4 address.
#[inline(always)]
pub fn is_v4(address: &Address) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == V4_MAPPED
}

/// Key of the client map: an IPv4 address, or the bits of an IPv6 address that `mask` has.
#[inline(always)]
pub fn client_key(address: &Address, mask: &Address) -> Address {
    if is_v4(address) {
        *address
    } else {
        [address[0] & mask[0], address[1] & mask[1], address[2] & mask[2], address[3] & mask[3]]
    }
}

/// Key of a flow. Addresses and ports in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Client address.
    pub client: Address,
    /// Service address.
    pub server: Address,
    /// Client port.
    pub client_port: u16,
    /// Service port.
    pub server_port: u16,
    /// IP protocol number.
    pub transport: u32,
}

/// Key of an HTTP/2 stream.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// Its connection's addresses and ports, of either family.
    pub flow: FlowKey,
    /// [`crate::flow::Asked::connection`]: the ports may be used again.
    pub connection: u32,
    /// Stream identifier.
    pub stream: u32,
}

/// Key of the service map: an address (all zero: any address) and a port, in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// Address, or zeros.
    pub address: Address,
    /// Port.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// Words of the port bitmap: one bit a port.
pub const PORT_WORDS: usize = 65_536 / 64;

/// Classes of record sizes, four to an octave, from 64 B to 16 KiB.
pub const SIZE_CLASSES: usize = 32;

/// What a flow speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// Nothing recognised yet.
    Unknown = 0,
    /// HTTP/1.x in clear text.
    Http1 = 1,
    /// HTTP/1.x or WebSocket inside TLS.
    Tls = 2,
    /// HTTP/2 in clear text.
    Http2 = 3,
    /// HTTP/2 inside TLS.
    TlsHttp2 = 4,
    /// QUIC, or anything else over UDP.
    Quic = 5,
    /// Other TCP, split at direction changes.
    Other = 6,
}

impl Protocol {
    /// The protocol with this number; `Unknown` for numbers that are none.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Http1,
            2 => Self::Tls,
            3 => Self::Http2,
            4 => Self::TlsHttp2,
            5 => Self::Quic,
            6 => Self::Other,
            _ => Self::Unknown,
        }
    }
}

/// The client or the server cut the connection, or the client never got an answer.
pub const ABORTED: u8 = 1;
/// Bytes were missed, or the record overhead is not known: sizes come from sequence numbers.
pub const DERIVED: u8 = 2;
/// More requests were on their way before this one was answered: it comes in two events of the same turn. The first has no
/// answer; the second, where there is one, has no request, and no [`ExchangeEvent::start`].
pub const PIPELINED: u8 = 4;

/// [`ExchangeEvent::confidence`] beyond doubt.
pub const CERTAIN: u16 = 1000;

/// One finished exchange, as it goes through the ring buffer. Times are nanoseconds of the kernel's
/// monotonic clock (a capture's own clock in a replay); 0 means that it did not happen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExchangeEvent {
    /// Client address.
    pub client: Address,
    /// Service address.
    pub server: Address,
    /// Client port, host order.
    pub client_port: u16,
    /// Service port, host order.
    pub server_port: u16,
    /// [`Protocol`].
    pub protocol: u8,
    /// [`ABORTED`], [`DERIVED`], [`PIPELINED`].
    pub flags: u8,
    /// How far an estimate is to be believed, up to [`CERTAIN`]; 0 where no rule says.
    pub confidence: u16,
    /// First packet of the flow.
    pub flow_start: u64,
    /// Number of the exchange on its flow, from 1.
    pub turn: u32,
    /// Server records (TLS) or segments (clear text).
    pub records: u32,
    /// First byte of the request.
    pub start: u64,
    /// Last byte of the request.
    pub request_end: u64,
    /// First server record.
    pub first: u64,
    /// Second server record.
    pub second: u64,
    /// Last byte of the answer.
    pub last: u64,
    /// Application bytes of the request.
    pub request_bytes: u64,
    /// Application bytes of the answer.
    pub answer_bytes: u64,
    /// Bytes of the request's head (clear text), or of its first record (TLS), which is its head where others follow;
    /// 0 where not known.
    pub request_head: u32,
    /// Likewise of the answer.
    pub answer_head: u32,
    /// Server records by size class ([`crate::client::size_class`]); all are halved when one would
    /// overflow.
    pub classes: [u8; SIZE_CLASSES],
}

/// Types that userspace reads from and writes to maps as bytes.
macro_rules! plain {
    ($($type:ty: $words:ty),+ $(,)?) => {
        $(impl From<$words> for $type {
            fn from(words: $words) -> Self {
                const { assert!(size_of::<$type>() == size_of::<$words>()) };
                // SAFETY: the sizes are equal, and every bit pattern is a value of integer fields.
                unsafe { core::mem::transmute(words) }
            }
        }

        impl From<$type> for $words {
            fn from(value: $type) -> Self {
                // SAFETY: the sizes are equal (see above), and there is no padding.
                unsafe { core::mem::transmute(value) }
            }
        })+
    };
}

plain! {
    FlowKey: [u32; 10],
    ServiceKey: [u32; 5],
    StreamKey: [u32; 12],
    crate::tunnel::Tunnels: [u16; 4],
    ExchangeEvent: [u64; 19],
    crate::flow::Flow: [u64; 39],
    crate::hello::HelloEvent: [u64; 7],
    crate::http2_tls::Estimate: [u64; 74],
    crate::head::HeadEvent: [u64; 7],
    crate::client::Client: [u64; 12],
}

impl ExchangeEvent {
    /// An exchange of this flow of which nothing else is known.
    pub fn of(flow: &FlowKey) -> Self {
        Self {
            client: flow.client,
            server: flow.server,
            client_port: u16::from_be(flow.client_port),
            server_port: u16::from_be(flow.server_port),
            ..Self::default()
        }
    }

    /// The event in these bytes of the ring buffer; `None` when there are too few.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        let words: &[[u8; 8]; 19] = words.first_chunk()?;
        Some(words.map(u64::from_ne_bytes).into())
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// What is counted per core: packets, and every way to lose something.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Counter {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Counter {
            /// All, in the order of [`Counters`].
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Whether something was not followed; the others count packets and entries.
            pub const fn is_loss(self) -> bool {
                self as u8 > Self::ClientEntered as u8
            }

            /// The name in snake case.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// What it means and what to do about it.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

counters! {
    /// Packets from clients of watched services.
    IngressWatched = "ingress_watched",
    /// Packets of watched services to clients.
    EgressWatched = "egress_watched",
    /// TCP SYNs to watched services, whoever sent them.
    Syns = "syns",
    /// Flows entered in the flow map.
    FlowEntered = "flow_entered",
    /// Clients entered in the client map.
    ClientEntered = "client_entered",
    /// The frame ends inside a header it announces.
    FrameTruncated = "frame_truncated",
    /// An IP header with an impossible version, header length or total length.
    IpMalformed = "ip_malformed",
    /// More VLAN tags or IPv6 extension headers than are followed (2 and 6).
    HeaderChain = "header_chain",
    /// IP fragments, whose payload is not followed.
    Fragment = "fragment",
    /// A tunnel inside a tunnel, which is not opened: nothing in it is followed.
    TunnelDepth = "tunnel_depth",
    /// A TCP header with an impossible length.
    TcpMalformed = "tcp_malformed",
    /// A flow could not be entered in the flow map and is not followed; raise max_flows.
    FlowInsert = "flow_insert",
    /// A client could not be entered in the client map and is not counted; raise max_clients.
    ClientInsert = "client_insert",
    /// A flow whose client had not proven that it is there had to go for a newer one: a flood of SYNs, or more
    /// connections begun at a time than an eighth of max_flows.
    NewcomerDisplaced = "newcomer_displaced",
    /// An exchange of a flow whose client never proved that it is there: it has no record and is not counted.
    Unproven = "unproven",
    /// The ring buffer was full: one exchange is in the counters but has no record; raise ring_bytes.
    RingFull = "ring_full",
    /// The record boundary of a stream was lost (bytes were missed); sizes are derived until it is found again.
    Desync = "desync",
    /// A packet held more TLS records or HTTP/2 frames than are walked at once; counts as a desync, too.
    RecordLimit = "record_limit",
    /// The ring buffer for the begins of connections was full: the JA4 or a round trip of one may be missing.
    HelloRingFull = "hello_ring_full",
    /// The ring buffer for what trusted proxies say was full: a client may be shown as its proxy.
    HeadRingFull = "head_ring_full",
    /// A PROXY header was too long or broken off, or there was no room to follow it: its client is shown as the proxy.
    ProxyHeader = "proxy_header",
    /// An HTTP/2 stream, or connection, for which there was no room: it has no exchange; raise max_streams.
    StreamLost = "stream_lost",
}

/// Number of [`Counter`]s.
pub const COUNTERS: usize = Counter::ALL.len();

/// The per-core counters, in the order of [`Counter::ALL`].
pub type Counters = [u64; COUNTERS];

const _: () = {
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<ServiceKey>() == 20);
    assert!(size_of::<StreamKey>() == 48);
    assert!(size_of::<ExchangeEvent>() == 152);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["10.77.0.2", "2001:db8:1:2:3:4:5:6"] {
            let ip_address: IpAddr = text.parse().unwrap();
            assert_eq!(ip(address(ip_address)), ip_address);
        }
        let key = |text: &str, mask: &str| {
            ip(client_key(&address(text.parse().unwrap()), &address(mask.parse().unwrap()))).to_string()
        };
        assert_eq!(key("10.0.0.1", "ffff:ffff::"), "10.0.0.1");
        assert_eq!(key("2001:db8:1:2::9", "ffff:ffff:ffff:ffff::"), "2001:db8:1:2::");
    }
}
