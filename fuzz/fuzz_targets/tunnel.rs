//! Tunnels: frames in a well-formed one are followed as if they had come bare, and whatever else a tunnel may hold.
#![no_main]

use hydrometer_fuzz::{Host, pieces};
use libfuzzer_sys::fuzz_target;

const VXLAN: u16 = 4789;
const GENEVE: u16 = 6081;
const UDP: u8 = 17;

fuzz_target!(|data: &[u8]| {
    let [mut bare, mut inside, mut other] = [(); 3].map(|()| Host::new(0));
    for (_, piece) in pieces(data) {
        let Some((kind, rest)) = piece.split_first() else { continue };
        match kind {
            0 => {
                bare.frame(rest);
                let vxlan = [&[8, 0, 0, 0, 0, 0, 7, 0][..], rest].concat();
                inside.frame(&ipv4(UDP, &udp(VXLAN, &vxlan)));
            }
            1 => other.frame(&ipv4(UDP, &udp(VXLAN, rest))),
            2 => other.frame(&ipv4(UDP, &udp(GENEVE, rest))),
            // GRE, IPv4 and IPv6 inside IP, and what is none.
            protocol => other.frame(&ipv4(*protocol, rest)),
        }
    }
    // A tunnel inside a tunnel is not opened.
    if inside.followed()[2] == 0 {
        assert_eq!(inside.followed(), bare.followed(), "a tunnel hides or makes up packets");
    }
});

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let [long, short] = (8 + payload.len() as u16).to_be_bytes();
    [&[0xc0, 1, high, low, long, short, 0, 0][..], payload].concat()
}

/// A frame between two other hosts.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    frame.extend(payload);
    frame
}
