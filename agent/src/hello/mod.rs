//! From the first bytes of connections to JA4 fingerprints.
//!
//! In flow the events of the library (`hydrometer_ebpf::hello`), from the kernel or from a replay; what they tell, the
//! round trips of the handshakes, too, goes to what is known of each flow. Invariant: memory is bounded, whatever comes;
//! what is given up is counted.

mod ja4;
mod quic;

use std::time::Duration;

use hydrometer_ebpf::{
    hello::{HelloEvent, Tells},
    packet::UDP,
};

pub use self::ja4::{Carrier, Ja4};
use crate::{
    assembly::{self, Assembly},
    known::Known,
    recent::Recent,
    wire,
};

/// Connections whose ClientHello is put together at a time: 16 MiB at most.
const MAX_UNFINISHED: usize = 2048;
/// Content type of a handshake record.
const HANDSHAKE: u8 = 22;
/// Type of the handshake message.
const CLIENT_HELLO: u8 = 1;

/// ClientHellos that are put together.
#[derive(Debug)]
pub struct Hellos {
    /// Of which a part has come, by the number of their flow.
    unfinished: Recent<Begin>,
    /// Those that could not be read.
    unreadable: u64,
}

impl Default for Hellos {
    fn default() -> Self {
        Self { unfinished: Recent::new(MAX_UNFINISHED), unreadable: 0 }
    }
}

impl Hellos {
    /// Takes an event, and the bytes that it tells of; what they tell of their flow is `known` from then on.
    pub fn take(&mut self, event: &HelloEvent, bytes: &[u8], known: &mut Known) {
        let flow = wire::hello_flow(event);
        match event.tells() {
            Tells::Bytes => self.hello(flow, event, bytes, known),
            handshake => known.round_trip(flow, handshake, Duration::from_micros(event.position.into())),
        }
    }

    /// Takes bytes of a ClientHello.
    fn hello(&mut self, flow: u64, event: &HelloEvent, bytes: &[u8], known: &mut Known) {
        if event.position != 0 && known.has_ja4(flow) {
            return;
        }
        let mut begin = self.unfinished.remove(flow).unwrap_or_else(|| Begin::of(event));
        begin.take(event.position as usize, bytes);
        match begin.hello() {
            Hello::Unfinished => self.unfinished.insert(flow, begin),
            Hello::Whole(message) => match Ja4::of(begin.carrier(), &message) {
                Some(ja4) => known.ja4(flow, ja4),
                None => self.unreadable += 1,
            },
            Hello::Other => self.unreadable += 1,
        }
    }

    /// ClientHellos that could not be read, or of which a part never came.
    pub fn lost(&self) -> u64 {
        self.unreadable + self.unfinished.dropped()
    }
}

/// The begin of a connection, as far as it has come.
#[derive(Debug)]
enum Begin {
    Tcp(Assembly),
    Quic(quic::Handshake),
}

impl Begin {
    fn of(event: &HelloEvent) -> Self {
        if event.transport == UDP {
            Self::Quic(quic::Handshake::default())
        } else {
            Self::Tcp(Assembly::default())
        }
    }

    fn carrier(&self) -> Carrier {
        match self {
            Self::Tcp(_) => Carrier::Tcp,
            Self::Quic(_) => Carrier::Quic,
        }
    }

    fn take(&mut self, position: usize, bytes: &[u8]) {
        match self {
            Self::Tcp(stream) => stream.add(position, bytes),
            Self::Quic(handshake) => handshake.datagram(bytes),
        }
    }

    fn hello(&self) -> Hello {
        match self {
            Self::Tcp(stream) => records(stream.begin()),
            Self::Quic(handshake) => Hello::read(handshake.begin()),
        }
    }
}

/// What a connection begins with.
enum Hello {
    /// More has to come before it can be told.
    Unfinished,
    /// A ClientHello, this message.
    Whole(Vec<u8>),
    /// Something else, or more than is looked at.
    Other,
}

impl Hello {
    /// The handshake message that these bytes begin with (RFC 8446 section 4).
    fn read(handshake: &[u8]) -> Self {
        let Some(&[kind, high, middle, low]) = handshake.first_chunk() else { return Self::Unfinished };
        let len = 4 + u32::from_be_bytes([0, high, middle, low]) as usize;
        if kind != CLIENT_HELLO || len > assembly::LIMIT {
            return Self::Other;
        }
        handshake.get(..len).map_or(Self::Unfinished, |message| Self::Whole(message.to_vec()))
    }
}

/// The handshake message that a stream of TLS records begins with; it may go on over several records (RFC
/// 8446 section 5.1).
fn records(mut stream: &[u8]) -> Hello {
    let mut handshake = Vec::new();
    while let Some((head, rest)) = stream.split_first_chunk::<5>() {
        if head[0] != HANDSHAKE {
            return Hello::Other;
        }
        let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
        handshake.extend_from_slice(&rest[..len.min(rest.len())]);
        match Hello::read(&handshake) {
            Hello::Unfinished => stream = rest.get(len..).unwrap_or_default(),
            told => return told,
        }
    }
    Hello::Unfinished
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Bytes that begin like a ClientHello of some length, or not at all.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let record = |len: u16| {
            [&[22, 3, 1][..], &len.to_be_bytes(), &[1, 0], &len.saturating_sub(4).to_be_bytes()].concat()
        };
        prop_oneof![
            vec(any::<u8>(), 1..200),
            (0_u16..300, vec(any::<u8>(), 0..400)).prop_map(move |(len, rest)| [record(len), rest].concat()),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_memory_is_bounded(
            events in vec((0_u16..9000, prop_oneof![Just(0_u32), any::<u32>(), 0_u32..300], bytes()), 1..60),
        ) {
            let (mut hellos, mut known) = (Hellos::default(), Known::new(16));
            for (client_port, position, bytes) in &events {
                let event = HelloEvent { client_port: *client_port, position: *position, ..HelloEvent::default() };
                hellos.take(&event, bytes, &mut known);
                prop_assert!(known.tables()[0].entries <= 16 && hellos.unfinished.len() <= MAX_UNFINISHED);
            }
        }
    }

    #[test]
    fn a_part_that_never_comes_is_given_up_and_counted() {
        let (mut hellos, mut known) = (Hellos::default(), Known::new(16));
        for client in 0..10_000_u32 {
            let event = HelloEvent { client: [0, 0, 0, client], ..HelloEvent::default() };
            hellos.take(&event, &[22, 3, 1, 2, 0, 1, 0], &mut known);
        }
        assert!(hellos.unfinished.len() <= MAX_UNFINISHED);
        assert_eq!(hellos.lost() + hellos.unfinished.len() as u64, 10_000);
    }
}
