//! One client's last exchanges as they came, for whoever looks at the client.
//!
//! What its exchanges have in common (the client, services, JA4s) is kept once, beside this. Invariant: sorted by start,
//! at most [`MAX_RECENT`] x 96 bytes, and what comes out equals what went in (round trips to the microsecond).

use std::{collections::VecDeque, time::Duration};

use crate::{
    Accuracy, ClientId, Ending, Exchange, Head, Heads, Identity, Nanos, Protocol, RoundTrips, Service,
    trail::Neighbours,
};

pub(crate) const MAX_RECENT: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Newest start last.
    kept: VecDeque<Kept>,
}

/// An exchange without what is known of its client.
#[derive(Clone, Copy, Debug)]
struct Kept {
    start: Nanos,
    duration_ns: u64,
    first_byte_ns: u64,
    first_token_ns: u64,
    flow: u64,
    request_bytes: u64,
    answer_bytes: u64,
    records: u32,
    record_median: u32,
    tcp_round_trip_us: u32,
    tls_round_trip_us: u32,
    /// Not a number where nothing is estimated.
    confidence: f32,
    client_port: u16,
    port: u16,
    service: u8,
    ja4: u8,
    traits: Traits,
    /// Heads too large for this are not kept.
    request_head: u16,
    answer_head: u16,
}

#[derive(Clone, Copy, Debug)]
struct Traits {
    protocol: Protocol,
    accuracy: Accuracy,
    ending: Ending,
    identity: Identity,
    request_head: Accuracy,
    answer_head: Accuracy,
}

/// Where a figure or an entry is missing.
const ABSENT: u64 = u64::MAX;
const NO_ROUND_TRIP: u32 = u32::MAX;
const NOWHERE: u8 = u8::MAX;
const NO_HEAD: u16 = 0;

impl Recent {
    /// Takes in one exchange, of the listed `services` and `ja4`s; tells the starts beside it. One that is older than everything kept
    /// is not taken in when there is no room.
    pub(crate) fn insert(
        &mut self,
        exchange: &Exchange,
        service: Option<usize>,
        ja4: Option<usize>,
    ) -> Neighbours {
        let at = place(&self.kept, exchange.start, |kept| kept.start);
        let before = at.checked_sub(1).map(|before| self.kept[before].start);
        let after = self.kept.get(at).map(|kept| kept.start);
        if self.kept.len() < MAX_RECENT {
            self.kept.insert(at, Kept::new(exchange, service, ja4));
        } else if at > 0 {
            self.kept.pop_front();
            self.kept.insert(at - 1, Kept::new(exchange, service, ja4));
        }
        Neighbours { before, after }
    }

    /// Newest start first.
    pub(crate) fn exchanges(&self, client: ClientId, services: &[Service], ja4: &[String]) -> Vec<Exchange> {
        self.kept.iter().rev().map(|kept| kept.exchange(client, services, ja4)).collect()
    }
}

impl Kept {
    fn new(exchange: &Exchange, service: Option<usize>, ja4: Option<usize>) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(ABSENT - 1);
        let round_trip = |time: Option<Duration>| {
            time.map_or(NO_ROUND_TRIP, |time| u32::try_from(time.as_micros()).unwrap_or(NO_ROUND_TRIP - 1))
        };
        let accuracy = |head: Option<Head>| head.map_or(Accuracy::Exact, |head| head.accuracy);
        let bytes =
            |head: Option<Head>| head.and_then(|head| u16::try_from(head.bytes).ok()).unwrap_or(NO_HEAD);
        let index = |at: Option<usize>| at.and_then(|at| u8::try_from(at).ok()).unwrap_or(NOWHERE);
        Self {
            start: exchange.start,
            duration_ns: nanos(exchange.duration),
            first_byte_ns: exchange.time_to_first_byte.map_or(ABSENT, nanos),
            first_token_ns: exchange.time_to_first_token.map_or(ABSENT, nanos),
            flow: exchange.flow,
            request_bytes: exchange.request_bytes,
            answer_bytes: exchange.answer_bytes,
            records: exchange.records,
            record_median: exchange.record_median,
            tcp_round_trip_us: round_trip(exchange.round_trips.tcp),
            tls_round_trip_us: round_trip(exchange.round_trips.tls),
            confidence: exchange.confidence.unwrap_or(f32::NAN),
            client_port: exchange.client_port,
            port: exchange.service.port,
            service: index(service),
            ja4: index(ja4),
            traits: Traits {
                protocol: exchange.protocol,
                accuracy: exchange.accuracy,
                ending: exchange.ending,
                identity: exchange.identity,
                request_head: accuracy(exchange.heads.request),
                answer_head: accuracy(exchange.heads.answer),
            },
            request_head: bytes(exchange.heads.request),
            answer_head: bytes(exchange.heads.answer),
        }
    }

    fn exchange(&self, client: ClientId, services: &[Service], ja4: &[String]) -> Exchange {
        let time = |nanos: u64| (nanos != ABSENT).then(|| Duration::from_nanos(nanos));
        let round_trip =
            |micros: u32| (micros != NO_ROUND_TRIP).then(|| Duration::from_micros(micros.into()));
        let head =
            |bytes: u16, accuracy| (bytes != NO_HEAD).then_some(Head { bytes: bytes.into(), accuracy });
        let Traits { protocol, accuracy, ending, identity, request_head, answer_head } = self.traits;
        let unlisted = Service { address: None, port: self.port };
        Exchange {
            start: self.start,
            client,
            identity,
            client_port: self.client_port,
            service: services.get(usize::from(self.service)).copied().unwrap_or(unlisted),
            flow: self.flow,
            request_bytes: self.request_bytes,
            answer_bytes: self.answer_bytes,
            heads: Heads {
                request: head(self.request_head, request_head),
                answer: head(self.answer_head, answer_head),
            },
            time_to_first_byte: time(self.first_byte_ns),
            time_to_first_token: time(self.first_token_ns),
            duration: Duration::from_nanos(self.duration_ns),
            records: self.records,
            record_median: self.record_median,
            protocol,
            accuracy,
            confidence: (!self.confidence.is_nan()).then_some(self.confidence),
            ending,
            truncated: None,
            ja4: ja4.get(usize::from(self.ja4)).cloned(),
            round_trips: RoundTrips {
                tcp: round_trip(self.tcp_round_trip_us),
                tls: round_trip(self.tls_round_trip_us),
            },
        }
    }
}

/// Where a thing that began at `start` belongs among `sorted` ones, behind those of the same time. Looked for from the back,
/// since most things come nearly in order.
pub(crate) fn place<T>(sorted: &VecDeque<T>, start: Nanos, of: impl Fn(&T) -> Nanos) -> usize {
    sorted.iter().rposition(|held| of(held) <= start).map_or(0, |before| before + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_exchange;

    #[test]
    fn an_exchange_comes_out_as_it_went_in() {
        let (service, ja4) = (test_exchange().service, "t13d1812h1_85036bcba153_375ca2c5e164".to_owned());
        let full = Exchange {
            client_port: 50_000,
            flow: u64::MAX,
            time_to_first_byte: Some(Duration::ZERO),
            time_to_first_token: Some(Duration::from_nanos(1)),
            duration: Duration::from_hours(24),
            protocol: Protocol::TlsHttp2,
            accuracy: Accuracy::Estimated,
            heads: Heads {
                request: Some(Head { bytes: 627, accuracy: Accuracy::Exact }),
                answer: Some(Head { bytes: u16::MAX.into(), accuracy: Accuracy::Derived }),
            },
            confidence: Some(0.25),
            ending: Ending::Aborted,
            identity: Identity::Forwarded,
            ja4: Some(ja4.clone()),
            round_trips: RoundTrips { tcp: Some(Duration::ZERO), tls: Some(Duration::from_micros(81_600)) },
            ..test_exchange()
        };
        for exchange in [full, test_exchange()] {
            let mut recent = Recent::default();
            recent.insert(&exchange, Some(0), exchange.ja4.as_ref().map(|_| 0));
            assert_eq!(recent.exchanges(exchange.client, &[service], std::slice::from_ref(&ja4)), [exchange]);
        }
    }

    #[test]
    fn the_newest_are_kept_in_order_whatever_order_they_come_in() {
        let mut recent = Recent::default();
        for n in 0..200_u64 {
            recent.insert(&Exchange { start: Nanos(n * 7 % 200), ..test_exchange() }, None, None);
        }
        let starts: Vec<u64> = recent
            .exchanges(test_exchange().client, &[], &[])
            .iter()
            .map(|exchange| exchange.start.0)
            .collect();
        assert_eq!(starts, (136..200).rev().collect::<Vec<_>>());
    }
}
