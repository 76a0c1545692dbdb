//! HTTP/2 in clear text: the frames of a connection in order.
#![no_main]

use hydrometer_fuzz::{Host, Side, converse, flags};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut host = Host::new(1 << 24);
    let mut connection = host.connect(0, u32::MAX - 700);
    host.segment(&mut connection, Side::Client, 0, flags::ACK, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    converse(&mut host, &mut connection, data);
    host.end();
});
