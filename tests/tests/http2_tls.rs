//! HTTP/2 in TLS, natively: how many requests are counted, and how far that is believed, depends on which ends of
//! messages show. Needs no root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use hydrometer_ebpf::abi::{CERTAIN, ExchangeEvent, Protocol};
use hydrometer_tests::{
    frames::tls_record,
    wire::{Flight, Wire},
};
use proptest::{collection::vec, prelude::*};

/// Content of a record with an empty DATA frame.
const END: usize = 9;
/// The head of a request and of an answer, once the peer knows the fields.
const HEADS: [usize; 2] = [95, 110];

/// Which side writes the end of a message as a frame of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    client: bool,
    server: bool,
}

/// One request and its answer: contents of the records of their bodies.
#[derive(Clone, Debug)]
struct Exchange {
    asked: Vec<usize>,
    answered: Vec<usize>,
}

fn exchange() -> impl Strategy<Value = Exchange> {
    // Neither a control frame nor another head.
    (vec(150_usize..3_000, 1..4), vec(150_usize..3_000, 1..9))
        .prop_map(|(asked, answered)| Exchange { asked, answered })
}

fn records(contents: impl IntoIterator<Item = usize>) -> Vec<u8> {
    contents.into_iter().flat_map(tls_record).collect()
}

fn flight(asks: bool, contents: impl IntoIterator<Item = usize>) -> Flight {
    Flight { asks, bytes: records(contents) }
}

/// A TLS 1.3 handshake (RFC 8446 section 2) that agrees on `h2`, tickets, and what both ends of HTTP/2 send first.
fn greeting() -> Vec<Flight> {
    let handshake =
        |kind: u8, body: &[u8]| [&[kind, 3, 3][..], &(body.len() as u16).to_be_bytes(), body].concat();
    let mut hello = vec![2, 0, 0, 118, 3, 3];
    hello.extend([7; 32]);
    hello.push(32);
    hello.extend([8; 32]);
    hello.extend([0x13, 0x01, 0]);
    hello.resize(122, 0);
    let server = [handshake(22, &hello), handshake(20, &[1]), records([15, 819, 264, 36])].concat();
    vec![
        Flight { asks: true, bytes: handshake(22, &[1; 517]) },
        Flight { asks: false, bytes: server },
        Flight { asks: true, bytes: [handshake(20, &[1]), records([36])].concat() },
        flight(false, [249, 249, 40]),
        flight(true, [82]),
        flight(false, [END]),
        flight(true, [END]),
    ]
}

impl Exchange {
    fn request(&self, ends: Ends) -> Vec<usize> {
        let end: &[_] = if ends.client { &[END] } else { &[] };
        [&[HEADS[0]], &self.asked[..], end].concat()
    }

    fn answer(&self, ends: Ends) -> Vec<usize> {
        let end: &[_] = if ends.server { &[END] } else { &[] };
        [&[HEADS[1]], &self.answered[..], end].concat()
    }

    /// Request bytes, which are those inside frames, and answer bytes.
    fn figures(&self, ends: Ends) -> (u64, u64) {
        let asked: usize = self.request(ends).iter().map(|content| content - END).sum();
        let answered: usize = self.answer(ends).iter().sum();
        (asked as u64, answered as u64)
    }
}

fn figures(event: &ExchangeEvent) -> (u64, u64) {
    (event.request_bytes, event.answer_bytes)
}

/// Requests one after the other, each answered before the next.
fn converse(exchanges: &[Exchange], ends: Ends, cuts: &[Vec<usize>]) -> Vec<ExchangeEvent> {
    let mut wire = Wire::new();
    let turns = exchanges
        .iter()
        .flat_map(|exchange| [flight(true, exchange.request(ends)), flight(false, exchange.answer(ends))]);
    for (n, flight) in greeting().into_iter().chain(turns).enumerate() {
        // What the handshake cannot do without comes whole.
        wire.play(&flight, if n < 3 { &[] } else { &cuts[n % cuts.len()] });
    }
    let requests = wire.replay.client([10, 0, 0, 9].into()).unwrap().requests.get();
    assert_eq!(requests, exchanges.len() as u64, "{ends:?}");
    wire.end()
}

fn confidence(events: &[ExchangeEvent]) -> f64 {
    let sum: f64 = events.iter().map(|event| f64::from(event.confidence) / f64::from(CERTAIN)).sum();
    sum / events.len() as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("HYDROMETER_FULL").is_some() { 5_000 } else { 100 }))]

    #[test]
    fn one_after_the_other_each_is_found_by_whichever_ends_show_and_believed_if_both_do(
        exchanges in vec(exchange(), 4..12),
        client in any::<bool>(),
        server in any::<bool>(),
        cuts in vec(vec(any::<usize>(), 0..12), 8),
    ) {
        let ends = Ends { client, server };
        let events = converse(&exchanges, ends, &cuts);
        let expected: Vec<_> = exchanges.iter().map(|exchange| exchange.figures(ends)).collect();
        prop_assert_eq!(events.iter().map(figures).collect::<Vec<_>>(), expected, "{:?}", ends);
        prop_assert!(events.iter().all(|event| event.protocol == Protocol::TlsHttp2 as u8));
        prop_assert!(events.iter().all(|event| event.first != 0 && event.last >= event.first));
        prop_assert_eq!(client && server, confidence(&events) > 0.5, "{:?}: {}", ends, confidence(&events));
    }

    #[test]
    fn all_at_once_they_are_as_many_and_as_large_in_sum(
        exchanges in vec(exchange(), 2..24),
        cuts in vec(vec(any::<usize>(), 0..12), 8),
    ) {
        let ends = Ends { client: true, server: true };
        let mut wire = Wire::new();
        let asked = exchanges.iter().map(|_| HEADS[0]).chain(exchanges.iter().flat_map(|e| e.asked.clone()));
        let asked = asked.chain(exchanges.iter().map(|_| END));
        let answered = exchanges.iter().flat_map(|exchange| exchange.answer(ends));
        let flights = greeting().into_iter().chain([flight(true, asked), flight(false, answered)]);
        for (n, flight) in flights.enumerate() {
            wire.play(&flight, if n < 3 { &[] } else { &cuts[n % cuts.len()] });
        }
        let events = wire.end();
        prop_assert_eq!(events.len(), exchanges.len());
        let sum = |figures: &mut dyn Iterator<Item = (u64, u64)>| {
            figures.fold((0, 0), |sum, figures| (sum.0 + figures.0, sum.1 + figures.1))
        };
        let expected = sum(&mut exchanges.iter().map(|exchange| exchange.figures(ends)));
        prop_assert_eq!(sum(&mut events.iter().map(figures)), expected);
    }

    #[test]
    fn no_record_sizes_make_more_bytes_than_there_were(
        flights in vec((any::<bool>(), vec(prop_oneof![Just(9_usize), Just(13), Just(104), 1_usize..4_000], 1..20)), 1..30),
        lost in vec(any::<bool>(), 30),
    ) {
        let mut wire = Wire::new();
        for flight in greeting() {
            wire.play(&flight, &[]);
        }
        let mut seen = (0, 0);
        for ((asks, contents), lost) in flights.iter().zip(lost) {
            let flight = flight(*asks, contents.iter().copied());
            let total = flight.bytes.len() as u64;
            if *asks { seen.0 += total } else { seen.1 += total }
            for (n, (seq, bytes)) in wire.cut(&flight, &[]).into_iter().enumerate() {
                if !(lost && n == 0) {
                    wire.send(*asks, seq, hydrometer_tests::frames::flags::ACK, &bytes);
                }
            }
        }
        let events = wire.end();
        prop_assert!(events.iter().map(|event| event.request_bytes).sum::<u64>() <= seen.0);
        prop_assert!(events.iter().map(|event| event.answer_bytes).sum::<u64>() <= seen.1);
        prop_assert!(events.iter().all(|event| event.confidence <= CERTAIN));
    }
}
