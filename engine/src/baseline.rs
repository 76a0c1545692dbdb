//! What is usual: for one client, for all clients, for one service.
//!
//! Values go in one by one; medians, spreads and quantiles come out. Everything is robust (a few
//! wild values move nothing), bounded in memory, and forgets: a client's own past by halves, the
//! votes of other clients after a day without news.
//!
//! Invariant: a client is never part of the norm it is judged by, and while it has an open anomaly
//! it does not feed its own baseline (the engine sees to that).

use std::{collections::BTreeMap, time::Duration};

use crate::{ClientId, Nanos};

/// Scales a MAD to the standard deviation it implies for normal values.
const MAD_TO_SIGMA: f64 = 1.4826;

/// Median and median absolute deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) mad: f64,
}

impl Spread {
    /// Of `values` in any order; `None` without one.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        let median = median_in_place(&mut values)?;
        for value in &mut values {
            *value = (*value - median).abs();
        }
        Some(Self { median, mad: median_in_place(&mut values)? })
    }

    /// How many robust standard deviations `value` is above the median. Baselines that hardly vary
    /// are taken to vary by `least`, so that the figure stays finite and sober.
    pub(crate) fn deviation(&self, value: f64, least: f64) -> f64 {
        (value - self.median) / (MAD_TO_SIGMA * self.mad).max(least).max(f64::MIN_POSITIVE)
    }
}

/// A client's own past: how many requests it sent in a minute, over the minutes in which it sent any.
///
/// A histogram of 4 buckets an octave (values are right within 10 %), 288 bytes.
#[derive(Clone, Debug)]
pub(crate) struct OwnPast {
    weights: [f32; BUCKETS],
    /// When the weights were last halved towards 0.
    faded: Nanos,
}

const BUCKETS: usize = 68;
const PER_OCTAVE: f64 = 4.0;

/// After this long a minute counts half.
const HALF_LIFE: Duration = Duration::from_hours(7 * 24);

impl OwnPast {
    pub(crate) fn new() -> Self {
        Self { weights: [0.0; BUCKETS], faded: Nanos::default() }
    }

    /// Takes in a minute that ended at `end` with `requests` requests.
    pub(crate) fn feed(&mut self, end: Nanos, requests: u64) {
        let fade = (-end.since(self.faded).as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2() as f32;
        for weight in &mut self.weights {
            *weight *= fade;
        }
        self.faded = end;
        self.weights[bucket(requests as f64)] += 1.0;
    }

    /// Minutes it rests on, faded ones counted in part.
    pub(crate) fn minutes(&self) -> f64 {
        f64::from(self.weights.iter().sum::<f32>())
    }

    /// The requests that a share of `quantile` of the minutes did not exceed; `None` without any.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<f64> {
        let wanted = quantile.clamp(0.0, 1.0) * self.minutes();
        let mut below = 0.0;
        let mut reached = None;
        for (bucket, weight) in self.weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            below += f64::from(*weight);
            reached = Some(value(bucket));
            if below >= wanted {
                break;
            }
        }
        reached
    }

    /// Median and an estimate of the MAD (half the distance between the quartiles).
    pub(crate) fn spread(&self) -> Option<Spread> {
        let (low, median, high) = (self.quantile(0.25)?, self.quantile(0.5)?, self.quantile(0.75)?);
        Some(Spread { median, mad: (high - low) / 2.0 })
    }
}

/// One vote a client on what is usual. Holds the [`MAX_VOTERS`] clients whose hashes are lowest,
/// a fair sample however many vote: at most 1,024 x 48 bytes and the sorted copy, about 60 KB.
#[derive(Debug, Default)]
pub(crate) struct Votes {
    by_hash: BTreeMap<(u64, ClientId), Vote>,
    sorted: Vec<f64>,
    /// Whether `sorted` is behind `by_hash`.
    stale: bool,
}

#[derive(Clone, Copy, Debug)]
struct Vote {
    value: f64,
    cast: Nanos,
}

const MAX_VOTERS: usize = 1024;

/// A client that has not voted for this long no longer counts.
const VOTE_LIFE: Duration = Duration::from_hours(24);

impl Votes {
    /// Casts or replaces the vote of `client`.
    pub(crate) fn cast(&mut self, client: ClientId, value: f64, now: Nanos) {
        self.by_hash.insert((client.stable_hash(), client), Vote { value, cast: now });
        if self.by_hash.len() > MAX_VOTERS {
            self.by_hash.pop_last();
        }
        self.stale = true;
    }

    /// Takes back the vote of `client`.
    pub(crate) fn withdraw(&mut self, client: ClientId) {
        self.stale |= self.by_hash.remove(&(client.stable_hash(), client)).is_some();
    }

    /// Makes votes cast since the last call count, and forgets old ones.
    pub(crate) fn settle(&mut self, now: Nanos) {
        if !self.stale {
            return;
        }
        self.by_hash.retain(|_, vote| now.since(vote.cast) <= VOTE_LIFE);
        self.sorted = self.by_hash.values().map(|vote| vote.value).collect();
        self.sorted.sort_by(f64::total_cmp);
        self.stale = false;
    }

    /// The settled votes of everyone but `client`, ascending.
    pub(crate) fn without(&self, client: ClientId) -> Others<'_> {
        let own = self.by_hash.get(&(client.stable_hash(), client));
        // A vote cast since the last settling is not among the sorted, and then nothing is left out.
        let skip = own.and_then(|vote| self.sorted.binary_search_by(|held| held.total_cmp(&vote.value)).ok());
        Others { sorted: &self.sorted, skip }
    }
}

/// Votes with one left out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Others<'a> {
    sorted: &'a [f64],
    skip: Option<usize>,
}

impl Others<'_> {
    pub(crate) fn len(&self) -> usize {
        self.sorted.len() - usize::from(self.skip.is_some())
    }

    /// The vote that a share of `quantile` does not exceed (nearest rank); `None` without votes.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<f64> {
        let last = self.len().checked_sub(1)?;
        Some(self.at((quantile.clamp(0.0, 1.0) * last as f64).round() as usize))
    }

    /// The median; `None` without votes.
    pub(crate) fn median(&self) -> Option<f64> {
        let last = self.len().checked_sub(1)?;
        Some(self.at(last / 2).midpoint(self.at(last.div_ceil(2))))
    }

    /// Median and MAD; visits every vote.
    pub(crate) fn spread(&self) -> Option<Spread> {
        Spread::of((0..self.len()).map(|rank| self.at(rank)).collect())
    }

    fn at(&self, rank: usize) -> f64 {
        self.sorted[rank + usize::from(self.skip.is_some_and(|skip| rank >= skip))]
    }
}

fn bucket(value: f64) -> usize {
    ((value.max(1.0).log2() * PER_OCTAVE).round() as usize).min(BUCKETS - 1)
}

fn value(bucket: usize) -> f64 {
    (bucket as f64 / PER_OCTAVE).exp2()
}

fn median_in_place(values: &mut [f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let middle = values.len() / 2;
    let is_odd = values.len() % 2 == 1;
    let (lower, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if is_odd {
        return Some(*upper);
    }
    lower.iter().copied().max_by(f64::total_cmp).map(|lower| lower.midpoint(*upper))
}
