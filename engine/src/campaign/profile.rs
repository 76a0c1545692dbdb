//! What a client's exchanges look like, whoever sends them: how clients are compared.
//!
//! The core of a trail is the densest two fifths of its requests by size. A profile is the core's typical request, its
//! answers, their speed and their records, on a logarithmic scale: unrelated requests mixed in, even as many again,
//! do not move it.

use serde::{Deserialize, Serialize};

use crate::trail::{Digest, Mark, Trail, quantile};

/// Exchanges before a profile means anything.
pub(crate) const LEAST_EXCHANGES: usize = 12;

/// The share of the requests that make the core.
const CORE: f64 = 0.4;

/// Bytes of an answer, and its spread, below which it teaches nothing: a probe's.
const LEAST_ANSWER_SPREAD: f32 = 0.03;
const PROBE_ANSWER_BYTES: f64 = 4096.0;

/// A client's typical exchange: 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// Hash of the TLS stack.
    pub(crate) stack: u32,
    /// Typical sizes and speed, log2 of bytes and of bytes a second.
    pub(crate) request: f32,
    pub(crate) answer: f32,
    speed: f32,
    /// Log2 of the bytes of a server record of a stream; 0 when answers are not streamed.
    record: f32,
    /// Whether one small exchange is repeated: nothing is learnt by it.
    pub(crate) repeats: bool,
}

impl Profile {
    /// Of the last exchanges; `None` while there are too few.
    pub(crate) fn of(trail: &Trail, digest: &Digest, stack: u32) -> Option<Self> {
        if trail.len() < LEAST_EXCHANGES {
            return None;
        }
        let requests = &digest.request_bytes;
        let (low, high) = densest(requests);
        let core = |value: fn(&Mark) -> f64| {
            let mut values: Vec<f64> = trail
                .iter()
                .filter(|mark| (low..=high).contains(&f64::from(mark.request_bytes)))
                .map(value)
                .collect();
            values.sort_unstable_by(f64::total_cmp);
            values
        };
        let answers = core(|mark| mark.answer_bytes.into());
        let records = core(|mark| mark.record_bytes.into());
        let answer_spread = log2(quantile(&answers, 0.9)) - log2(quantile(&answers, 0.1));
        let request_spread = log2(quantile(requests, 0.9)) - log2(quantile(requests, 0.1));
        Some(Self {
            stack,
            request: log2(low).midpoint(log2(high)),
            answer: log2(quantile(&answers, 0.5)),
            speed: log2(quantile(&core(Mark::speed), 0.5)),
            record: log2(quantile(&records, 0.5)),
            repeats: answer_spread < LEAST_ANSWER_SPREAD
                && request_spread < 5.0 * LEAST_ANSWER_SPREAD
                && quantile(&answers, 0.5) <= PROBE_ANSWER_BYTES,
        })
    }

    /// How different two clients are: the largest difference of their figures, in octaves. 0.1 means that sizes
    /// differ by 7 %. Speed, which depends on the service's load, counts two thirds; records, which
    /// depend on it not at all, twice. Another stack is infinitely far.
    pub(crate) fn distance(&self, other: &Self) -> f32 {
        if self.stack != other.stack || self.repeats != other.repeats {
            return f32::INFINITY;
        }
        [
            self.request - other.request,
            self.answer - other.answer,
            (self.speed - other.speed) / 1.5,
            (self.record - other.record) * 2.0,
        ]
        .into_iter()
        .fold(0.0, |most, difference| most.max(difference.abs()))
    }

    /// Moves a share of the way towards `other`.
    pub(crate) fn approach(&mut self, other: &Self, share: f32) {
        for (held, new) in [
            (&mut self.request, other.request),
            (&mut self.answer, other.answer),
            (&mut self.speed, other.speed),
            (&mut self.record, other.record),
        ] {
            *held += (new - *held) * share;
        }
    }
}

/// The bounds of the shortest interval that holds [`CORE`] of the ascending values.
fn densest(sorted: &[f64]) -> (f64, f64) {
    let inside = ((sorted.len() as f64 * CORE).ceil() as usize).max(2);
    sorted
        .windows(inside)
        .map(|window| (window[0], window[inside - 1]))
        .min_by(|a, b| (a.1 / a.0.max(1.0)).total_cmp(&(b.1 / b.0.max(1.0))))
        .unwrap_or_default()
}

fn log2(value: f64) -> f32 {
    value.max(1.0).log2() as f32
}
