//! One client's last exchanges, whenever they were: what rules that look across hours read, and whoever looks at it.
//!
//! Exchanges arrive when they end and are placed where they began. Of the newest, what no rule reads is kept, too, for
//! people. Invariant: marks are sorted by start and bounded, and the details are those of the newest marks.
//! [`MAX_MARKS`] x 32 and [`MAX_DETAILS`] x 24 bytes, 2.4 KB, a client at most.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Accuracy, ClientId, Ending, Exchange, Fingerprint, Head, Heads, Identity, Nanos, Protocol, RoundTrips,
    Service, client_id::fnv1a, short::Short, tokens, window::streamed_record_bytes,
};

/// Exchanges kept.
pub(crate) const MAX_MARKS: usize = 64;

/// Exchanges of which details are kept.
pub(crate) const MAX_DETAILS: usize = 16;

/// Share of a usual client's answers that are as long as its longest.
pub(crate) const CAPPED: f64 = 0.02;

/// Answers within this share of the longest are as long.
const CAP_TOLERANCE: f64 = 0.01;

/// What is kept of one exchange: 32 bytes. Figures too large for their field become its maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) start: Nanos,
    duration_us: u32,
    first_byte_us: u32,
    pub(crate) request_bytes: u32,
    pub(crate) answer_bytes: u32,
    /// Estimated tokens of the answer.
    pub(crate) tokens: u32,
    /// Median bytes of a server record of a streamed answer; 0 when it was not one.
    pub(crate) record_bytes: u16,
    pub(crate) service: u16,
}

/// What people see of an exchange beside its mark: 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Detail {
    first_token_us: Short,
    tcp_round_trip_us: Short,
    tls_round_trip_us: Short,
    records: Short,
    record_median: Short,
    request_head: Short,
    answer_head: Short,
    client_port: u16,
    port: u16,
    /// Hashes of what is listed in the fingerprint.
    ja4: u16,
    service: u8,
    /// In 254ths; [`NOT_ESTIMATED`] where nothing is estimated.
    confidence: u8,
    traits: Traits,
}

/// Six properties, of two bits each but for the first of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Traits(u16);

/// Without an answer.
const NO_FIRST_BYTE: u32 = u32::MAX;
const NO_JA4: u16 = 0;
const NOT_ESTIMATED: u8 = u8::MAX;

/// The last exchanges of one client.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Trail {
    marks: VecDeque<Mark>,
    details: VecDeque<Detail>,
}

/// What became of an exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filed {
    /// The starts beside it; `None` when it is older than everything kept and there was no room.
    pub(crate) beside: Option<Neighbours>,
    /// What there was no room for.
    pub(crate) out: Option<Mark>,
}

/// Where a client's answers end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cap {
    pub(crate) tokens: f64,
    /// Of the answers.
    pub(crate) share: f64,
    pub(crate) nats: f64,
}

/// The figures of a trail, each ascending: what most rules ask for, sorted once.
#[derive(Debug)]
pub(crate) struct Digest {
    pub(crate) request_bytes: Vec<f64>,
    pub(crate) answer_bytes: Vec<f64>,
    pub(crate) tokens: Vec<f64>,
    pub(crate) seconds: Vec<f64>,
}

/// The starts beside a new one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbours {
    pub(crate) before: Option<Nanos>,
    pub(crate) after: Option<Nanos>,
}

impl Mark {
    pub(crate) fn new(exchange: &Exchange, service: u16) -> Self {
        Self {
            start: exchange.start,
            duration_us: micros(exchange.duration),
            first_byte_us: exchange.time_to_first_byte.map_or(NO_FIRST_BYTE, micros),
            request_bytes: narrow(exchange.request_bytes),
            answer_bytes: narrow(exchange.answer_bytes),
            tokens: tokens::of_answer(exchange) as u32,
            record_bytes: streamed_record_bytes(exchange)
                .map_or(0, |bytes| u16::try_from(bytes).unwrap_or(u16::MAX)),
            service,
        }
    }

    pub(crate) fn duration_s(&self) -> f64 {
        f64::from(self.duration_us) / 1e6
    }

    pub(crate) fn end(&self) -> Nanos {
        self.start + Duration::from_micros(self.duration_us.into())
    }

    fn first_byte(&self) -> Option<Duration> {
        (self.first_byte_us != NO_FIRST_BYTE).then(|| Duration::from_micros(self.first_byte_us.into()))
    }

    /// Answer bytes a second, from the first byte on.
    pub(crate) fn speed(&self) -> f64 {
        let first_byte_us = self.first_byte().map_or(0, micros);
        let seconds = f64::from(self.duration_us.saturating_sub(first_byte_us)) / 1e6;
        f64::from(self.answer_bytes) / seconds.max(1e-3)
    }
}

impl Detail {
    fn new(exchange: &Exchange) -> Self {
        Self {
            first_token_us: short(exchange.time_to_first_token),
            tcp_round_trip_us: short(exchange.round_trips.tcp),
            tls_round_trip_us: short(exchange.round_trips.tls),
            records: Short::new(exchange.records.into()),
            record_median: Short::new(exchange.record_median.into()),
            request_head: exchange.heads.request.map(|head| head.bytes.into()).into(),
            answer_head: exchange.heads.answer.map(|head| head.bytes.into()).into(),
            client_port: exchange.client_port,
            port: exchange.service.port,
            ja4: exchange.ja4.as_deref().map_or(NO_JA4, ja4_hash),
            service: service_hash(&exchange.service),
            confidence: exchange
                .confidence
                .map_or(NOT_ESTIMATED, |share| (share.clamp(0.0, 1.0) * 254.0).round() as u8),
            traits: Traits::new(exchange),
        }
    }

    /// The exchange of `mark`; `fingerprint` lists its service and its JA4.
    fn exchange(&self, mark: &Mark, client: ClientId, fingerprint: &Fingerprint) -> Exchange {
        let time = |micros: Short| micros.get().map(Duration::from_micros);
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let number = |number: Short| number.get().map_or(0, narrow);
        let head = |bytes: Short, accuracy| bytes.get().map(|bytes| Head { bytes: narrow(bytes), accuracy });
        let services = fingerprint.services.iter().copied();
        let service = { services }
            .find(|service| service.port == self.port && service_hash(service) == self.service)
            .unwrap_or(Service { address: None, port: self.port });
        let is_estimated = self.confidence != NOT_ESTIMATED;
        Exchange {
            start: mark.start,
            client,
            identity: self.traits.identity(),
            client_port: self.client_port,
            service,
            flow: 0,
            request_bytes: mark.request_bytes.into(),
            answer_bytes: mark.answer_bytes.into(),
            heads: Heads {
                request: head(self.request_head, self.traits.request_head()),
                answer: head(self.answer_head, self.traits.answer_head()),
            },
            time_to_first_byte: mark.first_byte(),
            time_to_first_token: time(self.first_token_us),
            duration: Duration::from_micros(mark.duration_us.into()),
            records: number(self.records),
            record_median: number(self.record_median),
            protocol: self.traits.protocol(),
            accuracy: self.traits.accuracy(),
            confidence: is_estimated.then(|| f32::from(self.confidence) / 254.0),
            ending: self.traits.ending(),
            truncated: None,
            ja4: fingerprint.ja4.iter().find(|ja4| ja4_hash(ja4) == self.ja4).cloned(),
            round_trips: RoundTrips { tcp: time(self.tcp_round_trip_us), tls: time(self.tls_round_trip_us) },
        }
    }
}

impl Traits {
    fn new(exchange: &Exchange) -> Self {
        let protocol = exchange.protocol as u16;
        let accuracy = exchange.accuracy as u16;
        let ending = exchange.ending as u16;
        let identity = exchange.identity as u16;
        let head = |head: Option<Head>| head.map_or(0, |head| head.accuracy as u16);
        let heads = head(exchange.heads.request) << 10 | head(exchange.heads.answer) << 12;
        Self(protocol | accuracy << 4 | ending << 6 | identity << 8 | heads)
    }

    fn protocol(self) -> Protocol {
        [Protocol::Other, Protocol::Http1, Protocol::Tls, Protocol::Http2, Protocol::TlsHttp2, Protocol::Quic]
            .into_iter()
            .find(|protocol| *protocol as u16 == self.0 & 15)
            .unwrap_or_default()
    }

    fn accuracy(self) -> Accuracy {
        self.accuracy_at(4)
    }

    fn request_head(self) -> Accuracy {
        self.accuracy_at(10)
    }

    fn answer_head(self) -> Accuracy {
        self.accuracy_at(12)
    }

    fn accuracy_at(self, bit: u32) -> Accuracy {
        match self.0 >> bit & 3 {
            0 => Accuracy::Exact,
            1 => Accuracy::Derived,
            _ => Accuracy::Estimated,
        }
    }

    fn ending(self) -> Ending {
        match self.0 >> 6 & 3 {
            0 => Ending::Complete,
            _ => Ending::Aborted,
        }
    }

    fn identity(self) -> Identity {
        match self.0 >> 8 & 3 {
            0 => Identity::Direct,
            1 => Identity::Proxy,
            _ => Identity::Forwarded,
        }
    }
}

impl Trail {
    /// Takes in one exchange of the service of that number.
    pub(crate) fn insert(&mut self, exchange: &Exchange, service: u16) -> Filed {
        let mark = Mark::new(exchange, service);
        let start = mark.start;
        // Looked for from the back, since most things come nearly in order.
        let at = self.marks.iter().rposition(|held| held.start <= start).map_or(0, |before| before + 1);
        let is_full = self.marks.len() == MAX_MARKS;
        if at == 0 && is_full {
            return Filed { beside: None, out: Some(mark) };
        }
        let before = at.checked_sub(1).map(|before| self.marks[before].start);
        let after = self.marks.get(at).map(|mark| mark.start);
        self.insert_detail(at, exchange);
        // Room is made first, so that the list never grows beyond what it may hold.
        let out = if is_full { self.marks.pop_front() } else { None };
        self.marks.insert(at - usize::from(is_full), mark);
        Filed { beside: Some(Neighbours { before, after }), out }
    }

    /// Details of a mark that will be the one at `at` among those that are there.
    fn insert_detail(&mut self, at: usize, exchange: &Exchange) {
        let without = self.marks.len() - self.details.len();
        let Some(at) = at.checked_sub(without) else { return };
        let is_full = self.details.len() == MAX_DETAILS;
        if is_full {
            if at == 0 {
                return;
            }
            self.details.pop_front();
        }
        self.details.insert(at - usize::from(is_full), Detail::new(exchange));
    }

    /// The newest exchanges, newest start first. A service or JA4 that the client's fingerprint does not list is not told.
    pub(crate) fn exchanges(&self, client: ClientId, fingerprint: &Fingerprint) -> Vec<Exchange> {
        let newest = self.marks.iter().rev().zip(self.details.iter().rev());
        newest.map(|(mark, detail)| detail.exchange(mark, client, fingerprint)).collect()
    }

    /// Marks that began after `from` and not after `to`, oldest first.
    pub(crate) fn between(
        &self,
        from: Nanos,
        to: Nanos,
    ) -> impl DoubleEndedIterator<Item = &Mark> + ExactSizeIterator {
        // Recordings start at 0, and nothing can begin before that.
        let is_before = |mark: &Mark| mark.start <= from && from > Nanos::default();
        let first = self.marks.partition_point(is_before);
        let end = self.marks.partition_point(|mark| mark.start <= to).max(first);
        self.marks.range(first..end)
    }

    pub(crate) fn len(&self) -> usize {
        self.marks.len()
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Mark> + ExactSizeIterator {
        self.marks.iter()
    }

    pub(crate) fn newest(&self) -> Option<&Mark> {
        self.marks.back()
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest {
            request_bytes: self.column(|mark| mark.request_bytes, 1.0),
            answer_bytes: self.column(|mark| mark.answer_bytes, 1.0),
            tokens: self.column(|mark| mark.tokens, 1.0),
            seconds: self.column(|mark| mark.duration_us, 1e6),
        }
    }

    /// A figure of each mark, ascending, in its unit: integers sort twice as fast.
    fn column(&self, value: fn(&Mark) -> u32, unit: f64) -> Vec<f64> {
        let mut values: Vec<u32> = self.marks.iter().map(value).collect();
        values.sort_unstable();
        values.into_iter().map(|value| f64::from(value) / unit).collect()
    }

    /// The value of each mark, ascending.
    pub(crate) fn sorted(&self, value: impl Fn(&Mark) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.marks.iter().map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    }
}

impl Digest {
    /// Where answers are cut off. The evidence is how much likelier so many answers of the greatest length are here than with
    /// other clients.
    pub(crate) fn cap(&self) -> Cap {
        let most = self.tokens.last().copied().unwrap_or_default();
        let below = self.tokens.partition_point(|tokens| *tokens < most * (1.0 - CAP_TOLERANCE));
        let count = self.tokens.len() as f64;
        let share = (count - below as f64) / count.max(1.0);
        Cap { tokens: most, share, nats: count * divergence(share, CAPPED) }
    }
}

/// Kullback-Leibler divergence of two shares, nats; 0 when `share` is not the larger one.
pub(crate) fn divergence(share: f64, usual: f64) -> f64 {
    if share <= usual {
        return 0.0;
    }
    let rest = if share < 1.0 { (1.0 - share) * ((1.0 - share) / (1.0 - usual)).ln() } else { 0.0 };
    share * (share / usual).ln() + rest
}

/// The value that a share of `quantile` of the ascending `sorted` does not exceed; 0 without any.
pub(crate) fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((quantile * last).round() as usize).copied().unwrap_or_default()
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX - 1)
}

fn narrow(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn short(time: Option<Duration>) -> Short {
    time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)).into()
}

/// Tells the services of one client apart that have one port.
fn service_hash(service: &Service) -> u8 {
    match service.address {
        None => 0,
        Some(IpAddr::V4(address)) => fnv1a(&address.octets()) as u8,
        Some(IpAddr::V6(address)) => fnv1a(&address.octets()) as u8,
    }
}

/// Tells the TLS stacks of one client apart.
fn ja4_hash(ja4: &str) -> u16 {
    (fnv1a(ja4.as_bytes()) as u16).max(NO_JA4 + 1)
}

const _: () = assert!(size_of::<Mark>() == 32 && size_of::<Detail>() == 24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_exchange;

    fn trail(exchanges: &[Exchange]) -> (Trail, Fingerprint) {
        let (mut trail, mut fingerprint) = (Trail::default(), Fingerprint::new(Nanos(0)));
        for exchange in exchanges {
            fingerprint.add(exchange);
            trail.insert(exchange, 0);
        }
        (trail, fingerprint)
    }

    #[test]
    fn an_exchange_comes_out_as_it_went_in() {
        let full = Exchange {
            flow: 0,
            client_port: 50_000,
            service: Service { address: Some([10, 0, 0, 5].into()), port: 8000 },
            time_to_first_byte: Some(Duration::ZERO),
            time_to_first_token: Some(Duration::from_micros(1)),
            duration: Duration::from_hours(1),
            records: 1900,
            protocol: Protocol::TlsHttp2,
            accuracy: Accuracy::Estimated,
            heads: Heads {
                request: Some(Head { bytes: 627, accuracy: Accuracy::Exact }),
                answer: Some(Head { bytes: 0, accuracy: Accuracy::Estimated }),
            },
            confidence: Some(1.0),
            ending: Ending::Aborted,
            identity: Identity::Forwarded,
            ja4: Some("t13d1812h1_85036bcba153_375ca2c5e164".to_owned()),
            round_trips: RoundTrips { tcp: Some(Duration::ZERO), tls: Some(Duration::from_millis(2)) },
            ..test_exchange()
        };
        let plain =
            Exchange { flow: 0, identity: Identity::Proxy, protocol: Protocol::Quic, ..test_exchange() };
        for exchange in [full, plain] {
            let (trail, fingerprint) = trail(std::slice::from_ref(&exchange));
            assert_eq!(trail.exchanges(exchange.client, &fingerprint), [exchange]);
        }
    }

    #[test]
    fn the_newest_are_kept_in_order_whatever_order_they_come_in_each_with_its_details() {
        let at = |n: u64| Exchange {
            start: Nanos(n * 7 % 200),
            client_port: (n * 7 % 200) as u16,
            ..test_exchange()
        };
        let (trail, fingerprint) = trail(&(0..200).map(at).collect::<Vec<_>>());
        let shown = trail.exchanges(test_exchange().client, &fingerprint);
        let starts: Vec<u64> = shown.iter().map(|exchange| exchange.start.0).collect();
        assert_eq!(starts, (200 - MAX_DETAILS as u64..200).rev().collect::<Vec<_>>());
        assert!(shown.iter().all(|exchange| u64::from(exchange.client_port) == exchange.start.0));
        let marks: Vec<u64> = trail.iter().map(|mark| mark.start.0).collect();
        assert_eq!(marks, (200 - MAX_MARKS as u64..200).collect::<Vec<_>>());
    }
}
