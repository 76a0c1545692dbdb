//! HTTP/2 in clear text, natively: every stream is an exchange, whatever runs beside it and however the connection
//! is cut. Needs no root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use hydrometer_ebpf::{
    abi::{ABORTED, DERIVED, ExchangeEvent, Protocol},
    packet::RST,
};
use hydrometer_tests::{
    frames::{HTTP2_PREFACE, flags, http2_frame},
    wire::{Flight, Wire},
};
use proptest::{collection::vec, prelude::*, sample::Index};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const WHOLE: u8 = END_STREAM | END_HEADERS;

fn asks(frames: impl AsRef<[Vec<u8>]>) -> Flight {
    Flight { asks: true, bytes: frames.as_ref().concat() }
}

fn answers(frames: impl AsRef<[Vec<u8>]>) -> Flight {
    Flight { asks: false, bytes: frames.as_ref().concat() }
}

/// Request bytes, answer bytes, records.
type Figures = (u64, u64, u32);

/// What both ends send first.
fn greeting() -> [Flight; 3] {
    let (begin, rest) = HTTP2_PREFACE.split_at(8);
    [
        // By its first eight bytes a connection is recognised.
        asks([begin.to_vec()]),
        asks([rest.to_vec(), http2_frame(SETTINGS, 0, 0, 36), http2_frame(WINDOW_UPDATE, 0, 0, 4)]),
        answers([http2_frame(SETTINGS, 0, 0, 18), http2_frame(SETTINGS, 1, 0, 0)]),
    ]
}

/// A connection that both ends have greeted on.
fn connection() -> Wire {
    let mut wire = Wire::new();
    for flight in greeting() {
        wire.play(&flight, &[]);
    }
    wire
}

/// One request and its answer: contents of their frames.
#[derive(Clone, Debug)]
struct Exchange {
    head: usize,
    body: Vec<usize>,
    answer_head: usize,
    answer: Vec<usize>,
}

impl Exchange {
    fn request(&self, stream: u32) -> Vec<Vec<u8>> {
        let mut frames = vec![http2_frame(HEADERS, END_HEADERS, stream, self.head)];
        frames.extend(self.body.iter().map(|&content| http2_frame(DATA, 0, stream, content)));
        frames.push(http2_frame(DATA, END_STREAM, stream, 0));
        frames
    }

    fn response(&self, stream: u32) -> Vec<Vec<u8>> {
        let mut frames = vec![http2_frame(HEADERS, END_HEADERS, stream, self.answer_head)];
        frames.extend(self.answer.iter().map(|&content| http2_frame(DATA, 0, stream, content)));
        frames.push(http2_frame(DATA, END_STREAM, stream, 0));
        frames
    }

    fn figures(&self) -> Figures {
        let asked = self.head + self.body.iter().sum::<usize>();
        let frames = self.answer.len() + 2;
        let answered = self.answer_head + self.answer.iter().sum::<usize>() + frames * 9;
        (asked as u64, answered as u64, self.answer.len() as u32 + 1)
    }
}

fn exchange() -> impl Strategy<Value = Exchange> {
    (1_usize..400, vec(1_usize..16_384, 0..3), 1_usize..200, vec(1_usize..2_000, 0..8))
        .prop_map(|(head, body, answer_head, answer)| Exchange { head, body, answer_head, answer })
}

/// Puts the frames of several streams into one order, each stream's own kept.
fn interleave(streams: Vec<Vec<Vec<u8>>>, picks: &[Index]) -> Vec<Vec<u8>> {
    let mut streams: Vec<_> = streams.into_iter().map(Vec::into_iter).collect();
    let mut picks = picks.iter().cycle();
    let mut frames = Vec::new();
    while !streams.is_empty() {
        let pick = picks.next().unwrap().index(streams.len());
        match streams[pick].next() {
            Some(frame) => frames.push(frame),
            None => drop(streams.remove(pick)),
        }
    }
    frames
}

fn figures(event: &ExchangeEvent) -> Figures {
    (event.request_bytes, event.answer_bytes, event.records)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("HYDROMETER_FULL").is_some() { 20_000 } else { 200 }))]

    #[test]
    fn however_streams_are_mixed_and_cut_each_is_an_exchange(
        rounds in vec(vec(exchange(), 1..6), 1..4),
        picks in vec(any::<Index>(), 1..30),
        cuts in vec(vec(any::<usize>(), 0..12), 8),
    ) {
        let mut wire = Wire::new();
        let mut flights = Vec::from(greeting());
        let mut stream = 1;
        for round in &rounds {
            let first = stream;
            let numbered = |of: fn(&Exchange, u32) -> Vec<Vec<u8>>| {
                round.iter().zip(0..).map(|(exchange, n)| of(exchange, first + 2 * n)).collect()
            };
            // New streams are asked for in order: their heads first.
            let mut requests: Vec<Vec<Vec<u8>>> = numbered(Exchange::request);
            let heads: Vec<_> = requests.iter_mut().map(|frames| frames.remove(0)).collect();
            flights.push(asks(&heads));
            flights.push(asks(interleave(requests, &picks)));
            flights.push(answers([http2_frame(WINDOW_UPDATE, 0, 0, 4), http2_frame(PING, 0, 0, 8)]));
            flights.push(answers(interleave(numbered(Exchange::response), &picks)));
            stream += 2 * round.len() as u32;
        }
        let uncut = Vec::new();
        for (flight, cuts) in flights.iter().zip(std::iter::once(&uncut).chain(cuts.iter().cycle())) {
            wire.play(flight, cuts);
        }
        let requests = wire.replay.client([10, 0, 0, 9].into()).unwrap().requests.get();
        let mut events = wire.end();
        events.sort_by_key(|event| event.turn);
        let expected: Vec<_> = rounds.iter().flatten().map(Exchange::figures).collect();
        prop_assert_eq!(requests, expected.len() as u64);
        prop_assert_eq!(events.iter().map(figures).collect::<Vec<_>>(), expected);
        prop_assert!(events.iter().all(|event| event.flags == 0 && event.protocol == Protocol::Http2 as u8));
    }
}

#[test]
fn every_way_to_end_a_stream_ends_its_exchange_once() {
    let request = http2_frame(HEADERS, WHOLE, 1, 50);
    let head = http2_frame(HEADERS, END_HEADERS, 1, 30);
    let data = http2_frame(DATA, 0, 1, 100);
    let cases: [(&str, Vec<Flight>, Figures, u8); 9] = [
        (
            "an answer of one frame",
            vec![asks([request.clone()]), answers([http2_frame(HEADERS, WHOLE, 1, 30)])],
            (50, 39, 1),
            0,
        ),
        (
            "trailers, as gRPC sends them",
            vec![
                asks([request.clone()]),
                answers([head.clone(), data.clone(), http2_frame(HEADERS, WHOLE, 1, 20)]),
            ],
            (50, 39 + 109 + 29, 2),
            0,
        ),
        (
            "trailers in two frames",
            vec![
                asks([request.clone()]),
                answers([
                    head.clone(),
                    data.clone(),
                    http2_frame(HEADERS, END_STREAM, 1, 20),
                    http2_frame(CONTINUATION, END_HEADERS, 1, 10),
                ]),
            ],
            (50, 39 + 109 + 29 + 19, 2),
            0,
        ),
        (
            "an interim answer before the answer",
            vec![
                asks([request.clone()]),
                answers([http2_frame(HEADERS, END_HEADERS, 1, 5), head.clone(), data.clone()]),
                answers([http2_frame(DATA, END_STREAM, 1, 0)]),
            ],
            (50, 39 + 109 + 9, 2),
            0,
        ),
        (
            "a head with a priority, continued, and trailers of the client",
            vec![
                asks([
                    http2_frame(HEADERS, 0x20, 1, 45),
                    http2_frame(CONTINUATION, END_HEADERS, 1, 10),
                    http2_frame(DATA, 0, 1, 70),
                    http2_frame(HEADERS, WHOLE, 1, 15),
                ]),
                answers([http2_frame(HEADERS, WHOLE, 1, 30)]),
            ],
            (40 + 10 + 70 + 15, 39, 1),
            0,
        ),
        (
            "the client takes it back",
            vec![
                asks([request.clone()]),
                answers([head.clone(), data.clone()]),
                asks([http2_frame(RST_STREAM, 0, 1, 4)]),
                // On its way when it was taken back.
                answers([data.clone()]),
            ],
            (50, 39 + 109, 2),
            ABORTED,
        ),
        (
            "the server refuses to go on",
            vec![
                asks([request.clone()]),
                answers([head.clone(), data.clone(), http2_frame(RST_STREAM, 0, 1, 4)]),
            ],
            (50, 39 + 109, 2),
            ABORTED,
        ),
        (
            "the server wants no more after its answer",
            vec![
                asks([http2_frame(HEADERS, END_HEADERS, 1, 50)]),
                answers([http2_frame(HEADERS, WHOLE, 1, 30), http2_frame(RST_STREAM, 0, 1, 4)]),
            ],
            (50, 39, 1),
            0,
        ),
        (
            "the connection ends",
            vec![asks([request.clone()]), answers([head.clone(), data.clone()])],
            (50, 39 + 109, 2),
            ABORTED,
        ),
    ];
    for (what, flights, expected, flags) in cases {
        let mut wire = connection();
        for flight in &flights {
            wire.play(flight, &[]);
        }
        let events = wire.end();
        let [event] = events[..] else { panic!("{what}: {events:?}") };
        assert_eq!((figures(&event), event.flags), (expected, flags), "{what}");
    }
}

#[test]
fn a_reset_of_the_connection_ends_every_open_stream() {
    let mut wire = connection();
    for stream in (1..=199).step_by(2) {
        wire.play(&asks([http2_frame(HEADERS, WHOLE, stream, 50)]), &[]);
    }
    // Every third one is answered.
    for stream in (1..=199).step_by(6) {
        wire.play(&answers([http2_frame(HEADERS, WHOLE, stream, 30)]), &[]);
    }
    wire.control(true, RST);
    let events = wire.replay.drain();
    let aborted = events.iter().filter(|event| event.flags & ABORTED != 0).count();
    assert_eq!((events.len(), aborted), (100, 66));
}

#[test]
fn what_was_missed_is_said_and_the_requests_after_it_are_counted() {
    let mut wire = connection();
    let request = |stream| {
        asks([http2_frame(HEADERS, END_HEADERS, stream, 60), http2_frame(DATA, END_STREAM, stream, 500)])
    };
    let response = |stream| {
        answers([http2_frame(HEADERS, END_HEADERS, stream, 30), http2_frame(DATA, END_STREAM, stream, 900)])
    };
    wire.play(&request(1), &[]);
    wire.play(&response(1), &[]);
    // A whole request goes by unread.
    drop(wire.cut(&request(3), &[]));
    for stream in [5, 7, 9] {
        wire.play(&request(stream), &[]);
        wire.play(&response(stream), &[]);
    }
    let events = wire.end();
    assert_eq!(events.len(), 4);
    assert_eq!(events[0].flags, 0);
    assert!(
        events[1..].iter().all(|event| event.flags == DERIVED && figures(event) == (560, 948, 2)),
        "{events:?}"
    );
}

#[test]
fn a_connection_met_in_its_middle_is_followed_from_the_next_request() {
    let mut wire = Wire::new();
    // The agent starts here; nothing before this was seen.
    wire.replay = Wire::new().replay;
    for flight in greeting() {
        drop(wire.cut(&flight, &[]));
    }
    for stream in [201, 203] {
        wire.play(
            &asks([
                http2_frame(HEADERS, END_HEADERS, stream, 60),
                http2_frame(DATA, END_STREAM, stream, 500),
            ]),
            &[],
        );
        wire.play(
            &answers([
                http2_frame(HEADERS, END_HEADERS, stream, 30),
                http2_frame(DATA, END_STREAM, stream, 900),
            ]),
            &[],
        );
    }
    wire.control(false, flags::FIN | flags::ACK);
    let events = wire.replay.drain();
    assert_eq!(events.iter().map(figures).collect::<Vec<_>>(), [(560, 948, 2), (560, 948, 2)]);
}
