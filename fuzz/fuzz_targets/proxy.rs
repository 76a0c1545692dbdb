//! PROXY headers and heads of requests: a connection of a trusted proxy in order, whatever it consists of.
#![no_main]

use hydrometer_fuzz::{Host, converse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut host = Host::behind_a_proxy((1 << 14) + 2048);
    let mut connection = host.connect(0, u32::MAX - 700);
    converse(&mut host, &mut connection, data);
    host.end();
});
