//! ClientHellos put together from pieces at any position, and their JA4.
#![no_main]

use hydrometer_agent::{
    hello::{Carrier, Hellos, Ja4},
    known::Known,
};
use hydrometer_ebpf::hello::HelloEvent;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
struct Piece<'a> {
    connection: u8,
    udp: bool,
    position: u16,
    bytes: &'a [u8],
}

fuzz_target!(|pieces: Vec<Piece<'_>>| {
    let (mut hellos, mut known) = (Hellos::default(), Known::new(8));
    for Piece { connection, udp, position, bytes } in pieces {
        let event = HelloEvent {
            client_port: u16::from(connection & 3),
            position: position.into(),
            len: bytes.len() as u32,
            transport: if udp { 17 } else { 6 },
            ..HelloEvent::default()
        };
        hellos.take(&event, bytes, &mut known);
        if let Some(ja4) = Ja4::of(Carrier::Tcp, bytes) {
            assert_eq!(ja4.as_str().len(), 36);
        }
    }
});
