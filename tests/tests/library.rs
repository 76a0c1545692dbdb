//! The library natively: however a conversation is cut into segments, and whatever of it comes twice or late,
//! the exchanges in it are the same. Needs no root.

use std::{collections::BTreeMap, time::Duration};

use hydrometer_agent::replay::{Captured, Replay};
use hydrometer_ebpf::abi::{DERIVED, ExchangeEvent};
use hydrometer_engine::Service;
use hydrometer_tests::{
    frames::{flags, tls_record},
    wire::{Flight, Wire},
};
use proptest::{collection::vec, prelude::*, sample::Index};

/// One question and its answer: application bytes of their records.
#[derive(Clone, Debug)]
struct Turn {
    asked: Vec<usize>,
    answered: Vec<usize>,
}

/// When the session tickets of the server leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tickets {
    None,
    BeforeTheRequest,
    AfterTheRequest,
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&[kind, 3, 3][..], &length, body].concat()
}

/// A TLS 1.3 handshake (RFC 8446 section 2), up to the client's Finished.
fn handshake() -> [Flight; 3] {
    let mut hello = vec![2, 0, 0, 118, 3, 3];
    hello.extend([7; 32]);
    hello.push(32);
    hello.extend([8; 32]);
    hello.extend([0x13, 0x01, 0]);
    hello.resize(122, 0);
    let encrypted = |length: usize| record(23, &vec![0xee; length]);
    let change = record(20, &[1]);
    let server =
        [record(22, &hello), change.clone(), encrypted(38), encrypted(836), encrypted(281), encrypted(53)];
    [
        Flight { asks: true, bytes: record(22, &[1; 517]) },
        Flight { asks: false, bytes: server.concat() },
        Flight { asks: true, bytes: [change, encrypted(53)].concat() },
    ]
}

fn conversation(turns: &[Turn], tickets: Tickets) -> Vec<Flight> {
    let records = |sizes: &[usize]| sizes.iter().flat_map(|&size| tls_record(size)).collect::<Vec<_>>();
    let two_tickets = [tls_record(249), tls_record(249)].concat();
    let mut flights = handshake().into_iter().collect::<Vec<_>>();
    if tickets == Tickets::BeforeTheRequest {
        flights.push(Flight { asks: false, bytes: two_tickets.clone() });
    }
    for (index, turn) in turns.iter().enumerate() {
        flights.push(Flight { asks: true, bytes: records(&turn.asked) });
        let mut answer = records(&turn.answered);
        if index == 0 && tickets == Tickets::AfterTheRequest {
            answer = [two_tickets.clone(), answer].concat();
        }
        flights.push(Flight { asks: false, bytes: answer });
    }
    flights
}

fn play(wire: &mut Wire, turns: &[Turn]) {
    for flight in conversation(turns, Tickets::BeforeTheRequest) {
        wire.play(&flight, &[]);
    }
}

/// A record size that is neither control nor anything that HTTP/1 would not send.
fn sizes(first: std::ops::Range<usize>, most: usize) -> impl Strategy<Value = Vec<usize>> {
    (first, vec(70_usize..1400, 0..most)).prop_map(|(first, rest)| [vec![first], rest].concat())
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    // The head of an answer is longer than any ticket here, so that two equal records are tickets.
    let turn = (sizes(100..16_000, 4), sizes(1_500..2_000, 12))
        .prop_map(|(asked, answered)| Turn { asked, answered });
    vec(turn, 1..5)
}

fn tickets() -> impl Strategy<Value = Tickets> {
    prop_oneof![Just(Tickets::None), Just(Tickets::BeforeTheRequest), Just(Tickets::AfterTheRequest)]
}

fn expected(turns: &[Turn]) -> Vec<(u64, u64, u32)> {
    let sum = |sizes: &[usize]| sizes.iter().sum::<usize>() as u64;
    turns.iter().map(|turn| (sum(&turn.asked), sum(&turn.answered), turn.answered.len() as u32)).collect()
}

fn measured(events: &[ExchangeEvent]) -> Vec<(u64, u64, u32)> {
    events.iter().map(|event| (event.request_bytes, event.answer_bytes, event.records)).collect()
}

fn a_few_turns() -> Vec<Turn> {
    (1..6).map(|n| Turn { asked: vec![300 * n], answered: vec![1_500, 240, 240, 240 + n] }).collect()
}

/// A request in clear text with a body of so many bytes, which looks like further requests. How long its head is.
fn clear_request(body: usize) -> (Vec<u8>, u32) {
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {body}\r\n\r\n");
    let text = b"POST /v1/chat/completions HTTP/1.1\r\n\r\n".iter().cycle().take(body);
    let len = head.len() as u32;
    (head.into_bytes().into_iter().chain(text.copied()).collect(), len)
}

/// Turns of clear text: bytes asked and answered, and those of the heads. Requests that did not wait for the answer before
/// them have two events a turn.
fn clear_turns(events: &[ExchangeEvent]) -> Vec<(u64, u64, u32, u32)> {
    let mut turns = BTreeMap::<u32, (u64, u64, u32, u32)>::new();
    for event in events {
        let turn = turns.entry(event.turn).or_default();
        turn.0 += event.request_bytes;
        turn.1 += event.answer_bytes;
        turn.2 += event.request_head;
        turn.3 += event.answer_head;
    }
    turns.into_values().collect()
}

#[test]
fn a_body_that_is_refused_early_belongs_to_its_request() {
    let (refused, head) = clear_request(40_000);
    let answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    let (next, next_head) = clear_request(500);
    // The next request comes in the segment with the last of the body.
    let rest = [&refused[head as usize..], &next].concat();
    let mut wire = Wire::new();
    for (asks, bytes) in [
        (true, refused[..head as usize].to_vec()),
        (false, answer.to_vec()),
        (true, rest),
        (false, b"HTTP/1.1 200 OK\r\n\r\nok".to_vec()),
    ] {
        wire.play(&Flight { asks, bytes }, &[]);
    }
    let events = wire.end();
    let expected = [
        (refused.len() as u64, answer.len() as u64, head, answer.len() as u32),
        (next.len() as u64, 21, next_head, 19),
    ];
    assert_eq!(clear_turns(&events), expected);
    assert!(events.iter().all(|event| event.flags == 0), "{events:?}");
}

#[test]
fn a_forged_begin_or_reset_changes_nothing() {
    for forged in [flags::SYN, flags::RST] {
        let mut wire = Wire::new();
        let turns = a_few_turns();
        for (index, flight) in conversation(&turns, Tickets::BeforeTheRequest).into_iter().enumerate() {
            wire.play(&flight, &[]);
            // Somebody who sees neither side's numbers guesses one.
            let guess = wire.next[1].wrapping_add(0x4000_0000 + index as u32);
            wire.send(true, guess, forged, &[]);
        }
        let events = wire.end();
        assert_eq!(measured(&events), expected(&turns));
        assert!(events.iter().all(|event| event.flags == 0), "{events:?}");
    }
}

/// Of a service that nobody has asked before, nothing tells yet how long its tickets are.
#[test]
fn a_request_whose_body_comes_between_the_first_two_tickets_of_a_service_is_one() {
    let mut wire = Wire::new();
    let asks = |asks, size| Flight { asks, bytes: tls_record(size) };
    let request = [asks(true, 230), asks(false, 249), asks(true, 500), asks(false, 249), asks(false, 1_500)];
    for flight in handshake().into_iter().chain(request) {
        wire.play(&flight, &[]);
    }
    assert_eq!(measured(&wire.end()), [(730, 1_500, 1)]);
}

/// A first answer that looks like a ticket: what comes behind it tells, and on the second connection it is known.
#[test]
fn short_answers_of_a_service_without_tickets_are_answers() {
    for second in [880, 640] {
        let mut wire = Wire::new();
        let answer = |size| Turn { asked: vec![600], answered: vec![size] };
        let turns = [answer(880), answer(second), answer(880)];
        for flight in conversation(&turns, Tickets::None) {
            // A model thinks.
            wire.pass(Duration::from_millis(40));
            wire.play(&flight, &[]);
        }
        wire.close();
        let first = wire.replay.drain();
        // Whose bytes the first two requests were is not known.
        assert_eq!(measured(&first), [(1_200, 880, 1), (0, second as u64, 1), (600, 880, 1)]);
        wire.pass(Duration::from_secs(1));
        wire.connect();
        for flight in conversation(&turns, Tickets::None) {
            wire.play(&flight, &[]);
        }
        assert_eq!(measured(&wire.end()), expected(&turns));
    }
}

/// A connection that waits is probed by the byte before the next, with or without one; a full window shows in bare
/// acknowledgements.
#[test]
fn probes_of_a_connection_that_waits_change_nothing() {
    let mut wire = Wire::new();
    let turns = a_few_turns();
    for flight in conversation(&turns, Tickets::BeforeTheRequest) {
        wire.play(&flight, &[]);
        for asks in [true, false] {
            let before = wire.next[usize::from(asks)].wrapping_sub(1);
            wire.send(asks, before, flags::ACK, &[]);
            wire.send(asks, before, flags::ACK, &[0]);
            wire.control(!asks, flags::ACK);
        }
    }
    let events = wire.end();
    assert_eq!(measured(&events), expected(&turns));
    assert!(events.iter().all(|event| event.flags == 0), "{events:?}");
}

/// The client has said all it wants to; the server has not.
#[test]
fn an_answer_after_the_clients_end_is_whole() {
    let mut wire = Wire::new();
    let turns = a_few_turns();
    let mut flights = conversation(&turns, Tickets::BeforeTheRequest);
    let last = flights.pop().unwrap();
    for flight in &flights {
        wire.play(flight, &[]);
    }
    wire.control(true, flags::FIN | flags::ACK);
    wire.next[1] = wire.next[1].wrapping_add(1);
    wire.play(&last, &[]);
    wire.control(false, flags::FIN | flags::ACK);
    wire.next[0] = wire.next[0].wrapping_add(1);
    wire.control(true, flags::ACK);
    let events = wire.end();
    assert_eq!(measured(&events), expected(&turns));
    assert!(events.iter().all(|event| event.flags == 0), "{events:?}");
}

#[test]
fn data_far_ahead_of_its_connection_counts_for_no_more_than_it_is() {
    const FORGED: usize = 900;
    let clear = |begin: &[u8]| [begin, &[b'x'; 300]].concat();
    let clear_text = [
        Flight { asks: true, bytes: clear(b"POST /v1/chat/completions HTTP/1.1\r\n") },
        Flight { asks: false, bytes: clear(b"HTTP/1.1 200 OK\r\n") },
    ];
    for conversation in [clear_text.to_vec(), conversation(&a_few_turns(), Tickets::BeforeTheRequest)] {
        for ahead in [2 << 20, 0x4000_0000, 0x7fff_0000] {
            let mut wire = Wire::new();
            let sent: usize = conversation.iter().map(|flight| flight.bytes.len()).sum();
            for flight in &conversation {
                wire.play(flight, &[]);
            }
            let guess = wire.next[1].wrapping_add(ahead);
            wire.send(true, guess, flags::ACK, &[b'f'; FORGED]);
            let counted: u64 = wire.end().iter().map(|event| event.request_bytes + event.answer_bytes).sum();
            assert!(counted <= (sent + FORGED) as u64, "{counted} bytes of {sent}, {ahead} ahead");
        }
    }
}

#[test]
fn ports_that_are_used_again_begin_a_new_connection() {
    // Closed in order, and not: the host forgot the connection, and the server agrees to another.
    for closes in [true, false] {
        let mut wire = Wire::new();
        let turns = a_few_turns();
        for _ in 0..3 {
            play(&mut wire, &turns);
            if closes {
                wire.close();
            }
            wire.next = [wire.next[0].wrapping_add(99_999_999), wire.next[1].wrapping_add(77_777_777)];
            wire.connect();
        }
        let three_times = [expected(&turns), expected(&turns), expected(&turns)].concat();
        assert_eq!(measured(&wire.end()), three_times, "closes: {closes}");
    }
}

#[test]
fn a_reset_after_an_orderly_end_aborts_nothing() {
    let mut wire = Wire::new();
    let turns = a_few_turns();
    play(&mut wire, &turns);
    wire.control(true, flags::FIN | flags::ACK);
    // The server's closing alert finds nobody.
    let alert = Flight { asks: false, bytes: tls_record(2) };
    wire.play(&alert, &[]);
    wire.next[1] = wire.next[1].wrapping_add(1);
    wire.control(true, flags::RST);
    let events = wire.replay.drain();
    assert_eq!(measured(&events), expected(&turns));
    assert!(events.iter().all(|event| event.flags == 0), "{events:?}");
}

#[test]
fn every_packet_of_a_closed_connection_is_in_its_clients_counters() {
    let mut wire = Wire::new();
    play(&mut wire, &a_few_turns());
    wire.close();
    let client = wire.replay.client("10.0.0.9".parse().unwrap()).unwrap();
    let [to, from] = wire.sent;
    assert_eq!((client.ingress_packets.get(), client.ingress_bytes.get()), from);
    assert_eq!((client.egress_packets.get(), client.egress_bytes.get()), to);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("HYDROMETER_FULL").is_some() { 20_000 } else { 400 }))]

    #[test]
    fn however_a_conversation_is_cut_its_exchanges_are_the_same(
        turns in turns(),
        tickets in tickets(),
        cuts in vec(vec(any::<usize>(), 0..12), 20),
    ) {
        let mut wire = Wire::new();
        for (flight, cuts) in conversation(&turns, tickets).iter().zip(cuts.iter().cycle()) {
            wire.play(flight, cuts);
        }
        let events = wire.end();
        prop_assert_eq!(measured(&events), expected(&turns));
        prop_assert!(events.iter().all(|event| event.flags == 0));
    }

    #[test]
    fn requests_that_do_not_wait_have_their_own_sizes_however_they_are_cut(
        bursts in vec(vec(0_usize..3_000, 1..6), 1..4),
        cuts in vec(vec(any::<usize>(), 0..12), 20),
    ) {
        let mut wire = Wire::new();
        let mut expected = Vec::new();
        for (burst, cuts) in bursts.iter().zip(&cuts) {
            let requests: Vec<_> = burst.iter().map(|&body| clear_request(body)).collect();
            let bytes = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            wire.play(&Flight { asks: true, bytes }, cuts);
            for (request, head) in requests {
                let bytes = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'a'; expected.len() + 1]].concat();
                expected.push((request.len() as u64, bytes.len() as u64, head, 19));
                wire.play(&Flight { asks: false, bytes }, &[]);
            }
        }
        let client = wire.replay.client([10, 0, 0, 9].into()).unwrap();
        prop_assert_eq!(client.requests.get(), expected.len() as u64);
        let events = wire.end();
        prop_assert_eq!(clear_turns(&events), expected);
        prop_assert!(events.iter().all(|event| event.flags & DERIVED == 0));
    }

    #[test]
    fn what_comes_twice_changes_nothing(
        turns in turns(),
        tickets in tickets(),
        cuts in vec(vec(any::<usize>(), 0..6), 20),
        again in vec(any::<Index>(), 20),
    ) {
        let mut wire = Wire::new();
        for ((flight, cuts), again) in conversation(&turns, tickets).iter().zip(cuts.iter().cycle()).zip(again.iter().cycle()) {
            let segments = wire.cut(flight, cuts);
            let twice = again.index(segments.len());
            for (seq, bytes) in &segments {
                wire.send(flight.asks, *seq, flags::ACK, bytes);
            }
            // A retransmission of one segment, and one of all from there on in larger pieces.
            let (seq, bytes) = &segments[twice];
            wire.send(flight.asks, *seq, flags::ACK, bytes);
            let rest: Vec<u8> = segments[twice..].iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            wire.send(flight.asks, *seq, flags::ACK, &rest[..rest.len().min(1448)]);
        }
        prop_assert_eq!(measured(&wire.end()), expected(&turns));
    }

    #[test]
    fn a_request_segment_that_comes_late_costs_no_request_and_few_bytes(
        turns in turns(),
        cuts in vec(vec(any::<usize>(), 0..6), 20),
        late in vec(any::<Index>(), 20),
    ) {
        let mut wire = Wire::new();
        let flights = conversation(&turns, Tickets::BeforeTheRequest);
        for ((flight, cuts), late) in flights.iter().zip(cuts.iter().cycle()).zip(late.iter().cycle()) {
            // What fits a segment is sent in one.
            let cuts = if flight.bytes.len() > 1448 { &cuts[..] } else { &[] };
            let mut segments = wire.cut(flight, cuts);
            if flight.asks {
                // Lost before this host, and sent again once the rest has come.
                let lost = segments.remove(late.index(segments.len()));
                segments.push(lost);
            }
            for (seq, bytes) in &segments {
                wire.send(flight.asks, *seq, flags::ACK, bytes);
            }
        }
        let (events, expected) = (measured(&wire.end()), expected(&turns));
        prop_assert_eq!(events.len(), expected.len(), "{:?} instead of {:?}", events, expected);
        for ((asked, answered, _), (true_asked, true_answered, _)) in events.into_iter().zip(expected) {
            prop_assert_eq!(answered, true_answered);
            let off = (asked as f64 - true_asked as f64).abs();
            // Record headers that were not seen count as application data: 22 bytes each.
            prop_assert!(off <= 22.0 * 6.0 + true_asked as f64 * 0.02, "{asked} instead of {true_asked}");
        }
    }

    #[test]
    fn no_frame_is_too_absurd(frames in vec(vec(any::<u8>(), 0..200), 1..40)) {
        let mut replay = Replay::new(&[Service { address: None, port: 8443 }]);
        for (time, bytes) in frames.iter().enumerate() {
            let mut ethernet = vec![0; 12];
            ethernet.extend([[8, 0], [0x86, 0xdd], [0x81, 0]][time % 3]);
            ethernet.extend(bytes);
            replay.captured(&Captured { time: time as u64, len: ethernet.len() as u32, bytes: &ethernet });
        }
    }
}
