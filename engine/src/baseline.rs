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

/// Hill's index is not taken to be below this: with it, the tail halves every 3.5 %.
const LEAST_TAIL_INDEX: f64 = 0.05;

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
}

/// One vote a client on what is usual. Holds the [`MAX_VOTERS`] clients whose hashes are lowest,
/// a fair sample however many vote: at most 1,024 x 48 bytes and the sorted copy, about 60 KB.
#[derive(Debug, Default)]
pub(crate) struct Votes {
    by_hash: BTreeMap<(u64, ClientId), Vote>,
    sorted: Vec<f64>,
    /// Whether `sorted` is behind `by_hash`.
    stale: bool,
    settled: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Vote {
    value: f64,
    cast: Nanos,
}

const MAX_VOTERS: usize = 1024;

/// A client that has not voted for this long no longer counts.
const VOTE_LIFE: Duration = Duration::from_hours(24);

/// With so many voters a new vote moves little, and counts five minutes later at most.
const MANY_VOTERS: usize = 64;
const SETTLE_EVERY: Duration = Duration::from_mins(5);

/// Voters needed before their tail is believed.
const TAIL_VOTERS: usize = 20;

/// The share of the voters that make the tail.
const TAIL_SHARE: f64 = 0.1;

impl Votes {
    /// Casts or replaces the vote of `client`.
    pub(crate) fn cast(&mut self, client: ClientId, value: f64, now: Nanos) {
        let key = (client.stable_hash(), client);
        if !self.is_beyond(&key) {
            self.put(key, Vote { value, cast: now });
        }
    }

    /// Casts `value` unless `client` has a higher vote that still counts.
    pub(crate) fn raise(&mut self, client: ClientId, value: f64, now: Nanos) {
        let key = (client.stable_hash(), client);
        if self.is_beyond(&key) {
            return;
        }
        let is_held = |vote: &Vote| vote.value >= value && now.since(vote.cast) <= VOTE_LIFE;
        if !self.by_hash.get(&key).is_some_and(is_held) {
            self.put(key, Vote { value, cast: now });
        }
    }

    /// Whether there are enough voters with lower hashes.
    fn is_beyond(&self, key: &(u64, ClientId)) -> bool {
        self.by_hash.len() == MAX_VOTERS && self.by_hash.last_key_value().is_some_and(|(last, _)| last < key)
    }

    fn put(&mut self, key: (u64, ClientId), vote: Vote) {
        self.by_hash.insert(key, vote);
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
        let is_soon = self.sorted.len() >= MANY_VOTERS && now.since(self.settled) < SETTLE_EVERY;
        if !self.stale || is_soon && now >= self.settled {
            return;
        }
        self.settled = now;
        self.by_hash.retain(|_, vote| now.since(vote.cast) <= VOTE_LIFE);
        self.sorted = self.by_hash.values().map(|vote| vote.value).collect();
        self.sorted.sort_unstable_by(f64::total_cmp);
        self.stale = false;
    }

    /// The settled votes, ascending.
    pub(crate) fn everyone(&self) -> Others<'_> {
        Others { sorted: &self.sorted, skip: None }
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

    /// How unusual a positive `value` is, in nats: the negative logarithm of the share of voters
    /// that reach it. Beyond the highest tenth the share is that of a Pareto tail with Hill's index
    /// (1975). Without enough voters, no more than they can vouch for.
    pub(crate) fn surprise(&self, value: f64) -> f64 {
        let count = self.len();
        let reach = (0..count).rev().take_while(|rank| self.at(*rank) >= value).count();
        let counted = ((count + 1) as f64 / (reach + 1) as f64).ln();
        if count < TAIL_VOTERS || reach as f64 > TAIL_SHARE * count as f64 {
            return counted;
        }
        let (base, excesses) = self.tail();
        let base = base.max(f64::MIN_POSITIVE).ln();
        let index = excesses.map(|value| value.ln() - base).sum::<f64>() / (TAIL_SHARE * count as f64);
        -TAIL_SHARE.ln() + (value.ln() - base) / index.max(LEAST_TAIL_INDEX)
    }

    /// The evidence, in nats, that a share of `share` of the voters exceed: beyond the highest tenth
    /// by an exponential tail, the peaks-over-threshold method of Siffer et al. (KDD 2017) with the
    /// shape held at 0. The tail's scale is its mean excess, and `scale` at least.
    pub(crate) fn threshold(&self, share: f64, scale: f64) -> f64 {
        let (base, mean) = if self.len() < TAIL_VOTERS {
            (0.0, 0.0)
        } else {
            let (base, votes) = self.tail();
            let count = TAIL_SHARE * self.len() as f64;
            (base, votes.map(|vote| vote - base).sum::<f64>() / count)
        };
        base + mean.max(scale) * (TAIL_SHARE / share).ln().max(0.0)
    }

    /// Where the highest tenth begins, and its votes.
    fn tail(&self) -> (f64, impl Iterator<Item = f64> + '_) {
        let count = self.len();
        let first = ((1.0 - TAIL_SHARE) * count as f64) as usize;
        (self.at(first.min(count - 1)), (first..count).map(|rank| self.at(rank)))
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

/// The median, the mean of the two middle values of an even count; reorders the values. `None` without any.
pub(crate) fn median_in_place(values: &mut [f64]) -> Option<f64> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(n: u32) -> ClientId {
        ClientId::V4(std::net::Ipv4Addr::from_bits(n))
    }

    proptest! {
        #[test]
        fn the_spread_is_the_median_and_the_median_distance(mut values in prop::collection::vec(-1e6..1e6_f64, 1..50)) {
            let spread = Spread::of(values.clone()).unwrap();
            let middle = |values: &mut Vec<f64>| {
                values.sort_by(f64::total_cmp);
                f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
            };
            let median = middle(&mut values);
            let mad = middle(&mut values.iter().map(|value| (value - median).abs()).collect());
            prop_assert!((spread.median - median).abs() < 1e-6 && (spread.mad - mad).abs() < 1e-6);
        }

        #[test]
        fn quantiles_of_the_own_past_are_right_within_a_tenth(
            mut minutes in prop::collection::vec(1..100_000_u64, 1..200), quantile in 0.0..=1.0_f64,
        ) {
            let mut past = OwnPast::new();
            for requests in &minutes {
                past.feed(Nanos(0), *requests);
            }
            minutes.sort_unstable();
            let is = past.quantile(quantile).unwrap();
            // Rounding of the wanted share may land on a neighbour.
            let rank = quantile * minutes.len() as f64;
            let near = |at: f64| minutes[(at.max(1.0) as usize - 1).min(minutes.len() - 1)] as f64;
            prop_assert!(is >= near((rank - 1.0).floor()) * 0.9 && is <= near((rank + 1.0).ceil()) * 1.1);
        }

        #[test]
        fn a_client_is_never_part_of_the_norm_it_is_judged_by(
            values in prop::collection::vec(1..20_u32, 1..60), judged in 0..60_u32,
        ) {
            let mut votes = Votes::default();
            for (n, value) in values.iter().enumerate() {
                votes.cast(client(n as u32), f64::from(*value), Nanos(0));
            }
            votes.settle(Nanos(0));
            let others: Vec<f64> = values
                .iter()
                .enumerate()
                .filter(|(n, _)| *n as u32 != judged)
                .map(|(_, value)| f64::from(*value))
                .collect();
            let is = votes.without(client(judged));
            prop_assert_eq!(is.len(), others.len());
            prop_assert_eq!(is.median(), Spread::of(others.clone()).map(|spread| spread.median));
            prop_assert_eq!(is.spread(), Spread::of(others));
        }

        #[test]
        fn any_time_and_value_is_survived(feeds in prop::collection::vec((any::<u64>(), any::<u64>()), 0..50)) {
            let mut past = OwnPast::new();
            for (end, requests) in feeds {
                past.feed(Nanos(end), requests);
                prop_assert!(past.minutes().is_finite() && past.quantile(0.99).is_some_and(f64::is_finite));
            }
        }
    }

    #[test]
    fn old_minutes_fade_and_old_votes_are_forgotten() {
        let mut past = OwnPast::new();
        past.feed(Nanos(0), 1000);
        past.feed(Nanos(0) + HALF_LIFE * 10, 10);
        assert!(past.quantile(0.9).unwrap() < 20.0);

        let mut votes = Votes::default();
        votes.cast(client(1), 5.0, Nanos(0));
        votes.cast(client(2), 7.0, Nanos(0) + VOTE_LIFE);
        votes.settle(Nanos(1) + VOTE_LIFE);
        assert_eq!(votes.without(client(3)).len(), 1);
    }

    #[test]
    fn votes_are_bounded_and_can_be_withdrawn() {
        let mut votes = Votes::default();
        for n in 0..3000 {
            votes.cast(client(n), f64::from(n), Nanos(0));
        }
        votes.settle(Nanos(0));
        let outsider = ClientId::from(std::net::IpAddr::from([0; 16]));
        assert_eq!(votes.without(outsider).len(), MAX_VOTERS);
        for n in 0..3000 {
            votes.withdraw(client(n));
        }
        votes.settle(Nanos(0) + SETTLE_EVERY);
        assert_eq!((votes.without(outsider).len(), votes.without(outsider).median()), (0, None));
    }
}
