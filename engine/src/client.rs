//! What the engine keeps of one client between exchanges.
//!
//! Memory is bounded: the window (13 KB at most), the trail (2 KB), 64 recent exchanges (6 KB), the own past (56
//! bytes) and the rest (2 KB). A client with a dozen exchanges takes about 4 KB.

use std::time::Duration;

use crate::{
    Accuracy, ClientId, ClientView, Ending, Exchange, Identity, Nanos, Protocol, Service, Totals,
    baseline::OwnPast,
    cadence::Cadence,
    histogram::Histogram,
    impact::Taken,
    lifecycle::Lifecycle,
    pace::Pace,
    recent::Recent,
    trail::{MAX_MARKS, Mark, Neighbours, Trail},
    window::{RING, Sample, WINDOWS, Window},
};

/// A client is judged this often at most, unless its whole trail is new.
const JUDGE_EVERY: Duration = Duration::from_secs(5);

const MAX_SERVICES: usize = 16;
const MAX_JA4: usize = 8;
/// A JA4 fingerprint has 36 characters; anything much longer is not one.
const MAX_JA4_LEN: usize = 64;

const MINUTE: u64 = 60_000_000_000;

/// Minutes that must have passed before a minute is taken as complete: exchanges arrive when they end.
const MINUTES_TO_SETTLE: u64 = 2;

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) window: Window,
    pub(crate) trail: Trail,
    pub(crate) cadence: Cadence,
    pub(crate) pace: Pace,
    pub(crate) past: OwnPast,
    pub(crate) lifecycle: Lifecycle,
    /// Exchanges since it was last judged.
    fresh: usize,
    /// Start of the newest exchange when it was.
    judged: Nanos,
    /// Whether it was heard of since the time last moved.
    pub(crate) is_touched: bool,
    pub(crate) first_seen: Nanos,
    last_seen: Nanos,
    pub(crate) totals: Totals,
    /// Estimated tokens in all, and their price.
    pub(crate) taken: Taken,
    request_sizes: Histogram,
    answer_sizes: Histogram,
    intervals: Histogram,
    services: Vec<Service>,
    protocols: Vec<Protocol>,
    accuracy: Accuracy,
    pub(crate) ja4: Vec<String>,
    identity: Identity,
    recent: Recent,
    /// The first minute not yet fed to `past`.
    next_minute: u64,
}

impl Client {
    pub(crate) fn new(first_seen: Nanos) -> Self {
        Self {
            window: Window::default(),
            trail: Trail::default(),
            cadence: Cadence::default(),
            pace: Pace::default(),
            fresh: 0,
            judged: Nanos::default(),
            past: OwnPast::default(),
            lifecycle: Lifecycle::default(),
            is_touched: false,
            first_seen,
            last_seen: first_seen,
            totals: Totals::default(),
            taken: Taken::NOTHING,
            request_sizes: Histogram::default(),
            answer_sizes: Histogram::default(),
            intervals: Histogram::default(),
            services: Vec::new(),
            protocols: Vec::new(),
            accuracy: Accuracy::Exact,
            ja4: Vec::new(),
            identity: Identity::Direct,
            recent: Recent::default(),
            next_minute: first_seen.0 / MINUTE,
        }
    }

    /// Counts an exchange and remembers it among the recent.
    pub(crate) fn count(&mut self, exchange: &Exchange) {
        self.first_seen = self.first_seen.min(exchange.start);
        self.last_seen = self.last_seen.max(exchange.start + exchange.duration);
        self.totals.requests += 1;
        self.totals.request_bytes = self.totals.request_bytes.saturating_add(exchange.request_bytes);
        self.totals.answer_bytes = self.totals.answer_bytes.saturating_add(exchange.answer_bytes);
        self.totals.aborted += u64::from(exchange.ending == Ending::Aborted);
        self.request_sizes.add_size(exchange.request_bytes);
        self.answer_sizes.add_size(exchange.answer_bytes);
        self.accuracy = self.accuracy.max(exchange.accuracy);
        if self.identity != Identity::Forwarded {
            self.identity = exchange.identity;
        }
        let service = remember(&mut self.services, &exchange.service, MAX_SERVICES);
        remember(&mut self.protocols, &exchange.protocol, usize::MAX);
        let ja4 = exchange.ja4.as_ref().filter(|ja4| ja4.len() <= MAX_JA4_LEN);
        let ja4 = ja4.and_then(|ja4| remember(&mut self.ja4, ja4, MAX_JA4));
        let beside = self.recent.insert(exchange, service, ja4);
        self.count_intervals(exchange.start, beside);
    }

    /// Counts the intervals to the neighbours of an exchange, in place of that between them: exchanges arrive when
    /// they end, not in the order in which they began.
    fn count_intervals(&mut self, start: Nanos, Neighbours { before, after }: Neighbours) {
        if let (Some(before), Some(after)) = (before, after) {
            self.intervals.remove_time(after.since(before));
        }
        if let Some(before) = before {
            self.intervals.add_time(start.since(before));
        }
        if let Some(after) = after {
            self.intervals.add_time(after.since(start));
        }
    }

    /// Places an exchange in the windows.
    pub(crate) fn place(&mut self, exchange: &Exchange, service: u16) {
        let sample = Sample::new(exchange, service);
        self.window.insert(sample);
        let mark = Mark::new(exchange, sample.record_bytes, service);
        if let Some(beside) = self.trail.insert(mark) {
            self.pace.add(&mark, beside);
        }
        self.fresh += 1;
    }

    /// Whether enough is new for another judgement, which is then taken to be made: an eighth of what the judgement rests
    /// on, a quarter once that is all it can be, and of a busy client all of it or five seconds. So the cost of judging is
    /// bounded for each exchange. What is open is followed closely. It does not depend on the order of what came since it was
    /// last asked.
    pub(crate) fn falls_due(&mut self) -> bool {
        let newest = self.trail.newest().map_or(Nanos::default(), |mark| mark.start);
        let is_due = if self.trail.len() < MAX_MARKS {
            self.fresh * 8 >= self.trail.len()
        } else {
            let is_renewed = self.fresh >= MAX_MARKS || newest.since(self.judged) >= JUDGE_EVERY;
            self.fresh * 4 >= MAX_MARKS && is_renewed
        };
        if is_due {
            self.fresh = 0;
            self.judged = self.judged.max(newest);
            self.cadence.feed(&self.trail);
        }
        is_due || self.lifecycle.is_open()
    }

    /// Feeds completed minutes to the own past, then forgets what has left the window.
    ///
    /// Minutes under an open anomaly are left out: what is unusual must not become usual.
    pub(crate) fn settle(&mut self, now: Nanos) {
        let complete = (now.0 / MINUTE).saturating_sub(MINUTES_TO_SETTLE - 1);
        let oldest = (now - RING).0 / MINUTE;
        // A clock that stepped back must not stop the feeding until it has caught up.
        let from = if self.next_minute > complete + MINUTES_TO_SETTLE { complete } else { self.next_minute };
        if self.lifecycle.is_open() {
            self.past.interrupt();
        } else {
            for minute in from.max(oldest)..complete {
                let (start, end) = (Nanos(minute * MINUTE), Nanos((minute + 1) * MINUTE));
                match self.window.requests_between(start, end) {
                    0 => {}
                    requests => self.past.feed(start, requests),
                }
            }
        }
        self.past.advance(Nanos(complete * MINUTE));
        self.next_minute = complete.max(from);
        self.window.expire(now);
    }

    pub(crate) fn view(&self, id: ClientId, now: Nanos) -> ClientView {
        ClientView {
            id,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            totals: self.totals,
            request_sizes: self.request_sizes,
            answer_sizes: self.answer_sizes,
            intervals: self.intervals,
            windows: WINDOWS.iter().map(|window| self.window.features(now, *window)).collect(),
            rate_series: self.window.rate_series(now),
            services: self.services.clone(),
            protocols: self.protocols.clone(),
            accuracy: self.accuracy,
            ja4: self.ja4.clone(),
            identity: self.identity,
            recent: self.recent.exchanges(id, &self.services, &self.ja4),
            open_anomalies: self.lifecycle.open().map(|anomaly| anomaly.kind).collect(),
        }
    }
}

/// Where `new` is among those held, after it was taken in if there is room.
fn remember<T: Clone + PartialEq>(held: &mut Vec<T>, new: &T, most: usize) -> Option<usize> {
    let known = held.iter().position(|held| held == new);
    if known.is_none() && held.len() < most {
        held.push(new.clone());
        return Some(held.len() - 1);
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        LifecycleConfig,
        anomaly::{AnomalyKind, Evidence, Severity},
        detector::Finding,
        lifecycle::NO_FACTS,
        test_exchange,
    };

    fn at(minute: u64) -> Nanos {
        Nanos(minute * MINUTE + MINUTE / 2)
    }

    fn client_with(requests: &[(u64, usize)]) -> Client {
        let mut client = Client::new(at(100));
        for (minute, count) in requests {
            for _ in 0..*count {
                client.place(&Exchange { start: at(*minute), ..test_exchange() }, 0);
            }
        }
        client
    }

    fn raise(client: &mut Client, minute: u64) {
        let evidence =
            Evidence { summary: String::new(), features: Vec::new(), series: Vec::new(), exchanges: 1 };
        let finding = Finding {
            score: 1.0,
            severity: Severity::Low,
            first_seen: at(minute),
            last_seen: at(minute),
            evidence,
            taken: Taken::NOTHING,
        };
        let id = test_exchange().client;
        client.lifecycle.found(id, AnomalyKind::Flood, finding, NO_FACTS, at(minute));
    }

    #[test]
    fn a_minute_is_learnt_only_when_it_is_complete() {
        let mut client = client_with(&[(100, 4), (103, 16)]);
        client.settle(at(100));
        assert_eq!(client.past.under_way(), None);
        client.settle(at(103));
        client.settle(at(103));
        assert_eq!(client.past.under_way(), Some(4.0));
        client.settle(at(105));
        assert_eq!(client.past.under_way(), Some(16.0));
    }

    #[test]
    fn minutes_under_an_open_anomaly_are_not_learnt() {
        let mut client = client_with(&[(100, 4), (101, 64), (102, 64), (120, 4)]);
        client.settle(at(101));
        raise(&mut client, 101);
        client.settle(at(104));
        let config = LifecycleConfig { close_after_s: 60.0, ..LifecycleConfig::default() };
        assert_eq!(client.lifecycle.advance(at(104), &config, NO_FACTS).len(), 1, "it closes");
        client.settle(at(108));
        assert_eq!(client.past.under_way(), None, "nothing of the anomaly is learnt afterwards either");
    }

    #[test]
    fn intervals_are_those_between_begins_in_whatever_order_exchanges_end() {
        let mut client = Client::new(Nanos(0));
        for begin_ms in [0, 400, 100, 300] {
            client.count(&Exchange { start: Nanos(begin_ms * 1_000_000), ..test_exchange() });
        }
        let mut expected = Histogram::default();
        for interval_ms in [100, 200, 100] {
            expected.add_time(Duration::from_millis(interval_ms));
        }
        assert_eq!(client.intervals, expected);
    }

    #[test]
    fn what_a_view_lists_is_bounded_and_newest_first() {
        let mut client = Client::new(test_exchange().start);
        for n in 0..200_u16 {
            client.count(&Exchange {
                start: Nanos(u64::from(n * 7 % 200)),
                service: Service { address: None, port: n },
                accuracy: if n == 9 { Accuracy::Estimated } else { Accuracy::Exact },
                ja4: Some(format!("t13d{n}")),
                ending: if n < 3 { Ending::Aborted } else { Ending::Complete },
                ..test_exchange()
            });
        }
        let view = client.view(test_exchange().client, Nanos(200));
        assert_eq!(
            (view.recent.len(), view.services.len(), view.ja4.len()),
            (crate::recent::MAX_RECENT, MAX_SERVICES, MAX_JA4)
        );
        assert!(view.recent.is_sorted_by(|a, b| a.start >= b.start) && view.recent[0].start == Nanos(199));
        assert_eq!((view.totals.requests, view.totals.aborted), (200, 3));
        assert_eq!(view.accuracy, Accuracy::Estimated);
    }
}
