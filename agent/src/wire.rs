//! What the library's events and numbers mean to the engine. Kernel and replay share it.

use std::{net::IpAddr, time::Duration};

use hydrometer_ebpf::{
    abi::{self, ABORTED, CERTAIN, DERIVED, ExchangeEvent, FlowKey},
    client::record_median,
    head::HeadEvent,
    hello::HelloEvent,
};
use hydrometer_engine::{
    Accuracy, ClientId, Ending, Exchange, Heads, Identity, Ipv6Prefix, Nanos, Protocol, RoundTrips, Service,
};

/// An exchange that has ended, before it is known on whose behalf it was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// What the library says.
    pub(crate) event: ExchangeEvent,
    /// What its clock's zero is on ours.
    pub(crate) epoch: Nanos,
}

/// `event` as an exchange of the client that `prefix` makes of its address. `epoch` is what its clock's zero is on
/// ours.
pub(crate) fn exchange(event: &ExchangeEvent, epoch: Nanos, prefix: Ipv6Prefix) -> Exchange {
    let client = abi::ip(event.client);
    let after = |later: u64, earlier: u64| Duration::from_nanos(later.saturating_sub(earlier));
    let since_request = |at: u64| (at != 0).then(|| after(at, event.request_end));
    let protocol = protocol(event.protocol);
    let accuracy = accuracy(protocol, event.flags & DERIVED != 0);
    Exchange {
        start: epoch + Duration::from_nanos(event.start),
        client: ClientId::new(client, prefix),
        identity: Identity::Direct,
        client_port: event.client_port,
        service: Service { address: Some(abi::ip(event.server)), port: event.server_port },
        flow: event_flow(event),
        heads: Heads::default(),
        request_bytes: event.request_bytes,
        answer_bytes: event.answer_bytes,
        time_to_first_byte: since_request(event.first),
        time_to_first_token: since_request(event.second),
        duration: after(event.last.max(event.request_end), event.start),
        records: event.records,
        record_median: record_median(event),
        protocol,
        accuracy,
        confidence: confidence(accuracy, event.confidence),
        ending: if event.flags & ABORTED == 0 { Ending::Complete } else { Ending::Aborted },
        truncated: None,
        ja4: None,
        round_trips: RoundTrips::default(),
    }
}

/// The number of the flow that `event` is about.
pub(crate) fn event_flow(event: &ExchangeEvent) -> u64 {
    flow(abi::ip(event.client), (event.client_port, event.server_port), event.flow_start)
}

/// The number of the flow with this key whose first packet came at `start`.
pub(crate) fn key_flow(key: &FlowKey, start: u64) -> u64 {
    flow(abi::ip(key.client), (u16::from_be(key.client_port), u16::from_be(key.server_port)), start)
}

/// The number of the flow that `event` is about.
pub(crate) fn hello_flow(event: &HelloEvent) -> u64 {
    flow(abi::ip(event.client), (event.client_port, event.server_port), event.flow_start)
}

/// Likewise.
pub(crate) fn head_flow(event: &HeadEvent) -> u64 {
    flow(abi::ip(event.client), (event.client_port, event.server_port), event.flow_start)
}

/// The engine's word for a protocol number of the library.
pub(crate) fn protocol(number: u8) -> Protocol {
    match abi::Protocol::from_number(number) {
        abi::Protocol::Http1 => Protocol::Http1,
        abi::Protocol::Tls => Protocol::Tls,
        abi::Protocol::Http2 => Protocol::Http2,
        abi::Protocol::TlsHttp2 => Protocol::TlsHttp2,
        abi::Protocol::Quic => Protocol::Quic,
        abi::Protocol::Unknown | abi::Protocol::Other => Protocol::Other,
    }
}

/// How far figures of this protocol can be trusted; `derived` when bytes were missed.
pub(crate) fn accuracy(protocol: Protocol, derived: bool) -> Accuracy {
    match protocol {
        Protocol::Http1 | Protocol::Tls | Protocol::Http2 if derived => Accuracy::Derived,
        Protocol::Http1 | Protocol::Tls | Protocol::Http2 => Accuracy::Exact,
        Protocol::TlsHttp2 | Protocol::Quic | Protocol::Other => Accuracy::Estimated,
    }
}

/// How far figures of this accuracy are to be believed, where that is a question: the library's number as a share.
pub(crate) fn confidence(accuracy: Accuracy, number: u16) -> Option<f32> {
    (accuracy == Accuracy::Estimated).then(|| f32::from(number.min(CERTAIN)) / f32::from(CERTAIN))
}

/// A number for the flow: FNV-1a over its addresses, ports and begin, cut to the 48 bits that every
/// JSON reader keeps.
fn flow(client: IpAddr, ports: (u16, u16), start: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    match client {
        IpAddr::V4(address) => add(&address.octets()),
        IpAddr::V6(address) => add(&address.octets()),
    }
    add(&ports.0.to_be_bytes());
    add(&ports.1.to_be_bytes());
    add(&start.to_be_bytes());
    hash & 0xffff_ffff_ffff
}
