//! Whether an answer was ended by a cap (`max_tokens`), as far as the lengths of a client's answers tell.
//!
//! Nothing on the wire says why an answer ends. But of answers that end by themselves there are the fewer the longer they
//! are, while those that a cap ends pile up at the greatest length. So the answers that are nearly as long as the longest
//! are held against those that are shorter by as much again: where the former are far more, a cap is what ends
//! them. What is compared is from one service, and in tokens as [`tokens`](crate::tokens) estimates them, which is
//! why *nearly* is a fifth: answers of one number of tokens differ by that in records or bytes.
//!
//! Known errors: answers that have one length by nature, such as forms, look cut off. A cap that changes from request to request
//! does not show.

use std::collections::{BTreeMap, VecDeque};

use crate::{Accuracy, Ending, Exchange, Service, tokens, trail::divergence};

/// Tells of each of these exchanges, which are one client's, whether a cap ended its answer.
pub fn tell_truncated(exchanges: &mut [Exchange]) {
    let mut known = BTreeMap::<(Service, AnswerKind), AnswerLengths>::new();
    for exchange in exchanges.iter() {
        if let Some(kind) = AnswerKind::of(exchange) {
            known.entry((exchange.service, kind)).or_default().add(exchange);
        }
    }
    for exchange in exchanges {
        let lengths = AnswerKind::of(exchange).and_then(|kind| known.get(&(exchange.service, kind)));
        exchange.truncated = lengths.and_then(|lengths| lengths.is_truncated(exchange));
    }
}

/// Answers that are kept.
const MAX_LENGTHS: usize = 64;

/// Fewer answers say nothing.
const LEAST_ANSWERS: usize = 8;

/// When the longest streamed answer has fewer tokens, one that is cut off and a short one look the same.
const LEAST_STREAMED_TOKENS: u32 = 32;

/// Likewise of whole answers, most of whose bytes are then not text.
const LEAST_WHOLE_TOKENS: u32 = 200;

/// Answers within this share of the longest are nearly as long.
const NEARLY: f64 = 0.2;

/// Of the answers near the longest and those in the band below, the former have at least this share where a cap ends them.
const LEAST_SHARE: f64 = 0.8;

/// How much likelier the pile is under a cap than if answers were as many in both bands: twenty to one, nats.
const LEAST_NATS: f64 = 3.0;

/// The lengths of the last answers of one client, of one service and one [`AnswerKind`].
#[derive(Clone, Debug, Default)]
pub struct AnswerLengths(VecDeque<u32>);

/// How lengths are measured: those of different kinds cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnswerKind {
    /// In server records, nearly one a token.
    Streamed,
    /// In bytes.
    Whole,
}

impl AnswerKind {
    /// The kind of an answer; `None` where its length says nothing about caps: it was cut short, or is an estimate.
    pub fn of(exchange: &Exchange) -> Option<Self> {
        if exchange.ending == Ending::Aborted || exchange.accuracy == Accuracy::Estimated {
            return None;
        }
        Some(if tokens::is_streamed(exchange) { Self::Streamed } else { Self::Whole })
    }
}

impl AnswerLengths {
    /// Takes in an answer.
    pub fn add(&mut self, exchange: &Exchange) {
        if self.0.len() == MAX_LENGTHS {
            self.0.pop_front();
        }
        self.0.push_back(length(exchange));
    }

    /// Whether an answer was ended by a cap; `None` when too little is known to say.
    pub fn is_truncated(&self, exchange: &Exchange) -> Option<bool> {
        let longest = self.0.iter().copied().max()?;
        let least = if tokens::is_streamed(exchange) { LEAST_STREAMED_TOKENS } else { LEAST_WHOLE_TOKENS };
        if self.0.len() < LEAST_ANSWERS || longest < least {
            return None;
        }
        let top = f64::from(longest) * (1.0 - NEARLY);
        let below = top * (1.0 - NEARLY);
        let count = |from: f64| self.0.iter().filter(|length| f64::from(**length) >= from).count() as f64;
        let (piled, both) = (count(top), count(below));
        let share = piled / both;
        let has_cap = share >= LEAST_SHARE && both * divergence(share, 0.5) >= LEAST_NATS;
        Some(has_cap && f64::from(length(exchange)) >= top)
    }
}

/// Tokens of the answer, nearly.
fn length(exchange: &Exchange) -> u32 {
    tokens::of_answer(exchange) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_exchange;

    fn answer(records: u32) -> Exchange {
        Exchange { records, ..test_exchange() }
    }

    fn truncated(lengths: impl IntoIterator<Item = u32>) -> Vec<Option<bool>> {
        let answers: Vec<_> = lengths.into_iter().map(answer).collect();
        let mut known = AnswerLengths::default();
        for answer in &answers {
            known.add(answer);
        }
        answers.iter().map(|answer| known.is_truncated(answer)).collect()
    }

    #[test]
    fn answers_that_pile_up_at_the_longest_were_cut_off_and_shorter_ones_were_not() {
        let lengths = [256, 250, 31, 256, 240, 256, 251, 120, 256, 249, 256];
        let expected = lengths.map(|length| Some(length >= 240));
        assert_eq!(truncated(lengths), expected);
    }

    #[test]
    fn answers_that_thin_out_towards_the_longest_end_by_themselves() {
        // Quantiles of an exponential distribution, and of one that is far narrower.
        let exponential = (1..64).map(|n| (-200.0 * (f64::from(n) / 64.0).ln()) as u32 + 8);
        assert!(truncated(exponential).iter().all(|truncated| *truncated == Some(false)));
        let narrow = (1..64).map(|n| (300.0 - 40.0 * (f64::from(n) / (64.0 - f64::from(n))).ln()) as u32);
        assert!(truncated(narrow).iter().all(|truncated| *truncated == Some(false)));
    }

    #[test]
    fn of_few_or_short_answers_nothing_is_said() {
        assert_eq!(truncated([256; LEAST_ANSWERS - 1]), [None; LEAST_ANSWERS - 1]);
        assert_eq!(truncated([LEAST_STREAMED_TOKENS - 1; 20]), [None; 20]);
        let whole = Exchange { answer_bytes: 1200, ..answer(1) };
        assert_eq!(AnswerLengths(VecDeque::from([150; 20])).is_truncated(&whole), None);
        assert_eq!(AnswerKind::of(&Exchange { ending: Ending::Aborted, ..answer(256) }), None);
    }

    #[test]
    fn only_the_last_answers_count() {
        let mut known = AnswerLengths::default();
        for length in [9000; 8].into_iter().chain([256; MAX_LENGTHS]) {
            known.add(&answer(length));
        }
        assert_eq!((known.0.len(), known.is_truncated(&answer(256))), (MAX_LENGTHS, Some(true)));
    }
}
