//! One client's last ten minutes: exchanges in, features over 10 s, 1 min and 10 min out.
//!
//! Exchanges arrive when they end but are placed by their start, so the ring is kept sorted by
//! start and takes in anything that began inside it. The newest [`MAX_SAMPLES`] are kept in full;
//! of a busier client the oldest are folded into tallies of 10 s, so that counts and bytes stay
//! complete while medians and regularity speak of the newest.
//!
//! Invariant: samples are sorted by start, tallies by slot, both are bounded, and every exchange
//! is in exactly one of them. At most [`MAX_SAMPLES`] x 40 + 62 x 40 bytes, 13 KB, a client.

use std::{collections::VecDeque, time::Duration};

use crate::{Exchange, Nanos, Protocol, WindowFeatures, anomaly::Series, baseline::Spread, recent::place};

/// The windows features are computed over, shortest first.
pub(crate) const WINDOWS: [Duration; 3] =
    [Duration::from_secs(10), Duration::from_mins(1), Duration::from_mins(10)];

/// How far back the ring reaches.
pub(crate) const RING: Duration = WINDOWS[2];

/// Exchanges kept in full.
pub(crate) const MAX_SAMPLES: usize = 256;

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

/// What the ring remembers of one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) start: Nanos,
    pub(crate) duration: Nanos,
    pub(crate) request_bytes: u64,
    pub(crate) answer_bytes: u64,
    /// Median bytes of a server record of a streamed answer; 0 when it was not one.
    pub(crate) record_bytes: u32,
    /// Index of the service in the engine's table.
    pub(crate) service: u16,
}

/// Exchanges of one client that began in the last ten minutes.
#[derive(Debug, Default)]
pub(crate) struct Window {
    samples: VecDeque<Sample>,
    tallies: VecDeque<Tally>,
}

/// Exchanges that began in one slot of 10 s and are no longer kept in full.
#[derive(Clone, Copy, Debug)]
struct Tally {
    slot: u64,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u64,
    request_bytes: u64,
    answer_bytes: u64,
    busy_s: f64,
}

impl Sample {
    pub(crate) fn new(exchange: &Exchange, service: u16) -> Self {
        Self {
            start: exchange.start,
            duration: Nanos::default() + exchange.duration,
            request_bytes: exchange.request_bytes,
            answer_bytes: exchange.answer_bytes,
            record_bytes: streamed_record_bytes(exchange).unwrap_or(0),
            service,
        }
    }

    pub(crate) fn end(&self) -> Nanos {
        self.start + Duration::from_nanos(self.duration.0)
    }
}

impl Window {
    /// Takes in one exchange, wherever in the last ten minutes it began.
    pub(crate) fn insert(&mut self, sample: Sample) {
        let at = place(&self.samples, sample.start, |held| held.start);
        if self.samples.len() < MAX_SAMPLES {
            self.samples.insert(at, sample);
        } else if at == 0 {
            self.fold(&sample);
        } else if let Some(oldest) = self.samples.pop_front() {
            self.samples.insert(at - 1, sample);
            self.fold(&oldest);
        }
    }

    /// Forgets what began more than ten minutes before `now`.
    pub(crate) fn expire(&mut self, now: Nanos) {
        let horizon = now - RING;
        self.samples.drain(..self.samples.partition_point(|sample| sample.start < horizon));
        self.tallies.drain(..self.tallies.partition_point(|tally| tally.middle() < horizon));
    }

    /// Gives back memory that a quieter client no longer needs.
    pub(crate) fn shrink(&mut self) {
        if self.samples.capacity() > 2 * self.samples.len() + 8 {
            self.samples.shrink_to(self.samples.len());
        }
        if self.tallies.is_empty() {
            self.tallies.shrink_to(0);
        }
    }

    /// Samples that began after `from` and not after `to`, oldest first.
    pub(crate) fn between(
        &self,
        from: Nanos,
        to: Nanos,
    ) -> impl DoubleEndedIterator<Item = &Sample> + ExactSizeIterator {
        // Recordings start at 0, and nothing can begin before that.
        let is_before = |sample: &Sample| sample.start <= from && from > Nanos::default();
        let first = self.samples.partition_point(is_before);
        let end = self.samples.partition_point(|sample| sample.start <= to).max(first);
        self.samples.range(first..end)
    }

    /// Requests that began after `from` and not after `to`.
    pub(crate) fn requests_between(&self, from: Nanos, to: Nanos) -> u64 {
        self.counts(from, to).requests
    }

    /// Evidence, in nats, that requests do not come at random: their number varies less from one span of the ring to the next
    /// (the variance over the mean, for which random arrivals have a chi-squared distribution, bounded by Chernoff). So do
    /// the requests of a pool of workers that has a list to finish, over spans of a few answers each. `answer` is
    /// how long one takes; 0 with less than ten spans.
    pub(crate) fn steadiness(&self, now: Nanos, answer: Duration) -> f64 {
        let slots = (2.0 * answer.as_secs_f64() / SLOT.as_secs_f64()).ceil().max(1.0) as u32;
        let span = SLOT * slots;
        // The newest are not known before they end.
        let end = now - span;
        let spans = SLOTS as u32 / slots - 1;
        let mut counts = (0..spans)
            .map(|n| end - span * n)
            .map(|end| self.requests_between(end - span, end) as f64)
            .collect::<Vec<f64>>();
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
        let gaps = Gaps::of(self.between(from, now).map(|sample| sample.start));
        WindowFeatures {
            window,
            requests: counts.requests,
            request_rate: counts.requests as f64 / seconds,
            request_bytes_rate: counts.request_bytes as f64 / seconds,
            answer_bytes_rate: counts.answer_bytes as f64 / seconds,
            concurrency: self.busy_seconds(from, now) / seconds,
            interarrival_cv: gaps.cv(),
            interarrival_median_s: gaps.spread().map(|spread| spread.median),
            interarrival_mad_s: gaps.spread().map(|spread| spread.mad),
            request_size_entropy_bits: entropy_bits(
                self.between(from, now).map(|sample| sample.request_bytes),
            ),
            server_record_median_bytes: median(
                self.between(from, now).filter(|s| s.record_bytes > 0).map(|s| f64::from(s.record_bytes)),
            ),
            request_bytes_median: median(self.between(from, now).map(|s| s.request_bytes as f64)),
            answer_bytes_median: median(self.between(from, now).map(|s| s.answer_bytes as f64)),
        }
    }

    /// Requests per second over each of the last 60 spans of 10 s, oldest first.
    pub(crate) fn rate_series(&self, now: Nanos) -> Series {
        let mut series = series(now, "request_rate", "1/s", |_, _| 0.0);
        let starts = self.between(series.start, now).map(|sample| (sample.start, 1));
        let tallies = self.tallies_between(series.start, now);
        for (at, requests) in starts.chain(tallies.map(|tally| (tally.middle(), tally.counts.requests))) {
            // A span reaches from just behind its begin to its end.
            let span = at.since(series.start).as_nanos().saturating_sub(1) / SLOT.as_nanos();
            if let Some(rate) = series.values.get_mut(span as usize) {
                *rate += requests as f64 / SLOT.as_secs_f64();
            }
        }
        series
    }

    /// Median server record size of the streamed answers in each of those spans; 0 without one.
    pub(crate) fn record_series(&self, now: Nanos) -> Series {
        series(now, "server_record_median", "bytes", |from, to| {
            let streamed = self.between(from, to).filter(|sample| sample.record_bytes > 0);
            median(streamed.map(|sample| f64::from(sample.record_bytes))).unwrap_or(0.0)
        })
    }

    fn fold(&mut self, sample: &Sample) {
        let slot = sample.start.0 / SLOT.as_nanos() as u64;
        let at = self.tallies.partition_point(|tally| tally.slot < slot);
        if self.tallies.get(at).is_none_or(|tally| tally.slot != slot) {
            self.tallies.insert(at, Tally { slot, counts: Counts::default() });
        }
        self.tallies[at].counts.add(sample);
        // Clocks that jump could otherwise leave slots from many times.
        if self.tallies.len() > SLOTS + 2 {
            self.tallies.pop_front();
        }
    }

    fn counts(&self, from: Nanos, to: Nanos) -> Counts {
        let mut counts = Counts::default();
        for sample in self.between(from, to) {
            counts.add(sample);
        }
        for tally in self.tallies_between(from, to) {
            counts.requests += tally.counts.requests;
            counts.request_bytes = counts.request_bytes.saturating_add(tally.counts.request_bytes);
            counts.answer_bytes = counts.answer_bytes.saturating_add(tally.counts.answer_bytes);
        }
        counts
    }

    /// Seconds of answering that fell between `from` and `to`, also for requests that began before.
    fn busy_seconds(&self, from: Nanos, to: Nanos) -> f64 {
        let sampled: f64 = self
            .samples
            .iter()
            .map(|sample| sample.end().min(to).since(sample.start.max(from)).as_secs_f64())
            .sum();
        let tallied: f64 = self.tallies_between(from, to).map(|tally| tally.counts.busy_s).sum();
        sampled + tallied
    }

    fn tallies_between(&self, from: Nanos, to: Nanos) -> impl Iterator<Item = &Tally> {
        self.tallies.iter().filter(move |tally| tally.middle() > from && tally.middle() <= to)
    }
}

impl Tally {
    fn middle(&self) -> Nanos {
        Nanos(self.slot.saturating_mul(SLOT.as_nanos() as u64)) + SLOT / 2
    }
}

impl Counts {
    fn add(&mut self, sample: &Sample) {
        self.requests += 1;
        self.request_bytes = self.request_bytes.saturating_add(sample.request_bytes);
        self.answer_bytes = self.answer_bytes.saturating_add(sample.answer_bytes);
        self.busy_s += sample.duration.as_secs_f64();
    }
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

    fn sample(start_ms: u64, duration_ms: u64, bytes: u64, record_bytes: u32) -> Sample {
        Sample {
            start: Nanos(start_ms * 1_000_000),
            duration: Nanos(duration_ms * 1_000_000),
            request_bytes: bytes,
            answer_bytes: bytes * 3,
            record_bytes,
            service: 0,
        }
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let one =
            (600_000..1_200_000_u64, 0..90_000_u64, 1..100_000_u64, prop::sample::select(vec![0, 240, 700]))
                .prop_map(|(start, duration, bytes, record)| sample(start, duration, bytes, record));
        prop::collection::vec(one, 0..MAX_SAMPLES)
    }

    const NOW: Nanos = Nanos(1_200_000_000_000);

    fn naive_median(mut values: Vec<f64>) -> Option<f64> {
        values.sort_by(f64::total_cmp);
        let n = values.len();
        (n > 0).then(|| f64::midpoint(values[(n - 1) / 2], values[n / 2]))
    }

    /// The features by their definitions, from a plain list.
    fn naive(all: &[Sample], window: Duration) -> WindowFeatures {
        let from = NOW - window;
        let seconds = window.as_secs_f64();
        let mut inside: Vec<Sample> =
            all.iter().copied().filter(|s| s.start > from && s.start <= NOW).collect();
        inside.sort_by_key(|s| s.start);
        let gaps: Vec<f64> =
            inside.windows(2).map(|pair| (pair[1].start.0 - pair[0].start.0) as f64 / 1e9).collect();
        let gap_median = naive_median(gaps.clone());
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean) * (gap - mean)).sum::<f64>() / gaps.len() as f64;
        let busy: f64 = all
            .iter()
            .map(|s| {
                let (start, end) = (s.start.0.max(from.0), (s.start.0 + s.duration.0).min(NOW.0));
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
                inside.iter().filter(|s| s.record_bytes > 0).map(|s| f64::from(s.record_bytes)).collect(),
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
        fn features_equal_their_definitions_in_any_order_of_arrival(all in samples()) {
            let mut window = Window::default();
            for sample in &all {
                window.insert(*sample);
            }
            window.expire(NOW);
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
            let mut window = Window::default();
            for i in 0..count as u64 {
                window.insert(sample(601_000 + i * 190, 50, 10, 0));
            }
            window.expire(NOW);
            let features = window.features(NOW, RING);
            prop_assert_eq!(features.requests, count as u64);
            prop_assert!(close(features.request_bytes_rate, count as f64 * 10.0 / 600.0));
            prop_assert!(window.samples.len() <= MAX_SAMPLES && window.tallies.len() <= SLOTS + 2);
        }

        #[test]
        fn any_times_keep_the_ring_sorted_and_bounded(starts in prop::collection::vec(any::<u64>(), 0..700), now: u64) {
            let mut window = Window::default();
            for start in starts {
                window.insert(Sample { start: Nanos(start), ..sample(0, u64::MAX / 1_000_000, u64::MAX / 4, 240) });
            }
            window.expire(Nanos(now));
            let _ = (window.features(Nanos(now), RING), window.rate_series(Nanos(now)), window.record_series(Nanos(now)));
            prop_assert!(window.samples.iter().is_sorted_by_key(|sample| sample.start));
            prop_assert!(window.samples.len() <= MAX_SAMPLES && window.tallies.len() <= SLOTS + 2);
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
        let mut window = Window::default();
        window.insert(sample(605_000, 1, 1, 0));
        window.insert(sample(1_199_000, 1, 1, 0));
        let series = window.rate_series(NOW);
        assert_eq!((series.values.len(), series.start, series.step), (60, NOW - RING, SLOT));
        assert!(close(series.values[0], 0.1) && close(series.values[59], 0.1));
        assert!(close(series.values.iter().sum(), 0.2));
    }
}
