//! How surely a client keeps time, told from gap to gap.
//!
//! Page's CUSUM (1954) of the log-likelihood ratio between two ways of asking: at intervals that
//! scatter log-normally by `sigma` about their median, and without a beat of one's own: at random (exponential
//! gaps of the same median) or as people read and loops wait for answers (log-normal gaps that scatter by
//! [`UNSTEADY`]), whichever explains the gap better. One sum for each of four scatters, from a metronome to an agent that is told to jitter.
//! Each gap may also be an exception, so a night's pause costs little. A gap between two small answers of one size does
//! not count: a probe, or a library that tries again while the service answers with an error, learns nothing.
//!
//! A sum is evidence in nats: exp(sum) times likelier under regular asking since it last was zero.

use serde::{Deserialize, Serialize};

use crate::{
    Nanos,
    trail::{Mark, Trail},
};

/// Scatter of the four kinds of regularity.
const SIGMAS: [f64; 4] = [0.01, 0.03, 0.1, 0.3];

/// Scatter of gaps that nobody keeps even: people's reading times, loops that wait for answers and tools.
const UNSTEADY: f64 = 0.6;

/// Answers have one size when they differ by this share at most, and are small up to so many bytes.
const ONE_SIZE_SPREAD: f64 = 0.005;
const SMALL_ANSWER_BYTES: u32 = 4096;

/// Share of the gaps that may be anything.
const EXCEPTIONS: f64 = 0.05;

/// Gaps needed before their median means anything.
const LEAST_GAPS: usize = 11;

/// A gap counts as this many medians at most.
const MOST_MEDIANS: f64 = 8.0;

/// One client's sums.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cadence {
    sums: [Sum; SIGMAS.len()],
    /// Gaps that end here or before are in the sums.
    until: Nanos,
}

/// Evidence for one scatter.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) nats: f32,
    /// Gaps since it was zero.
    pub(crate) gaps: u32,
    /// Seconds that those lasted; an exception counts as a few medians.
    pub(crate) seconds: f32,
    /// When it was zero.
    pub(crate) since: Nanos,
}

impl Cadence {
    /// Takes in the gaps that no late exchange is likely to divide any more.
    pub(crate) fn feed(&mut self, trail: &Trail) {
        let settled = trail.len() - trail.len() / 16;
        let marks: Vec<&Mark> = trail.iter().take(settled).collect();
        let starts: Vec<Nanos> = marks.iter().map(|mark| mark.start).collect();
        let gaps: Vec<f64> = starts.windows(2).map(|pair| pair[1].since(pair[0]).as_secs_f64()).collect();
        if gaps.len() < LEAST_GAPS {
            return;
        }
        if self.until == Nanos::default() {
            self.sums = [Sum { since: starts[0], ..Sum::default() }; SIGMAS.len()];
        }
        let mut sorted = gaps.clone();
        let middle = sorted.len() / 2;
        let median = *sorted.select_nth_unstable_by(middle, f64::total_cmp).1;
        for (gap, pair) in gaps.iter().zip(marks.windows(2)) {
            let at = pair[1].start;
            if at > self.until {
                if !is_repeated(pair[0], pair[1]) {
                    self.add(*gap, median.max(1e-3), at);
                }
                self.until = at;
            }
        }
    }

    /// The scatter that is best supported, of those the filter lets pass, and its evidence.
    pub(crate) fn best(&self, passes: impl Fn(f64, &Sum) -> bool) -> Option<(f64, Sum)> {
        SIGMAS
            .into_iter()
            .zip(self.sums)
            .filter(|(sigma, sum)| passes(*sigma, sum))
            .max_by(|a, b| a.1.nats.total_cmp(&b.1.nats))
    }

    fn add(&mut self, gap: f64, median: f64, at: Nanos) {
        let seconds = gap.min(MOST_MEDIANS * median) as f32;
        for (sigma, sum) in SIGMAS.into_iter().zip(&mut self.sums) {
            let nats = sum.nats + ratio(gap / median, sigma) as f32;
            *sum = if nats > 0.0 {
                Sum {
                    nats,
                    gaps: sum.gaps.saturating_add(1),
                    seconds: sum.seconds + seconds,
                    since: sum.since,
                }
            } else {
                Sum { since: at, ..Sum::default() }
            };
        }
    }
}

/// Whether both answers are one small answer.
fn is_repeated(one: &Mark, other: &Mark) -> bool {
    let (less, more) = (one.answer_bytes.min(other.answer_bytes), one.answer_bytes.max(other.answer_bytes));
    more <= SMALL_ANSWER_BYTES && f64::from(more - less) <= ONE_SIZE_SPREAD * f64::from(more)
}

/// Log-likelihood ratio of one gap, in medians.
fn ratio(gap: f64, sigma: f64) -> f64 {
    let gap = gap.clamp(1e-4, MOST_MEDIANS);
    let rate = std::f64::consts::LN_2;
    let log_normal =
        |sigma: f64| (-0.5 * (gap.ln() / sigma).powi(2)).exp() / (gap * sigma * std::f64::consts::TAU.sqrt());
    let usual = (rate * (-rate * gap).exp()).max(log_normal(UNSTEADY));
    ((1.0 - EXCEPTIONS) * log_normal(sigma) / usual + EXCEPTIONS).ln()
}
