//! What is usual: for one client, for all clients, for one service.
//!
//! Values go in one by one; medians, spreads and quantiles come out. Everything is robust (a few
//! wild values move nothing), bounded in memory, and forgets: a client's own past in steps, the
//! votes of other clients after a day without news.
//!
//! Invariant: a client is never part of the norm it is judged by, and while it has an open anomaly
//! it does not feed its own baseline (the engine sees to that).

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

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

/// A client's own past by the time of day: for each hour, how busy its busiest minute usually is. 56 bytes.
///
/// The first day's level is taken as it is, of the first two the lower one, and from then on it moves towards each
/// day's by a factor of 1.4 at most: whoever wants to be used to twice as much has to ask for it two days longer, and
/// not be suspected meanwhile. An hour is known once it was seen on two days; until then the other clients alone say
/// what is usual. Hours are those of UTC, and the neighbours of an hour count with it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OwnPast {
    /// Buckets of [`PER_OCTAVE`].
    levels: [u8; HOURS],
    /// Days on which there was any.
    days: [u8; HOURS],
    /// The hour under way, since the epoch, and the bucket of its busiest minute so far, plus one; 0 when it does not count.
    hour: u32,
    busiest: u8,
}

const HOURS: usize = 24;
const HOUR: u64 = 3_600_000_000_000;

/// Values are right within 10 %.
const PER_OCTAVE: f64 = 4.0;

/// How far a level moves in a day, buckets.
const STEP: u8 = 2;

/// Days that must be known.
const DAYS_TO_KNOW: u8 = 2;

/// After so many hours of silence nothing is known of a client: two weeks.
const FORGOTTEN_AFTER: u32 = 14 * HOURS as u32;

impl OwnPast {
    /// Takes in a minute that began at `start` with `requests` requests.
    pub(crate) fn feed(&mut self, start: Nanos, requests: u64) {
        self.advance(start);
        self.busiest = self.busiest.max(bucket(requests as f64) + 1);
    }

    /// Learns from the hour before that of `now`, if it has not.
    pub(crate) fn advance(&mut self, now: Nanos) {
        let hour = (now.0 / HOUR) as u32;
        if hour != self.hour {
            self.close();
            if hour.abs_diff(self.hour) > FORGOTTEN_AFTER {
                *self = Self::default();
            }
            self.hour = hour;
        }
    }

    /// The hour under way does not count: the client is under suspicion.
    pub(crate) fn interrupt(&mut self) {
        self.busiest = 0;
    }

    /// Requests of the client's busiest minute at this time of the day, as its earlier days have it; `None` while those are
    /// too few.
    pub(crate) fn usual(&self, now: Nanos) -> Option<f64> {
        let hour = now.0 / HOUR + HOURS as u64;
        let around = [hour - 1, hour, hour + 1].map(|hour| (hour % HOURS as u64) as usize);
        let known = around.into_iter().filter(|hour| self.days[*hour] >= DAYS_TO_KNOW);
        known.map(|hour| self.levels[hour]).max().map(value)
    }

    /// The busiest minute of the hour under way, as far as it counts.
    #[cfg(test)]
    pub(crate) fn under_way(&self) -> Option<f64> {
        self.busiest.checked_sub(1).map(value)
    }

    /// Learns from the hour that is over.
    fn close(&mut self) {
        let Some(seen) = std::mem::take(&mut self.busiest).checked_sub(1) else { return };
        let at = self.hour as usize % HOURS;
        let level = &mut self.levels[at];
        *level = match self.days[at] {
            0 => seen,
            1 => seen.min(*level),
            _ => seen.clamp(level.saturating_sub(STEP), level.saturating_add(STEP)),
        };
        self.days[at] = self.days[at].saturating_add(1);
    }
}

fn bucket(value: f64) -> u8 {
    // One less than fits, so that one more does.
    (value.max(1.0).log2() * PER_OCTAVE).round().min(254.0) as u8
}

fn value(bucket: u8) -> f64 {
    (f64::from(bucket) / PER_OCTAVE).exp2()
}

/// One vote a client on what is usual. Holds the [`MAX_VOTERS`] clients whose hashes are lowest,
/// a fair sample however many vote: at most 1,024 x 64 bytes and the sorted copy, about 75 KB.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Votes {
    by_hash: BTreeMap<(u64, ClientId), Vote>,
    sorted: Vec<f64>,
    /// Whether `sorted` is behind `by_hash`.
    stale: bool,
    settled: Nanos,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Vote {
    value: f64,
    cast: Nanos,
    /// The value that is among the sorted, if any is.
    settled: Option<f64>,
}

const MAX_VOTERS: usize = 1024;

/// A client that has not voted for this long no longer counts.
const VOTE_LIFE: Duration = Duration::from_hours(24);

/// With so many voters a new vote moves little, and counts five minutes later at most.
const MANY_VOTERS: usize = 64;
const SETTLE_EVERY: Duration = Duration::from_mins(5);

/// Voters needed before their tail is believed.
const TAIL_VOTERS: usize = 20;

/// Voters beyond a quantile that make it one that is counted.
const BEYOND: f64 = 2.0;

/// The share of the voters that make the tail.
const TAIL_SHARE: f64 = 0.1;

impl Votes {
    /// Casts or replaces the vote of `client`.
    pub(crate) fn cast(&mut self, client: ClientId, value: f64, now: Nanos) {
        let key = (client.stable_hash(), client);
        if !self.is_beyond(&key) {
            self.put(key, value, now);
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
            self.put(key, value, now);
        }
    }

    /// Whether there are enough voters with lower hashes.
    fn is_beyond(&self, key: &(u64, ClientId)) -> bool {
        self.by_hash.len() == MAX_VOTERS && self.by_hash.last_key_value().is_some_and(|(last, _)| last < key)
    }

    fn put(&mut self, key: (u64, ClientId), value: f64, now: Nanos) {
        let vote = self.by_hash.entry(key).or_insert(Vote { value, cast: now, settled: None });
        (vote.value, vote.cast) = (value, now);
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
        self.by_hash.values_mut().for_each(|vote| vote.settled = Some(vote.value));
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
        // The client may have voted anew since the last settling, or for the first time.
        let own = self.by_hash.get(&(client.stable_hash(), client)).and_then(|vote| vote.settled);
        let skip = own.and_then(|value| self.sorted.binary_search_by(|held| held.total_cmp(&value)).ok());
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
        let (base, index) = self.pareto();
        -TAIL_SHARE.ln() + (value.ln() - base) / index
    }

    /// The vote that a share of `share`, of a tenth at most, exceeds; from the same tail where fewer than [`BEYOND`] voters would
    /// be beyond it, and the highest few are chance. `None` without enough voters.
    pub(crate) fn extreme(&self, share: f64) -> Option<f64> {
        if self.len() < TAIL_VOTERS {
            return None;
        }
        if self.len() as f64 * share >= BEYOND {
            return self.quantile(1.0 - share);
        }
        let (base, index) = self.pareto();
        Some((base + index * (TAIL_SHARE / share).ln()).exp())
    }

    /// Logarithm of where the highest tenth begins, and Hill's index of it.
    fn pareto(&self) -> (f64, f64) {
        let (base, votes) = self.tail();
        let base = base.max(f64::MIN_POSITIVE).ln();
        let index = votes.map(|vote| vote.ln() - base).sum::<f64>() / (TAIL_SHARE * self.len() as f64);
        (base, index.max(LEAST_TAIL_INDEX))
    }

    /// The evidence, in nats, that a share of `share` of the voters exceed: beyond the highest tenth
    /// by an exponential tail, the peaks-over-threshold method of Siffer et al. (KDD 2017) with the
    /// shape held at 0. The tail's scale is its mean excess, and `scale` at least. Votes of a part of a day, `covered`, are
    /// exceeded by so much less.
    pub(crate) fn threshold(&self, share: f64, covered: f64, scale: f64) -> f64 {
        let (base, mean, share) = if self.len() < TAIL_VOTERS {
            (0.0, 0.0, share)
        } else {
            let (base, votes) = self.tail();
            let count = TAIL_SHARE * self.len() as f64;
            (base, votes.map(|vote| vote - base).sum::<f64>() / count, share * covered)
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
            // A vote that does not count yet leaves that which does count its own.
            votes.cast(client(judged), 1e9, Nanos(1));
            let is = votes.without(client(judged));
            prop_assert_eq!(is.len(), others.len());
            prop_assert_eq!(is.median(), Spread::of(others.clone()).map(|spread| spread.median));
            prop_assert_eq!(is.spread(), Spread::of(others));
        }

        #[test]
        fn any_time_and_value_is_survived(feeds in prop::collection::vec((any::<u64>(), any::<u64>()), 0..50)) {
            let mut past = OwnPast::default();
            for (start, requests) in feeds {
                past.feed(Nanos(start), requests);
                prop_assert!(past.usual(Nanos(start)).is_none_or(f64::is_finite));
            }
        }
    }

    /// Some days, on each of which the busiest minute at two in the night has so many requests; and the minute after.
    fn nights(busiest: &[u64]) -> (OwnPast, Nanos) {
        let mut past = OwnPast::default();
        let at = |day: usize, hour: u64| Nanos((day as u64 * 24 + hour) * HOUR);
        for (day, requests) in busiest.iter().enumerate() {
            past.feed(at(day, 2), 3);
            past.feed(at(day, 2) + Duration::from_mins(9), *requests);
            past.feed(at(day, 9), 5);
        }
        (past, at(busiest.len(), 2) + Duration::from_mins(5))
    }

    #[test]
    fn what_a_client_does_each_night_is_known_after_two_and_only_for_that_time() {
        for (busiest, expected) in [
            (&[][..], None),
            (&[256], None),
            (&[256, 128], Some(128.0)),
            (&[256, 256, 256, 1024], Some(362.0)),
        ] {
            let (past, now) = nights(busiest);
            assert_eq!(past.usual(now).map(f64::round), expected, "{busiest:?}");
        }
        let (past, now) = nights(&[256, 256, 256]);
        let after = |hours| past.usual(now + Duration::from_hours(hours)).map(f64::round);
        assert_eq!((after(1), after(2), after(7)), (Some(256.0), None, Some(5.0)));
    }

    #[test]
    fn nothing_is_learnt_of_an_hour_under_suspicion_and_all_is_forgotten_in_time() {
        let (mut past, now) = nights(&[256, 256]);
        past.feed(now, 60_000);
        past.interrupt();
        past.feed(now + Duration::from_hours(7), 5);
        assert_eq!(past.usual(now).map(f64::round), Some(256.0));
        past.feed(now + Duration::from_hours(15 * 24), 5);
        assert_eq!(past.usual(now), None);
    }

    #[test]
    fn old_votes_are_forgotten() {
        let mut votes = Votes::default();
        votes.cast(client(1), 5.0, Nanos(0));
        votes.cast(client(2), 7.0, Nanos(0) + VOTE_LIFE);
        votes.settle(Nanos(1) + VOTE_LIFE);
        assert_eq!(votes.without(client(3)).len(), 1);
    }

    /// Of so many voters a share of 1 in x exceeds x.
    fn pareto(count: u32) -> Votes {
        let mut votes = Votes::default();
        for n in 0..count {
            votes.cast(client(n), f64::from(count) / (f64::from(n) + 0.5), Nanos(0));
        }
        votes.settle(Nanos(0));
        votes
    }

    #[test]
    fn what_few_exceed_is_counted_among_many_and_extrapolated_from_the_tail_of_few() {
        assert_eq!(pareto(19).everyone().extreme(0.005), None);
        for (count, share) in [(1000, 0.005), (1000, 0.0002), (200, 0.005), (60, 0.005)] {
            let extreme = pareto(count).everyone().extreme(share).unwrap();
            let expected = 1.0 / share;
            assert!((0.6 * expected..1.7 * expected).contains(&extreme), "{count} {share}: {extreme}");
        }
    }

    #[test]
    fn a_part_of_a_day_leaves_more_to_come() {
        let votes = pareto(200);
        let threshold = |covered| votes.everyone().threshold(1e-4, covered, 5.0);
        assert!(threshold(0.1) > threshold(0.5) && threshold(0.5) > threshold(1.0));
        let few = pareto(10);
        let cold = |covered| few.everyone().threshold(1e-4, covered, 5.0).round();
        assert_eq!((cold(0.1), cold(1.0)), (35.0, 35.0), "the scale alone, whatever was seen");
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
