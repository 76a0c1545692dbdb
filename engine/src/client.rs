//! What the engine keeps of one client between exchanges.
//!
//! Memory is bounded: the trail (2.3 KB at most), the fingerprint (1 KB, and 1 KB for what it lists), the own past and
//! the rest (0.8 KB), and for who asks more than 64 times in ten minutes tallies (1.2 KB).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    ClientId, ClientView, Exchange, Fingerprint, Nanos,
    baseline::OwnPast,
    cadence::Cadence,
    impact::Taken,
    lifecycle::Lifecycle,
    pace::Pace,
    trail::{Filed, MAX_MARKS, Mark, Trail},
    window::{RING, Tallies, WINDOWS, Window},
};

/// A client is judged this often at most, unless its whole trail is new.
const JUDGE_EVERY: Duration = Duration::from_secs(5);

const MINUTE: u64 = 60_000_000_000;

/// Minutes that must have passed before a minute is taken as complete: exchanges arrive when they end.
const MINUTES_TO_SETTLE: u64 = 2;

/// One client.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Client {
    pub(crate) tallies: Tallies,
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
    /// Estimated tokens in all, and their price.
    pub(crate) taken: Taken,
    pub(crate) fingerprint: Fingerprint,
    /// The first minute not yet fed to `past`.
    next_minute: u64,
}

impl Client {
    pub(crate) fn new(first_seen: Nanos) -> Self {
        Self {
            tallies: Tallies::default(),
            trail: Trail::default(),
            cadence: Cadence::default(),
            pace: Pace::default(),
            fresh: 0,
            judged: Nanos::default(),
            past: OwnPast::default(),
            lifecycle: Lifecycle::default(),
            is_touched: false,
            taken: Taken::NOTHING,
            fingerprint: Fingerprint::new(first_seen),
            next_minute: first_seen.0 / MINUTE,
        }
    }

    /// The last ten minutes.
    pub(crate) fn window(&self) -> Window<'_> {
        Window { trail: &self.trail, tallies: &self.tallies }
    }

    /// Counts an exchange.
    pub(crate) fn count(&mut self, exchange: &Exchange) {
        self.fingerprint.add(exchange);
    }

    /// Places an exchange among those of the last ten minutes.
    pub(crate) fn place(&mut self, exchange: &Exchange, service: u16) {
        let Filed { beside, out } = self.trail.insert(exchange, service);
        if let Some(beside) = beside {
            self.fingerprint.add_intervals(exchange.start, beside);
            self.pace.add(&Mark::new(exchange, service), beside);
        }
        if let Some(out) = out.filter(|out| out.start + RING > exchange.start) {
            self.tallies.fold(&out);
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
                match self.window().requests_between(start, end) {
                    0 => {}
                    requests => self.past.feed(start, requests),
                }
            }
        }
        self.past.advance(Nanos(complete * MINUTE));
        self.next_minute = complete.max(from);
        self.tallies.expire(now);
    }

    pub(crate) fn view(&self, id: ClientId, now: Nanos) -> ClientView {
        ClientView {
            id,
            windows: WINDOWS.iter().map(|window| self.window().features(now, *window)).collect(),
            rate_series: self.window().rate_series(now),
            recent: self.trail.exchanges(id, &self.fingerprint),
            fingerprint: self.fingerprint.clone(),
            open_anomalies: self.lifecycle.open().map(|anomaly| anomaly.kind).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Accuracy, Ending, LifecycleConfig, Service,
        anomaly::{AnomalyKind, Evidence, Severity},
        detector::Finding,
        fingerprint::{MAX_JA4, MAX_SERVICES},
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
    fn what_a_view_lists_is_bounded_and_newest_first() {
        let mut client = Client::new(test_exchange().start);
        for n in 0..200_u16 {
            let exchange = Exchange {
                start: Nanos(u64::from(n * 7 % 200)),
                service: Service { address: None, port: n },
                accuracy: if n == 9 { Accuracy::Estimated } else { Accuracy::Exact },
                ja4: Some(format!("t13d{n}")),
                ending: if n < 3 { Ending::Aborted } else { Ending::Complete },
                ..test_exchange()
            };
            client.count(&exchange);
            client.place(&exchange, 0);
        }
        let view = client.view(test_exchange().client, Nanos(200));
        assert_eq!(
            (view.recent.len(), view.fingerprint.services.len(), view.fingerprint.ja4.len()),
            (crate::trail::MAX_DETAILS, MAX_SERVICES, MAX_JA4)
        );
        assert!(view.recent.is_sorted_by(|a, b| a.start >= b.start) && view.recent[0].start == Nanos(199));
        assert_eq!((view.fingerprint.totals.requests, view.fingerprint.totals.aborted), (200, 3));
        assert_eq!(view.fingerprint.accuracy, Accuracy::Estimated);
    }
}
