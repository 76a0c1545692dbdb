//! A conversation between two TCP ends, segment by segment, into the native library.

use std::{net::IpAddr, time::Duration};

use hydrometer_agent::{
    replay::{Captured, Replay},
    traffic::Traffic,
};
use hydrometer_ebpf::abi::ExchangeEvent;
use hydrometer_engine::Service;

use crate::frames::{Tcp, flags};

/// Bytes that one side sends before the other does.
#[derive(Debug, Clone)]
pub struct Flight {
    /// Whether the client sends them.
    pub asks: bool,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Sends flights as segments, and keeps what came of them.
#[derive(Debug)]
pub struct Wire {
    /// The library.
    pub replay: Replay,
    time: u64,
    /// The next sequence numbers of the server and of the client.
    pub next: [u32; 2],
    /// Frames and IP bytes to the client, from the client.
    pub sent: [(u64, u64); 2],
}

impl Default for Wire {
    fn default() -> Self {
        Self::new()
    }
}

impl Wire {
    /// A new connection to port 8443.
    pub fn new() -> Self {
        Self::of(Traffic::default())
    }

    /// Likewise, in traffic that is read so.
    pub fn of(traffic: Traffic) -> Self {
        let replay = Replay::of(traffic, &[Service { address: None, port: 8443 }]);
        // Numbers wrap around on the way.
        let mut wire = Self { replay, time: 1, next: [u32::MAX - 700, u32::MAX - 900], sent: [(0, 0); 2] };
        wire.connect();
        wire
    }

    /// Both sides agree to a connection.
    pub fn connect(&mut self) {
        self.control(true, flags::SYN);
        self.control(false, flags::SYN | flags::ACK);
        self.control(true, flags::ACK);
    }

    /// Sends a segment without data, with these flags.
    pub fn control(&mut self, asks: bool, flags: u8) {
        let seq = self.next[usize::from(asks)];
        self.send(asks, seq, flags, &[]);
        if flags & flags::SYN != 0 {
            self.next[usize::from(asks)] = seq.wrapping_add(1);
        }
    }

    /// Sends a segment.
    pub fn send(&mut self, asks: bool, seq: u32, flags: u8, payload: &[u8]) {
        let client: (IpAddr, u16) = (IpAddr::from([10, 0, 0, 9]), 40_000);
        let server: (IpAddr, u16) = (IpAddr::from([10, 0, 0, 1]), 8443);
        let (source, destination) = if asks { (client, server) } else { (server, client) };
        let tcp = Tcp { source, destination, seq, flags, vlans: Vec::new(), payload: payload.to_vec() };
        let frame = tcp.acknowledging(self.next[usize::from(!asks)]);
        let sent = &mut self.sent[usize::from(asks)];
        *sent = (sent.0 + 1, sent.1 + frame.len() as u64 - 14);
        self.time += 1_000;
        self.replay.captured(&Captured { time: self.time, len: frame.len() as u32, bytes: &frame });
    }

    /// Time passes in which nothing is sent.
    pub fn pass(&mut self, time: Duration) {
        self.time += time.as_nanos() as u64;
    }

    /// Cuts `flight` at these places, counted modulo its length; returns the segments with their sequence numbers.
    pub fn cut(&mut self, flight: &Flight, cuts: &[usize]) -> Vec<(u32, Vec<u8>)> {
        let mut places: Vec<_> = cuts.iter().map(|cut| cut % flight.bytes.len()).collect();
        places.extend([0, flight.bytes.len()]);
        places.sort_unstable();
        places.dedup();
        let begin = self.next[usize::from(flight.asks)];
        self.next[usize::from(flight.asks)] = begin.wrapping_add(flight.bytes.len() as u32);
        let pieces = places
            .windows(2)
            .flat_map(|ends| (ends[0]..ends[1]).step_by(1448).map(|at| at..ends[1].min(at + 1448)));
        pieces.map(|piece| (begin.wrapping_add(piece.start as u32), flight.bytes[piece].to_vec())).collect()
    }

    /// Sends `flight`, cut at these places.
    pub fn play(&mut self, flight: &Flight, cuts: &[usize]) {
        for (seq, bytes) in self.cut(flight, cuts) {
            self.send(flight.asks, seq, flags::ACK, &bytes);
        }
    }

    /// Both sides close, in order.
    pub fn close(&mut self) {
        for asks in [true, false] {
            self.control(asks, flags::FIN | flags::ACK);
            self.next[usize::from(asks)] = self.next[usize::from(asks)].wrapping_add(1);
            self.control(!asks, flags::ACK);
        }
    }

    /// Closes; returns what came of everything.
    pub fn end(mut self) -> Vec<ExchangeEvent> {
        self.close();
        self.replay.drain()
    }
}
