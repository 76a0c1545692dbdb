//! Frames: Ethernet, VLAN tags, IPv4, IPv6, extension headers, TCP and UDP.
#![no_main]

use hydrometer_agent::replay::Captured;
use hydrometer_ebpf::packet::{Direction, parse};
use hydrometer_fuzz::{Host, pieces};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut host = Host::new(0);
    for (_, frame) in pieces(data) {
        let captured = Captured { time: 1, len: frame.len() as u32, bytes: frame };
        for direction in [Direction::Ingress, Direction::Egress] {
            if let Ok(segment) = parse(&captured, direction, |_| true) {
                let end = segment.payload as usize + segment.payload_len as usize;
                assert!(end <= frame.len(), "a payload reaches beyond its frame");
                assert!(segment.payload_len <= segment.ip_bytes && segment.ip_bytes as usize <= frame.len());
            }
        }
        host.frame(frame);
    }
});
