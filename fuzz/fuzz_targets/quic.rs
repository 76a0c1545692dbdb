//! QUIC: datagrams of both sides, also through the decryption of Initial packets and on to JA4.
#![no_main]

use hydrometer_fuzz::{Host, pieces};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut host = Host::new(0);
    for (side, datagram) in pieces(data) {
        host.datagram(side, datagram);
    }
    host.end();
});
