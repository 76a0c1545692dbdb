//! Captures: whatever a file holds, read whole and in small pieces.
#![no_main]

use std::io::{self, Read};

use hydrometer_agent::replay::pcap::{Capture, Contents};
use libfuzzer_sys::fuzz_target;

/// A pipe that gives a few bytes at a time.
struct Drops<'a>(&'a [u8]);

impl Read for Drops<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let some = buffer.len().min(7);
        self.0.read(&mut buffer[..some])
    }
}

/// What a capture held, and how reading it ended.
fn read(from: impl Read, len: usize) -> (Contents, Result<(), String>) {
    let mut capture = match Capture::new(from) {
        Ok(capture) => capture,
        Err(error) => return (Contents::default(), Err(error.to_string())),
    };
    loop {
        match capture.next() {
            // An Ethernet header may have been put before what was there.
            Ok(Some(frame)) => assert!(frame.bytes.len() <= len),
            Ok(None) => return (capture.contents(), Ok(())),
            Err(error) => return (capture.contents(), Err(error.to_string())),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    assert_eq!(read(data, data.len()), read(Drops(data), data.len()));
});
