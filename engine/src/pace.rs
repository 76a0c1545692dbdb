//! How one client asked over the last ten to fifteen minutes, in sums that cost nothing to keep.
//!
//! Three spans of five minutes, the last one under way. Invariant: a gap counts in the span in which
//! its later request began, and the sums are those of the gaps between all requests known so far.
//! 144 bytes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Nanos, tokens,
    trail::{Mark, Neighbours},
};

const SPAN: Duration = Duration::from_mins(5);
const SPANS: usize = 3;

/// Gaps shorter than this are this long: clocks and batches cannot tell them apart.
const LEAST_GAP_S: f64 = 1e-4;

/// The spans of one client.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pace {
    spans: [Sums; SPANS],
}

/// Sums over some minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sums {
    /// Number of the span since the epoch; meaningless in a total.
    number: u32,
    pub(crate) requests: u32,
    gaps: u32,
    gap_s: f32,
    gap_ln: f32,
    request_ln: f32,
    request_ln_squared: f32,
    pub(crate) request_tokens: f32,
    pub(crate) answer_tokens: f32,
    busy_s: f32,
}

impl Pace {
    pub(crate) fn add(&mut self, mark: &Mark, beside: Neighbours) {
        let Some(sums) = self.span(mark.start) else { return };
        let request_ln = f64::from(mark.request_bytes.max(1)).ln() as f32;
        sums.requests += 1;
        sums.request_ln += request_ln;
        sums.request_ln_squared += request_ln * request_ln;
        sums.request_tokens += tokens::of_request(mark.request_bytes.into()) as f32;
        sums.answer_tokens += mark.tokens as f32;
        sums.busy_s += mark.duration_s() as f32;
        if let (Some(before), Some(after)) = (beside.before, beside.after) {
            self.gap(before, after, -1);
        }
        if let Some(before) = beside.before {
            self.gap(before, mark.start, 1);
        }
        if let Some(after) = beside.after {
            self.gap(mark.start, after, 1);
        }
    }

    /// Everything in the spans that end not before ten minutes ago.
    pub(crate) fn total(&self, now: Nanos) -> Sums {
        let current = number(now);
        let recent = |sums: &&Sums| sums.requests > 0 && sums.number + SPANS as u32 > current;
        self.spans.iter().filter(recent).fold(Sums::default(), |total, sums| total.plus(sums))
    }

    fn gap(&mut self, from: Nanos, to: Nanos, sign: i32) {
        let seconds = to.since(from).as_secs_f64();
        // A pause is no gap of the pace before it.
        if seconds > SPAN.as_secs_f64() {
            return;
        }
        let Some(sums) = self.span(to) else { return };
        sums.gaps = sums.gaps.saturating_add_signed(sign);
        sums.gap_s += sign as f32 * seconds as f32;
        sums.gap_ln += sign as f32 * seconds.max(LEAST_GAP_S).ln() as f32;
    }

    /// The span that `at` is in; nothing when it is over.
    fn span(&mut self, at: Nanos) -> Option<&mut Sums> {
        let number = number(at);
        let sums = &mut self.spans[number as usize % SPANS];
        if sums.number < number {
            *sums = Sums { number, ..Sums::default() };
        }
        (sums.number == number).then_some(sums)
    }
}

impl Sums {
    fn plus(&self, other: &Self) -> Self {
        Self {
            number: 0,
            requests: self.requests + other.requests,
            gaps: self.gaps + other.gaps,
            gap_s: self.gap_s + other.gap_s,
            gap_ln: self.gap_ln + other.gap_ln,
            request_ln: self.request_ln + other.request_ln,
            request_ln_squared: self.request_ln_squared + other.request_ln_squared,
            request_tokens: self.request_tokens + other.request_tokens,
            answer_tokens: self.answer_tokens + other.answer_tokens,
            busy_s: self.busy_s + other.busy_s,
        }
    }

    /// Tokens asked and answered, by what they cost, in tokens of a request.
    pub(crate) fn cost(&self) -> f64 {
        f64::from(self.request_tokens) + tokens::ANSWER_TO_REQUEST_PRICE * f64::from(self.answer_tokens)
    }

    /// Mean tokens of an answer.
    pub(crate) fn tokens_per_answer(&self) -> f64 {
        f64::from(self.answer_tokens) / f64::from(self.requests.max(1))
    }

    /// Standard deviation of the natural logarithm of the request size: 0.1 is about 10 %.
    pub(crate) fn request_spread(&self) -> f64 {
        let requests = f64::from(self.requests.max(1));
        let mean = f64::from(self.request_ln) / requests;
        (f64::from(self.request_ln_squared) / requests - mean * mean).max(0.0).sqrt()
    }

    /// Mean time that an answer takes.
    pub(crate) fn seconds_per_answer(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.busy_s.max(0.0)) / f64::from(self.requests.max(1)))
    }

    /// Mean number of requests in progress.
    pub(crate) fn concurrency(&self) -> f64 {
        f64::from(self.busy_s) / f64::from(self.gap_s).max(1.0)
    }

    /// Seconds between the first and the last request, without pauses.
    pub(crate) fn seconds(&self) -> f64 {
        f64::from(self.gap_s)
    }

    /// Evidence, in nats, that requests do not come at random but from a pool of workers that never
    /// rests: the gaps' log-likelihood ratio between the gamma distribution that fits best and the
    /// exponential one of the same mean; 0 when they are no more even than random.
    ///
    /// The shape is Minka's closed-form estimate (2002) from the mean and the mean logarithm, the
    /// divergence by Stirling's series: half a percent off at worst for shapes of 1 and more.
    pub(crate) fn evenness(&self) -> f64 {
        let gaps = f64::from(self.gaps);
        let mean = f64::from(self.gap_s) / gaps;
        if self.gaps < 2 || mean <= LEAST_GAP_S {
            return 0.0;
        }
        let s = (mean.ln() - f64::from(self.gap_ln) / gaps).max(1e-6);
        let shape = (3.0 - s + ((s - 3.0).powi(2) + 24.0 * s).sqrt()) / (12.0 * s);
        if shape <= 1.0 {
            return 0.0;
        }
        let divergence = 0.5 * shape.ln() - 0.4189 + 1.0 / (3.0 * shape) + 1.0 / (12.0 * shape * shape);
        gaps * divergence.max(0.0)
    }
}

fn number(at: Nanos) -> u32 {
    (at.0 / SPAN.as_nanos() as u64) as u32
}
