//! One client's last ten minutes: exchanges in, features over 10 s, 1 min and 10 min out.
//!
//! Exchanges arrive when they end but are placed by their start. The newest are on the client's [trail](crate::trail);
//! those for which there is no room on it are folded into tallies of 10 s, so that counts and bytes stay complete while
//! medians and regularity speak of the newest.
//!
//! Invariant: tallies are sorted by slot and bounded, and every exchange of the last ten minutes is either on the trail or
//! in one tally. At most 62 x 20 bytes, 1.2 KB, a client; nothing for one that asks 64 times in ten minutes or less.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Exchange, Nanos, Protocol, WindowFeatures,
    anomaly::Series,
    baseline::Spread,
    trail::{Mark, Trail},
};

/// The windows features are computed over, shortest first.
pub(crate) const WINDOWS: [Duration; 3] =
    [Duration::from_secs(10), Duration::from_mins(1), Duration::from_mins(10)];

/// How far back the ring reaches.
pub(crate) const RING: Duration = WINDOWS[2];

/// Server records an answer needs before their size means anything.
pub(crate) const MIN_STREAMED_RECORDS: u32 = 8;

/// The smallest buffer that proxies and TLS stacks write whole answers in.
const WRITE_BUFFER_BYTES: u32 = 4096;

/// Clear-text records are segments; from this size on the path's MTU shows, not the server's writes.
const FULL_SEGMENT_BYTES: u32 = 1200;

const SLOT: Duration = Duration::from_secs(10);
const SLOTS: usize = 60;

/// Spans whose numbers of requests can be compared.
const LEAST_SPANS: usize = 10;

/// Exchanges that left the trail before they were ten minutes old.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tallies(VecDeque<Tally>);

/// Exchanges of one client that began in the last ten minutes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'a> {
    pub(crate) trail: &'a Trail,
    pub(crate) tallies: &'a Tallies,
}

/// Exchanges that began in one slot of 10 s and are not on the trail.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Tally {
    slot: u32,
    requests: u32,
    request_bytes: f32,
    answer_bytes: f32,
    busy_s: f32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u64,
    request_bytes: f64,
    answer_bytes: f64,
}

impl Tallies {
    /// Takes in an exchange that leaves the trail.
    pub(crate) fn fold(&mut self, mark: &Mark) {
        let slot = slot(mark.start);
        let at = self.0.partition_point(|tally| tally.slot < slot);
        if self.0.get(at).is_none_or(|tally| tally.slot != slot) {
            self.0.insert(at, Tally { slot, ..Tally::default() });
        }
        let tally = &mut self.0[at];
        tally.requests += 1;
        tally.request_bytes += mark.request_bytes as f32;
        tally.answer_bytes += mark.answer_bytes as f32;
        tally.busy_s += mark.duration_s() as f32;
        // Clocks that jump could otherwise leave slots from many times.
        if self.0.len() > SLOTS + 2 {
            self.0.pop_front();
        }
    }

    /// Forgets what began more than ten minutes before `now`.
    pub(crate) fn expire(&mut self, now: Nanos) {
        let horizon = now - RING;
        self.0.drain(..self.0.partition_point(|tally| tally.middle() < horizon));
    }

    /// Gives back memory that a quieter client no longer needs.
    pub(crate) fn shrink(&mut self) {
        if self.0.is_empty() {
            self.0.shrink_to(0);
        }
    }

    fn between(&self, from: Nanos, to: Nanos) -> impl Iterator<Item = &Tally> {
        self.0.iter().filter(move |tally| tally.middle() > from && tally.middle() <= to)
    }
}

impl Window<'_> {
    /// Requests that began after `from` and not after `to`.
    pub(crate) fn requests_between(&self, from: Nanos, to: Nanos) -> u64 {
        self.counts(from, to).requests
    }

    /// Evidence, in nats, that requests do not come at random: their number varies less from one span of the ring to the next
    /// (the variance over the mean, for which random arrivals have a chi-squared distribution, bounded by Chernoff). So do
    /// the requests of a pool of workers that has a list to finish, over spans of a few answers each. `answer` is
    /// how long one takes; 0 with less than ten spans.
    pub(crate) fn steadiness(&self, now: Nanos, answer: Duration) -> f64 {
        let slots = (2.0 * answer.as_secs_f64() / SLOT.as_secs_f64()).ceil().max(1.0) as usize;
        // The newest are not known before they end.
        let Some(end) = slot(now).checked_sub(slots as u32) else { return 0.0 };
        let mut by_age = [0.0; SLOTS];
        let marks = self.trail.between(now - RING, now).map(|mark| (slot(mark.start), 1));
        let tallies = self.tallies.0.iter().map(|tally| (tally.slot, tally.requests));
        for (slot, requests) in marks.chain(tallies) {
            if let Some(count) = end.checked_sub(slot + 1).and_then(|age| by_age.get_mut(age as usize)) {
                *count += f64::from(requests);
            }
        }
        let spans = (SLOTS / slots).saturating_sub(1);
        let mut counts: Vec<f64> =
            by_age.chunks_exact(slots).take(spans).map(|span| span.iter().sum()).collect();
        while counts.last() == Some(&0.0) {
            counts.pop();
        }
        // The oldest that is left may have begun within its span.
        counts.pop();
        if counts.len() < LEAST_SPANS {
            return 0.0;
        }
        let freedom = counts.len() as f64 - 1.0;
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        let ratio = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / mean.max(1e-9) / freedom;
        if ratio >= 1.0 { 0.0 } else { freedom / 2.0 * (ratio - 1.0 - ratio.max(1e-3).ln()) }
    }

    /// Features over the `window` that ends at `now`.
    pub(crate) fn features(&self, now: Nanos, window: Duration) -> WindowFeatures {
        let from = now - window;
        let seconds = window.as_secs_f64();
        let counts = self.counts(from, now);
        let gaps = Gaps::of(self.trail.between(from, now).map(|mark| mark.start));
        WindowFeatures {
            window,
            requests: counts.requests,
            request_rate: counts.requests as f64 / seconds,
            request_bytes_rate: counts.request_bytes / seconds,
            answer_bytes_rate: counts.answer_bytes / seconds,
            concurrency: self.busy_seconds(from, now) / seconds,
            interarrival_cv: gaps.cv(),
            interarrival_median_s: gaps.spread().map(|spread| spread.median),
            interarrival_mad_s: gaps.spread().map(|spread| spread.mad),
            request_size_entropy_bits: entropy_bits(
                self.trail.between(from, now).map(|mark| mark.request_bytes.into()),
            ),
            server_record_median_bytes: median(
                self.trail
                    .between(from, now)
                    .filter(|s| s.record_bytes > 0)
                    .map(|s| f64::from(s.record_bytes)),
            ),
            request_bytes_median: median(self.trail.between(from, now).map(|s| s.request_bytes.into())),
            answer_bytes_median: median(self.trail.between(from, now).map(|s| s.answer_bytes.into())),
        }
    }

    /// Requests per second over each of the last 60 spans of 10 s, oldest first.
    pub(crate) fn rate_series(&self, now: Nanos) -> Series {
        let mut series = series(now, "request_rate", "1/s", |_, _| 0.0);
        let starts = self.trail.between(series.start, now).map(|mark| (mark.start, 1));
        let tallies = self.tallies.between(series.start, now);
        for (at, requests) in starts.chain(tallies.map(|tally| (tally.middle(), tally.requests))) {
            // A span reaches from just behind its begin to its end.
            let span = at.since(series.start).as_nanos().saturating_sub(1) / SLOT.as_nanos();
            if let Some(rate) = series.values.get_mut(span as usize) {
                *rate += f64::from(requests) / SLOT.as_secs_f64();
            }
        }
        series
    }

    /// Median server record size of the streamed answers in each of those spans; 0 without one.
    pub(crate) fn record_series(&self, now: Nanos) -> Series {
        series(now, "server_record_median", "bytes", |from, to| {
            let streamed = self.trail.between(from, to).filter(|mark| mark.record_bytes > 0);
            median(streamed.map(|mark| f64::from(mark.record_bytes))).unwrap_or(0.0)
        })
    }

    fn counts(&self, from: Nanos, to: Nanos) -> Counts {
        let mut counts = Counts::default();
        for mark in self.trail.between(from, to) {
            counts.requests += 1;
            counts.request_bytes += f64::from(mark.request_bytes);
            counts.answer_bytes += f64::from(mark.answer_bytes);
        }
        for tally in self.tallies.between(from, to) {
            counts.requests += u64::from(tally.requests);
            counts.request_bytes += f64::from(tally.request_bytes);
            counts.answer_bytes += f64::from(tally.answer_bytes);
        }
        counts
    }

    /// Seconds of answering that fell between `from` and `to`, also for requests that began before.
    fn busy_seconds(&self, from: Nanos, to: Nanos) -> f64 {
        let within = |mark: &Mark| mark.end().min(to).since(mark.start.max(from)).as_secs_f64();
        let on_trail: f64 = self.trail.iter().map(within).sum();
        let tallied: f64 = self.tallies.between(from, to).map(|tally| f64::from(tally.busy_s)).sum();
        on_trail + tallied
    }
}

impl Tally {
    fn middle(&self) -> Nanos {
        Nanos(u64::from(self.slot) * SLOT.as_nanos() as u64) + SLOT / 2
    }
}

/// Number of the slot since the epoch.
fn slot(at: Nanos) -> u32 {
    (at.0 / SLOT.as_nanos() as u64) as u32
}

/// `value` of each of the last 60 spans of 10 s.
fn series(
    now: Nanos,
    feature: &'static str,
    unit: &'static str,
    value: impl Fn(Nanos, Nanos) -> f64,
) -> Series {
    let start = now - RING;
    let values = (0..SLOTS as u32).map(|i| value(start + SLOT * i, start + SLOT * (i + 1))).collect();
    Series { feature, unit, start, step: SLOT, values }
}

/// Times between successive starts, seconds, in order of time.
#[derive(Debug)]
pub(crate) struct Gaps(pub(crate) Vec<f64>);

impl Gaps {
    /// Gaps between `starts`, which are sorted.
    pub(crate) fn of(starts: impl Iterator<Item = Nanos>) -> Self {
        let mut previous: Option<Nanos> = None;
        Self(
            starts
                .filter_map(|start| {
                    previous.replace(start).map(|previous| start.since(previous).as_secs_f64())
                })
                .collect(),
        )
    }

    /// Standard deviation over mean; `None` with fewer than two gaps or a mean of 0.
    pub(crate) fn cv(&self) -> Option<f64> {
        let mean = self.0.iter().sum::<f64>() / self.0.len() as f64;
        (self.0.len() >= 2 && mean > 0.0).then(|| standard_deviation(&self.0) / mean)
    }

    /// Median and MAD; `None` without a gap.
    pub(crate) fn spread(&self) -> Option<Spread> {
        Spread::of(self.0.clone())
    }
}

/// Of the population; 0 for no values.
pub(crate) fn standard_deviation(values: &[f64]) -> f64 {
    let count = (values.len() as f64).max(1.0);
    let mean = values.iter().sum::<f64>() / count;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt()
}

/// Median bytes of a server record if the answer was streamed, as far as its records tell: there
/// are several, they are smaller than the buffers that whole answers are written in, and in clear
/// text smaller than what the path cuts segments to.
pub(crate) fn streamed_record_bytes(exchange: &Exchange) -> Option<u32> {
    let limit = match exchange.protocol {
        Protocol::Http1 | Protocol::Http2 => FULL_SEGMENT_BYTES,
        Protocol::Tls | Protocol::TlsHttp2 | Protocol::Quic | Protocol::Other => WRITE_BUFFER_BYTES,
    };
    let streamed = exchange.records >= MIN_STREAMED_RECORDS && (1..limit).contains(&exchange.record_median);
    streamed.then_some(exchange.record_median)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    Spread::of(values.collect()).map(|spread| spread.median)
}

/// Shannon entropy of the histogram of `sizes` in buckets of powers of two.
fn entropy_bits(sizes: impl Iterator<Item = u64>) -> f64 {
    let mut buckets = [0_u32; 65];
    let mut count = 0_u32;
    for size in sizes {
        buckets[(u64::BITS - size.leading_zeros()) as usize] += 1;
        count += 1;
    }
    let shares = buckets.iter().filter(|n| **n > 0).map(|n| f64::from(*n) / f64::from(count));
    // Adding 0 turns the -0 of a single bucket into 0.
    -shares.map(|share| share * share.log2()).sum::<f64>() + 0.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trail::MAX_MARKS;

    fn exchange(start_ms: u64, duration_ms: u64, bytes: u64, record_bytes: u32) -> Exchange {
        Exchange {
            start: Nanos(start_ms * 1_000_000),
            duration: Duration::from_millis(duration_ms),
            request_bytes: bytes,
            answer_bytes: bytes * 3,
            records: if record_bytes > 0 { 20 } else { 1 },
            record_median: record_bytes,
            ..crate::test_exchange()
        }
    }

    fn exchanges() -> impl Strategy<Value = Vec<Exchange>> {
        let one =
            (600_000..1_200_000_u64, 0..90_000_u64, 1..100_000_u64, prop::sample::select(vec![0, 240, 700]))
                .prop_map(|(start, duration, bytes, record)| exchange(start, duration, bytes, record));
        prop::collection::vec(one, 0..MAX_MARKS)
    }

    /// As a client does it.
    fn file(trail: &mut Trail, tallies: &mut Tallies, exchange: &Exchange) {
        if let Some(out) = trail.insert(exchange, 0).out {
            tallies.fold(&out);
        }
    }

    const NOW: Nanos = Nanos(1_200_000_000_000);

    fn naive_median(mut values: Vec<f64>) -> Option<f64> {
        values.sort_by(f64::total_cmp);
        let n = values.len();
        (n > 0).then(|| f64::midpoint(values[(n - 1) / 2], values[n / 2]))
    }

    /// The features by their definitions, from a plain list.
    fn naive(all: &[Exchange], window: Duration) -> WindowFeatures {
        let from = NOW - window;
        let seconds = window.as_secs_f64();
        let mut inside: Vec<&Exchange> = all.iter().filter(|s| s.start > from && s.start <= NOW).collect();
        inside.sort_by_key(|s| s.start);
        let gaps: Vec<f64> =
            inside.windows(2).map(|pair| (pair[1].start.0 - pair[0].start.0) as f64 / 1e9).collect();
        let gap_median = naive_median(gaps.clone());
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean) * (gap - mean)).sum::<f64>() / gaps.len() as f64;
        let busy: f64 = all
            .iter()
            .map(|s| {
                let (start, end) = (s.start.0.max(from.0), (s.start + s.duration).0.min(NOW.0));
                end.saturating_sub(start) as f64 / 1e9
            })
            .sum();
        let mut histogram = std::collections::HashMap::<u32, f64>::new();
        for s in &inside {
            *histogram.entry(s.request_bytes.ilog2()).or_default() += 1.0;
        }
        let total = inside.len() as f64;
        WindowFeatures {
            window,
            requests: inside.len() as u64,
            request_rate: total / seconds,
            request_bytes_rate: inside.iter().map(|s| s.request_bytes).sum::<u64>() as f64 / seconds,
            answer_bytes_rate: inside.iter().map(|s| s.answer_bytes).sum::<u64>() as f64 / seconds,
            concurrency: busy / seconds,
            interarrival_cv: (gaps.len() >= 2 && mean > 0.0).then(|| variance.sqrt() / mean),
            interarrival_median_s: gap_median,
            interarrival_mad_s: gap_median
                .and_then(|median| naive_median(gaps.iter().map(|gap| (gap - median).abs()).collect())),
            request_size_entropy_bits: histogram.values().map(|n| -(n / total) * (n / total).log2()).sum(),
            server_record_median_bytes: naive_median(
                inside.iter().filter(|s| s.record_median > 0).map(|s| f64::from(s.record_median)).collect(),
            ),
            request_bytes_median: naive_median(inside.iter().map(|s| s.request_bytes as f64).collect()),
            answer_bytes_median: naive_median(inside.iter().map(|s| s.answer_bytes as f64).collect()),
        }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-6 * (1.0 + a.abs())
    }

    fn close_option(a: Option<f64>, b: Option<f64>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => close(a, b),
            (a, b) => a == b,
        }
    }

    proptest! {
        #[test]
        fn features_equal_their_definitions_in_any_order_of_arrival(all in exchanges()) {
            let (mut trail, tallies) = (Trail::default(), Tallies::default());
            for exchange in &all {
                trail.insert(exchange, 0);
            }
            let window = Window { trail: &trail, tallies: &tallies };
            for span in WINDOWS {
                let (is, should) = (window.features(NOW, span), naive(&all, span));
                let plain = |f: &WindowFeatures| {
                    [f.request_rate, f.request_bytes_rate, f.answer_bytes_rate, f.concurrency, f.request_size_entropy_bits]
                };
                let optional = |f: &WindowFeatures| {
                    [
                        f.interarrival_cv,
                        f.interarrival_median_s,
                        f.interarrival_mad_s,
                        f.server_record_median_bytes,
                        f.request_bytes_median,
                        f.answer_bytes_median,
                    ]
                };
                prop_assert_eq!(is.requests, should.requests);
                prop_assert!(plain(&is).into_iter().zip(plain(&should)).all(|(a, b)| close(a, b)), "{is:?} {should:?}");
                prop_assert!(
                    optional(&is).into_iter().zip(optional(&should)).all(|(a, b)| close_option(a, b)),
                    "{is:?} {should:?}"
                );
            }
        }

        #[test]
        fn a_busy_client_keeps_its_counts_and_bounded_memory(count in 1..3000_usize) {
            let (mut trail, mut tallies) = (Trail::default(), Tallies::default());
            for i in 0..count as u64 {
                file(&mut trail, &mut tallies, &exchange(601_000 + i * 190, 50, 10, 0));
            }
            tallies.expire(NOW);
            let features = Window { trail: &trail, tallies: &tallies }.features(NOW, RING);
            prop_assert_eq!(features.requests, count as u64);
            prop_assert!(close(features.request_bytes_rate, count as f64 * 10.0 / 600.0));
            prop_assert!(trail.len() <= MAX_MARKS && tallies.0.len() <= SLOTS + 2);
        }

        #[test]
        fn any_times_keep_the_tallies_sorted_and_bounded(starts in prop::collection::vec(any::<u64>(), 0..700), now: u64) {
            let (mut trail, mut tallies) = (Trail::default(), Tallies::default());
            for start in starts {
                let absurd = Exchange { start: Nanos(start), duration: Duration::MAX, ..exchange(0, 0, u64::MAX / 4, 240) };
                file(&mut trail, &mut tallies, &absurd);
            }
            tallies.expire(Nanos(now));
            let window = Window { trail: &trail, tallies: &tallies };
            let _ = (window.features(Nanos(now), RING), window.rate_series(Nanos(now)), window.record_series(Nanos(now)));
            let _ = window.steadiness(Nanos(now), Duration::from_secs(7));
            prop_assert!(tallies.0.iter().is_sorted_by_key(|tally| tally.slot));
            prop_assert!(trail.len() <= MAX_MARKS && tallies.0.len() <= SLOTS + 2);
        }
    }

    #[test]
    fn whole_answers_in_write_buffers_are_not_streams() {
        let cases = [
            (Protocol::Tls, 40, 242, Some(242)),
            (Protocol::Tls, 40, 1742, Some(1742)),
            (Protocol::Tls, 40, 4082, Some(4082)),
            (Protocol::Tls, 40, 4096, None),
            (Protocol::Tls, 40, 16384, None),
            (Protocol::Tls, 7, 242, None),
            (Protocol::Tls, 40, 0, None),
            (Protocol::Http1, 40, 700, Some(700)),
            (Protocol::Http1, 40, 1448, None),
            (Protocol::Other, 40, 1882, Some(1882)),
        ];
        for (protocol, records, record_median, expected) in cases {
            let exchange = Exchange { records, record_median, protocol, ..crate::test_exchange() };
            assert_eq!(streamed_record_bytes(&exchange), expected, "{protocol:?} {records} {record_median}");
        }
    }

    #[test]
    fn the_rate_series_shows_each_span_of_ten_seconds() {
        let (mut trail, tallies) = (Trail::default(), Tallies::default());
        trail.insert(&exchange(605_000, 1, 1, 0), 0);
        trail.insert(&exchange(1_199_000, 1, 1, 0), 0);
        let series = Window { trail: &trail, tallies: &tallies }.rate_series(NOW);
        assert_eq!((series.values.len(), series.start, series.step), (60, NOW - RING, SLOT));
        assert!(close(series.values[0], 0.1) && close(series.values[59], 0.1));
        assert!(close(series.values.iter().sum(), 0.2));
    }
}
