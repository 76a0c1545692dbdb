//! What a client's traffic looks like, in one size whatever it asks.
//!
//! Exchanges in; counts, distributions, hours, services and TLS stacks out. 420 bytes for a
//! client of whom no count exceeds 255, 970 at most, and 1.1 KB more at most for what is listed (16 services, 8 TLS stacks). Two are compared by a [distance](Fingerprint::distance), and
//! [merged](Fingerprint::merge): several addresses of one actor, or one client as several nodes saw it.
//!
//! Invariant: merging is adding, taking the greater, or listing together what is lowest; so it does not matter in which
//! order, and what is merged from parts is that of the whole, but for the intervals between the parts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Accuracy, Ending, Exchange, Identity, Nanos, Protocol, Service, Totals,
    connections::Connections,
    counts::Counts,
    histogram::{
        self, BUCKETS, FIRST_RATIO, FIRST_SIZE, FIRST_TIME, Histogram, ratio_bucket, size_bucket, time_bucket,
    },
    trail::Neighbours,
};

/// Services listed.
pub const MAX_SERVICES: usize = 16;
/// TLS stacks listed.
pub const MAX_JA4: usize = 8;
/// A JA4 fingerprint has 36 characters; anything much longer is not one.
pub const MAX_JA4_LEN: usize = 64;

/// Hours of a day.
pub const HOURS: usize = 24;

const HOUR_S: u64 = 3600;

/// Counts of all distributions, and where those of the hours begin.
const COUNTS: usize = FIRST_HOUR + HOURS;
const FIRST_HOUR: usize = Distribution::ALL.len() * BUCKETS;

/// A longer interval is a pause, in which a client does not ask.
const PAUSE: Duration = Duration::from_mins(5);

/// A client's traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Start of its first exchange.
    pub first_seen: Nanos,
    /// End of its last exchange.
    pub last_seen: Nanos,
    /// Counts since first seen.
    pub totals: Totals,
    /// Time that its requests were in progress, added up, microseconds.
    pub busy_us: u64,
    /// Time between the begins of its requests, without pauses of more than five minutes, microseconds.
    pub asking_us: u64,
    /// Its connections.
    pub connections: Connections,
    /// What its flows spoke.
    pub protocols: Protocols,
    /// The worst accuracy of its exchanges.
    pub accuracy: Accuracy,
    /// How it is known: forwarded, when any of its exchanges was, else by a proxy, when any was.
    pub identity: Identity,
    /// Services it used, ascending: the lowest 16.
    pub services: Vec<Service>,
    /// JA4 fingerprints of its TLS `ClientHello`s, ascending: the lowest 8.
    pub ja4: Vec<String>,
    /// The buckets of each distribution, then the hours.
    counts: Counts<COUNTS>,
}

/// A figure of each exchange whose values are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Time between the begins of successive requests.
    Intervals,
    /// Application bytes of requests.
    RequestSizes,
    /// Application bytes of answers.
    AnswerSizes,
    /// Bytes of an answer for each byte of its request.
    AnswerRatios,
    /// Median bytes of the server records of an answer.
    RecordSizes,
    /// End of a request to the first answer record.
    FirstBytes,
    /// Start of a request to the last byte of its answer.
    Durations,
    /// By how much the TLS handshake of its connection took longer than the TCP handshake: long behind a relay.
    RelayGaps,
}

/// What the values of a distribution are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Millis,
    /// One number to another.
    Ratio,
}

/// A set of protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocols(u8);

impl Fingerprint {
    /// Of a client that was seen, and has asked nothing yet.
    pub fn new(first_seen: Nanos) -> Self {
        Self {
            first_seen,
            last_seen: first_seen,
            totals: Totals::default(),
            busy_us: 0,
            asking_us: 0,
            connections: Connections::default(),
            protocols: Protocols::default(),
            accuracy: Accuracy::Exact,
            identity: Identity::Direct,
            services: Vec::new(),
            ja4: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// The values of one figure.
    pub fn histogram(&self, which: Distribution) -> Histogram {
        Histogram::from(std::array::from_fn(|bucket| self.counts.get(which.first_count() + bucket)))
    }

    /// Replaces the values of one figure.
    pub fn set_histogram(&mut self, which: Distribution, histogram: &Histogram) {
        for (bucket, count) in histogram.counts().into_iter().enumerate() {
            self.counts.set(which.first_count() + bucket, count);
        }
    }

    /// Requests that began in each hour of the day, UTC.
    pub fn hours(&self) -> [u32; HOURS] {
        std::array::from_fn(|hour| self.counts.get(FIRST_HOUR + hour))
    }

    /// Replaces those.
    pub fn set_hours(&mut self, hours: &[u32; HOURS]) {
        for (hour, count) in hours.iter().enumerate() {
            self.counts.set(FIRST_HOUR + hour, *count);
        }
    }

    /// Mean number of requests in progress while it asks; `None` with fewer than two requests, or none within five
    /// minutes of another.
    pub fn concurrency(&self) -> Option<f64> {
        (self.asking_us > 0).then(|| self.busy_us as f64 / self.asking_us as f64)
    }

    /// Mean number of requests on a connection; `None` without any.
    pub fn requests_per_connection(&self) -> Option<f64> {
        let connections = self.connections.count();
        // The estimate must not say that there were more connections than requests.
        (connections > 0.0).then(|| (self.totals.requests as f64 / connections).max(1.0))
    }

    /// How unlike two clients' traffic is, from 0 to 1: the mean of the Jensen-Shannon distances of the
    /// [distributions](Distribution) and of the hours, of those that both have. 0 is the same shares everywhere, 1
    /// is nothing in common. Neither how much was asked counts, nor of which service, nor by which TLS stack.
    ///
    /// Who asked nothing is at 1 from everybody else.
    pub fn distance(&self, other: &Self) -> f64 {
        let apart = Distribution::ALL.into_iter().filter_map(|which| self.distance_of(other, which));
        let apart: Vec<f64> = apart.chain(histogram::distance(&self.hours(), &other.hours())).collect();
        if apart.is_empty() {
            return if self.totals.requests == other.totals.requests { 0.0 } else { 1.0 };
        }
        apart.iter().sum::<f64>() / apart.len() as f64
    }

    /// The distance of one distribution; `None` where either has no values.
    pub fn distance_of(&self, other: &Self, which: Distribution) -> Option<f64> {
        self.histogram(which).distance(&other.histogram(which))
    }

    /// Takes in what another one counted.
    pub fn merge(&mut self, other: &Self) {
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
        self.totals.merge(&other.totals);
        self.busy_us = self.busy_us.saturating_add(other.busy_us);
        self.asking_us = self.asking_us.saturating_add(other.asking_us);
        for at in 0..COUNTS {
            self.counts.add(at, other.counts.get(at));
        }
        self.connections.merge(&other.connections);
        self.protocols.0 |= other.protocols.0;
        self.accuracy = self.accuracy.max(other.accuracy);
        self.identity = self.identity.max(other.identity);
        for service in &other.services {
            list(&mut self.services, service, MAX_SERVICES);
        }
        for ja4 in &other.ja4 {
            list(&mut self.ja4, ja4, MAX_JA4);
        }
    }

    /// Takes in one exchange, all but the intervals beside it.
    pub(crate) fn add(&mut self, exchange: &Exchange) {
        self.first_seen = self.first_seen.min(exchange.start);
        self.last_seen = self.last_seen.max(exchange.start + exchange.duration);
        self.totals.merge(&Totals {
            requests: 1,
            request_bytes: exchange.request_bytes,
            answer_bytes: exchange.answer_bytes,
            aborted: u64::from(exchange.ending == Ending::Aborted),
        });
        self.busy_us = self.busy_us.saturating_add(micros(exchange.duration));
        self.counts.add(FIRST_HOUR + (exchange.start.0 / 1_000_000_000 / HOUR_S) as usize % HOURS, 1);
        self.connections.add(exchange.flow);
        self.protocols.insert(exchange.protocol);
        self.accuracy = self.accuracy.max(exchange.accuracy);
        self.identity = self.identity.max(exchange.identity);
        list(&mut self.services, &exchange.service, MAX_SERVICES);
        if let Some(ja4) = exchange.ja4.as_ref().filter(|ja4| ja4.len() <= MAX_JA4_LEN) {
            list(&mut self.ja4, ja4, MAX_JA4);
        }
        self.add_figures(exchange);
    }

    fn add_figures(&mut self, exchange: &Exchange) {
        use Distribution::{
            AnswerRatios, AnswerSizes, Durations, FirstBytes, RecordSizes, RelayGaps, RequestSizes,
        };
        self.count(RequestSizes, size_bucket(exchange.request_bytes));
        self.count(AnswerSizes, size_bucket(exchange.answer_bytes));
        self.count(AnswerRatios, ratio_bucket(exchange.answer_bytes, exchange.request_bytes));
        if exchange.records > 0 {
            self.count(RecordSizes, size_bucket(exchange.record_median.into()));
        }
        if let Some(first_byte) = exchange.time_to_first_byte {
            self.count(FirstBytes, time_bucket(first_byte));
        }
        self.count(Durations, time_bucket(exchange.duration));
        if let (Some(tcp), Some(tls)) = (exchange.round_trips.tcp, exchange.round_trips.tls) {
            self.count(RelayGaps, time_bucket(tls.saturating_sub(tcp)));
        }
    }

    fn count(&mut self, which: Distribution, bucket: usize) {
        self.counts.add(which.first_count() + bucket, 1);
    }

    /// Counts the intervals to the neighbours of an exchange that began at `start`, in place of that between them:
    /// exchanges arrive when they end, not in the order in which they began.
    pub(crate) fn add_intervals(&mut self, start: Nanos, Neighbours { before, after }: Neighbours) {
        if let (Some(before), Some(after)) = (before, after) {
            let time = after.since(before);
            let at = Distribution::Intervals.first_count() + time_bucket(time);
            self.counts.set(at, self.counts.get(at).saturating_sub(1));
            self.asking_us = self.asking_us.saturating_sub(asking(time));
        }
        let beside = [before.map(|before| start.since(before)), after.map(|after| after.since(start))];
        for time in beside.into_iter().flatten() {
            self.count(Distribution::Intervals, time_bucket(time));
            self.asking_us = self.asking_us.saturating_add(asking(time));
        }
    }
}

impl Distribution {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::Intervals,
        Self::RequestSizes,
        Self::AnswerSizes,
        Self::AnswerRatios,
        Self::RecordSizes,
        Self::FirstBytes,
        Self::Durations,
        Self::RelayGaps,
    ];

    const fn first_count(self) -> usize {
        self as usize * BUCKETS
    }

    /// What its values are.
    pub const fn unit(self) -> Unit {
        match self {
            Self::RequestSizes | Self::AnswerSizes | Self::RecordSizes => Unit::Bytes,
            Self::AnswerRatios => Unit::Ratio,
            Self::Intervals | Self::FirstBytes | Self::Durations | Self::RelayGaps => Unit::Millis,
        }
    }
}

impl Unit {
    /// Lower bound of bucket 0.
    pub fn first(self) -> f64 {
        match self {
            Self::Bytes => FIRST_SIZE as f64,
            Self::Millis => FIRST_TIME.as_secs_f64() * 1e3,
            Self::Ratio => FIRST_RATIO,
        }
    }

    /// Its word: "bytes", "ms" or "1".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Millis => "ms",
            Self::Ratio => "1",
        }
    }
}

impl Protocols {
    const ALL: [Protocol; 6] = [
        Protocol::Other,
        Protocol::Http1,
        Protocol::Tls,
        Protocol::Http2,
        Protocol::TlsHttp2,
        Protocol::Quic,
    ];

    /// Those in the set.
    pub fn iter(self) -> impl Iterator<Item = Protocol> {
        Self::ALL.into_iter().filter(move |protocol| self.0 & bit(*protocol) != 0)
    }

    fn insert(&mut self, protocol: Protocol) {
        self.0 |= bit(protocol);
    }
}

impl FromIterator<Protocol> for Protocols {
    fn from_iter<I: IntoIterator<Item = Protocol>>(protocols: I) -> Self {
        Self(protocols.into_iter().fold(0, |set, protocol| set | bit(protocol)))
    }
}

fn bit(protocol: Protocol) -> u8 {
    1 << protocol as u8
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn asking(time: Duration) -> u64 {
    if time <= PAUSE { micros(time) } else { 0 }
}

/// Keeps the lowest `most` of those listed, ascending.
fn list<T: Clone + Ord>(listed: &mut Vec<T>, new: &T, most: usize) {
    let Err(at) = listed.binary_search(new) else { return };
    if at == most {
        return;
    }
    if listed.len() == most {
        listed.pop();
    }
    // Most clients have one.
    listed.reserve_exact(1);
    listed.insert(at, new.clone());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{RoundTrips, test_exchange};

    /// Exchanges of one client in the order in which they began.
    fn exchanges(most: usize) -> impl Strategy<Value = Vec<Exchange>> {
        let one = (
            (0..600_000_u64, 0..100_000_u64, 0..1_000_000_u64),
            (0..40_u16, 0..20_u8, 0..6_usize, 0..9_u64),
            (0..50_u32, prop::option::of(0..3000_u64), prop::option::of(0..300_u64)),
        );
        prop::collection::vec(one, 0..most).prop_map(|all| {
            let mut start = 1_790_000_000_000;
            all.into_iter()
                .map(|((pause, request, answer), (port, stack, protocol, flow), (records, first, trip))| {
                    start += pause;
                    Exchange {
                        start: Nanos(start * 1_000_000),
                        service: Service { address: None, port },
                        request_bytes: request,
                        answer_bytes: answer,
                        time_to_first_byte: first.map(Duration::from_millis),
                        duration: Duration::from_millis(answer / 10),
                        records,
                        protocol: Protocols::ALL[protocol],
                        ja4: (stack > 0).then(|| format!("t13d{stack:02}")),
                        flow,
                        round_trips: RoundTrips {
                            tcp: trip.map(Duration::from_millis),
                            tls: first.map(Duration::from_millis),
                        },
                        ..test_exchange()
                    }
                })
                .collect()
        })
    }

    /// Of exchanges that followed `before`.
    fn fingerprint(exchanges: &[Exchange], mut before: Option<Nanos>) -> Fingerprint {
        let first = exchanges.first().map_or(Nanos(u64::MAX), |exchange| exchange.start);
        let mut fingerprint = Fingerprint { last_seen: Nanos(0), ..Fingerprint::new(first) };
        for exchange in exchanges {
            fingerprint.add(exchange);
            fingerprint.add_intervals(exchange.start, Neighbours { before, after: None });
            before = Some(exchange.start);
        }
        fingerprint
    }

    fn merged(one: &Fingerprint, other: &Fingerprint) -> Fingerprint {
        let mut merged = one.clone();
        merged.merge(other);
        merged
    }

    proptest! {
        #[test]
        fn what_is_merged_from_parts_is_that_of_the_whole(all in exchanges(60), cut in any::<prop::sample::Index>()) {
            let cut = cut.index(all.len() + 1);
            let (one, other) = all.split_at(cut);
            let parts = merged(&fingerprint(one, None), &fingerprint(other, one.last().map(|last| last.start)));
            prop_assert_eq!(parts, fingerprint(&all, None));
        }

        #[test]
        fn merging_does_not_depend_on_the_order(a in exchanges(30), b in exchanges(30), c in exchanges(30)) {
            let [a, b, c] = [a, b, c].map(|all| fingerprint(&all, None));
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        }

        #[test]
        fn a_distance_is_the_same_both_ways_and_none_to_itself(a in exchanges(30), b in exchanges(30)) {
            let [a, b] = [a, b].map(|all| fingerprint(&all, None));
            let apart = a.distance(&b);
            prop_assert!((0.0..=1.0).contains(&apart) && (apart - b.distance(&a)).abs() < 1e-12);
            prop_assert!(a.distance(&a) < 1e-6);
            // How much was asked does not count.
            prop_assert!(a.distance(&merged(&a, &a)) < 1e-6);
        }

        #[test]
        fn lists_are_bounded_and_ascending(all in exchanges(100)) {
            let Fingerprint { services, ja4, .. } = fingerprint(&all, None);
            prop_assert!(services.len() <= MAX_SERVICES && services.is_sorted() && ja4.len() <= MAX_JA4 && ja4.is_sorted());
        }
    }

    #[test]
    fn what_has_nothing_in_common_is_at_one_and_what_differs_in_one_figure_is_near() {
        let at = |second: u64| Nanos(second * 1_000_000_000);
        let one = Exchange { start: at(10), ..test_exchange() };
        let other = Exchange {
            start: at(HOUR_S * 5),
            request_bytes: 1 << 20,
            answer_bytes: 1 << 29,
            record_median: 4096,
            duration: Duration::from_secs(50),
            ..test_exchange()
        };
        let of = |exchange: &Exchange| fingerprint(std::slice::from_ref(exchange), None);
        assert!((of(&one).distance(&of(&other)) - 1.0).abs() < 1e-9);
        let slower = Exchange { duration: Duration::from_secs(50), ..one.clone() };
        // One of six: sizes (3), records, durations and hours.
        assert!((of(&one).distance(&of(&slower)) - 1.0 / 6.0).abs() < 1e-9);
        let nobody = Fingerprint::new(at(10));
        assert_eq!((nobody.distance(&nobody), nobody.distance(&of(&one))), (0.0, 1.0));
    }

    #[test]
    fn concurrency_leaves_pauses_out() {
        let begins = [0, 10, 20, 4000, 4010];
        let exchanges = begins.map(|second| Exchange {
            start: Nanos(second * 1_000_000_000),
            duration: Duration::from_secs(12),
            ..test_exchange()
        });
        let fingerprint = fingerprint(&exchanges, None);
        assert_eq!(fingerprint.concurrency(), Some(2.0));
        assert_eq!(fingerprint.requests_per_connection().map(f64::round), Some(5.0));
    }

    #[test]
    fn intervals_are_those_between_begins_in_whatever_order_exchanges_end() {
        let mut fingerprint = Fingerprint::new(Nanos(0));
        let at = |millis: u64| Nanos(millis * 1_000_000);
        for (start, before, after) in
            [(0, None, None), (400, Some(0), None), (100, Some(0), Some(400)), (300, Some(100), Some(400))]
        {
            fingerprint.add_intervals(at(start), Neighbours { before: before.map(at), after: after.map(at) });
        }
        let mut expected = [0; BUCKETS];
        (expected[6], expected[7]) = (2, 1);
        assert_eq!(fingerprint.histogram(Distribution::Intervals).counts(), expected, "100, 200 and 100 ms");
        assert_eq!(fingerprint.asking_us, 400_000);
    }
}
