//! Exchanges in their sequence: repetitions, and times that cannot be, are left out.
//!
//! Recordings are sorted by the begin of exchanges, or by their end, with silences of any length. What ended long
//! before something earlier in the file began is out of order. What begins long after everything so far is a silence, or a
//! clock that was wrong for a moment: it waits until [`FOLLOWERS`] more lines have come, and is believed if it belongs to
//! the most of them that are in order. Invariant: no more than that wait.

use std::{collections::VecDeque, hash::BuildHasher as _, time::Duration};

use foldhash::quality::FixedState;
use hydrometer_engine::{Exchange, Nanos, Protocol};

use super::{Faults, Reason};
use crate::recent::Recent;

/// Begins further ahead than this have to be confirmed.
const LEAP: Duration = Duration::from_hours(1);
/// Lines that confirm it.
const FOLLOWERS: usize = 64;
/// So far behind the order does not matter: a detector looks back as far.
const SLACK: Duration = Duration::from_mins(10);
/// Exchanges that are remembered, to know them again.
const REMEMBERED: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct Sequence {
    /// The latest begin, and the latest end, of what was believed.
    newest: Nanos,
    reached: Option<Nanos>,
    /// The first of these is ahead.
    waiting: VecDeque<(u64, Exchange)>,
    seen: Recent<()>,
}

impl Default for Sequence {
    fn default() -> Self {
        let seen = Recent::new(REMEMBERED);
        Self { newest: Nanos::default(), reached: None, waiting: VecDeque::new(), seen }
    }
}

impl Sequence {
    /// Takes the exchange on a line; what is believed goes to `ready`.
    pub(super) fn take(
        &mut self,
        line: u64,
        exchange: Exchange,
        ready: &mut VecDeque<Exchange>,
        faults: &mut Faults,
    ) {
        if self.is_repeated(&exchange) {
            faults.add(Reason::Duplicate, line, &format_args!("client {}", exchange.client));
            return;
        }
        self.waiting.push_back((line, exchange));
        self.settle(FOLLOWERS, ready, faults);
    }

    /// Nothing follows: what waits is judged by what is there.
    pub(super) fn finish(&mut self, ready: &mut VecDeque<Exchange>, faults: &mut Faults) {
        self.settle(0, ready, faults);
    }

    /// Judges what waits until one that is ahead has less than `followers` behind it.
    fn settle(&mut self, followers: usize, ready: &mut VecDeque<Exchange>, faults: &mut Faults) {
        while let Some((_, first)) = self.waiting.front() {
            let is_ahead = self.reached.is_none_or(|reached| first.start > reached + LEAP);
            if is_ahead && self.waiting.len() <= followers {
                return;
            }
            let reason = if is_ahead && !self.is_in_order() {
                Some(Reason::Future)
            } else {
                self.is_behind(first).then_some(Reason::OutOfOrder)
            };
            let Some((line, exchange)) = self.waiting.pop_front() else { return };
            if let Some(reason) = reason {
                faults.add(reason, line, &format_args!("start {}", exchange.start.as_secs_f64()));
                continue;
            }
            self.newest = self.newest.max(exchange.start);
            self.reached = self.reached.max(Some(end(&exchange)));
            ready.push_back(exchange);
        }
    }

    /// Whether the first that waits belongs to a row of them that is in order, and as long as any.
    fn is_in_order(&self) -> bool {
        let mut first = 0;
        let mut others = 0;
        let mut lengths: Vec<usize> = Vec::with_capacity(self.waiting.len());
        for (_, exchange) in self.waiting.iter().rev() {
            let later = self.waiting.iter().rev().zip(&lengths);
            let longest = later.filter(|((_, later), _)| exchange.start <= end(later) + SLACK);
            let length = longest.map(|(_, length)| *length).max().unwrap_or(0);
            others = others.max(first);
            // What is behind is left out whatever comes of the first.
            first = if self.is_behind(exchange) { 0 } else { length + 1 };
            lengths.push(first);
        }
        first >= others
    }

    fn is_behind(&self, exchange: &Exchange) -> bool {
        end(exchange) + SLACK < self.newest
    }

    /// Whether the same exchange was there before. Where several may be under way on one connection, two may well look
    /// the same.
    fn is_repeated(&mut self, exchange: &Exchange) -> bool {
        if matches!(exchange.protocol, Protocol::Http2 | Protocol::TlsHttp2 | Protocol::Quic) {
            return false;
        }
        let hash = FixedState::default().hash_one((
            (exchange.client, exchange.service, exchange.flow),
            (exchange.start, exchange.duration),
            (exchange.request_bytes, exchange.answer_bytes, exchange.records, exchange.record_median),
        ));
        let is_known = self.seen.get(hash).is_some();
        if !is_known {
            self.seen.insert(hash, ());
        }
        is_known
    }
}

fn end(exchange: &Exchange) -> Nanos {
    exchange.start + exchange.duration
}
