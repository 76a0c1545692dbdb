//! Heads apart from bodies.
//!
//! In clear text the library sees where a head ends. Inside TLS that is learned: who writes a head and then a body has them in
//! records of their own, so the first record is the head where others follow. It is believed while the first records of a
//! client's requests, or of a service's streamed answers, are of nearly one size, as heads are and first parts of
//! bodies are not. A whole answer is written with its head; that is taken to be as long as those of the service's
//! streamed answers.
//!
//! Invariant: memory is bounded, whatever comes.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use hydrometer_ebpf::abi::ExchangeEvent;
use hydrometer_engine::{Accuracy, AnswerKind, Exchange, Head, Heads, Protocol};

use crate::recent::Recent;

/// First records that are remembered.
const SAMPLES: usize = 8;

/// The least that a request or status line takes with the fields that every message has.
const LEAST_HEAD: u32 = 64;

/// Buffers have sizes that are multiples of this: a record of such a size is a full one, not a head.
const BUFFER: u32 = 1024;

/// Services whose answers are remembered.
const MAX_SERVICES: usize = 1024;

/// What is known of heads.
#[derive(Debug)]
pub(crate) struct HeadSizes {
    /// Of requests, by service, client and its JA4.
    requests: Recent<FirstRecords>,
    /// Of streamed answers, by service.
    answers: Recent<FirstRecords>,
}

impl HeadSizes {
    /// Remembers those of up to `clients` clients.
    pub(crate) fn new(clients: usize) -> Self {
        Self { requests: Recent::new(clients), answers: Recent::new(MAX_SERVICES) }
    }

    /// Gives an exchange its heads. Whose it is, and its JA4, must be known.
    pub(crate) fn tell(&mut self, event: &ExchangeEvent, exchange: &mut Exchange) {
        exchange.heads = match exchange.protocol {
            Protocol::Http1 | Protocol::Http2 => {
                let head = |bytes| (bytes > 0).then_some(Head { bytes, accuracy: Accuracy::Exact });
                Heads { request: head(event.request_head), answer: head(event.answer_head) }
            }
            Protocol::Tls => {
                Heads { request: self.request(event, exchange), answer: self.answer(event, exchange) }
            }
            Protocol::TlsHttp2 | Protocol::Quic | Protocol::Other => Heads::default(),
        };
    }

    fn request(&mut self, event: &ExchangeEvent, exchange: &Exchange) -> Option<Head> {
        let first = Some(event.request_head).filter(|first| *first > 0)?;
        let known = self.requests.get_or_default(key((exchange.service, exchange.client, &exchange.ja4)));
        known.add(first);
        known.apart(first, exchange.request_bytes)
    }

    fn answer(&mut self, event: &ExchangeEvent, exchange: &Exchange) -> Option<Head> {
        let known = self.answers.get_or_default(key(exchange.service));
        if AnswerKind::of(exchange) == Some(AnswerKind::Streamed) {
            let first = Some(event.answer_head).filter(|first| *first > 0)?;
            known.add(first);
            return known.apart(first, exchange.answer_bytes);
        }
        let usual = known.usual().filter(|usual| u64::from(*usual) <= exchange.answer_bytes)?;
        Some(Head { bytes: usual, accuracy: Accuracy::Estimated })
    }
}

/// A key for what is alike in this.
fn key(alike: impl std::hash::Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(alike)
}

/// Sizes of the last first records of one kind, none of which is 0.
#[derive(Debug, Default)]
struct FirstRecords([u32; SAMPLES]);

impl FirstRecords {
    fn add(&mut self, first: u32) {
        self.0.rotate_right(1);
        self.0[0] = first;
    }

    /// The head of a message of `total` bytes that begins with a record of `first` bytes.
    fn apart(&self, first: u32, total: u64) -> Option<Head> {
        let is_apart = u64::from(first) < total && self.usual().is_some_and(|usual| is_near(first, usual));
        is_apart.then_some(Head { bytes: first, accuracy: Accuracy::Derived })
    }

    /// The median, where three in four are near it and it may be that of heads.
    fn usual(&self) -> Option<u32> {
        let mut sizes: Vec<u32> = self.0.iter().copied().filter(|size| *size > 0).collect();
        sizes.sort_unstable();
        let median = *sizes.get(sizes.len() / 2)?;
        let near = sizes.iter().filter(|size| is_near(**size, median)).count();
        (near * 4 >= sizes.len() * 3 && median >= LEAST_HEAD && median % BUFFER != 0).then_some(median)
    }
}

/// Whether heads of one stack may differ by this: their fields do so by a few bytes.
fn is_near(size: u32, median: u32) -> bool {
    size.abs_diff(median) <= median / 8
}
