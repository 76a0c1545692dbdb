//! What the engine keeps of one client between exchanges.
//!
//! Memory is bounded: the window (13 KB at most), 64 recent exchanges (about 13 KB), the own past
//! and the rest (1 KB). A client with a dozen exchanges takes about 4 KB.

use std::collections::VecDeque;

use crate::{
    Accuracy, ClientId, ClientView, Ending, Exchange, Nanos, Protocol, Service, Totals,
    baseline::OwnPast,
    lifecycle::Lifecycle,
    window::{RING, Sample, WINDOWS, Window},
};

const MAX_RECENT: usize = 64;
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
    pub(crate) past: OwnPast,
    pub(crate) lifecycle: Lifecycle,
    /// Its place in the order of being seen.
    pub(crate) turn: u64,
    first_seen: Nanos,
    last_seen: Nanos,
    totals: Totals,
    services: Vec<Service>,
    protocols: Vec<Protocol>,
    accuracy: Accuracy,
    ja4: Vec<String>,
    /// Newest start last.
    recent: VecDeque<Exchange>,
    /// The first minute not yet fed to `past`.
    next_minute: u64,
}

impl Client {
    pub(crate) fn new(first: &Exchange) -> Self {
        Self {
            window: Window::default(),
            past: OwnPast::new(),
            lifecycle: Lifecycle::default(),
            turn: 0,
            first_seen: first.start,
            last_seen: first.start,
            totals: Totals::default(),
            services: Vec::new(),
            protocols: Vec::new(),
            accuracy: Accuracy::Exact,
            ja4: Vec::new(),
            recent: VecDeque::new(),
            next_minute: first.start.0 / MINUTE,
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
        self.accuracy = self.accuracy.max(exchange.accuracy);
        remember(&mut self.services, &exchange.service, MAX_SERVICES);
        remember(&mut self.protocols, &exchange.protocol, usize::MAX);
        let ja4 = exchange.ja4.as_ref().filter(|ja4| ja4.len() <= MAX_JA4_LEN);
        if let Some(ja4) = ja4 {
            remember(&mut self.ja4, ja4, MAX_JA4);
        }
        let at = self.recent.partition_point(|held| held.start <= exchange.start);
        self.recent.insert(at, Exchange { ja4: ja4.cloned(), ..exchange.clone() });
        if self.recent.len() > MAX_RECENT {
            self.recent.pop_front();
        }
    }

    /// Places an exchange in the window.
    pub(crate) fn place(&mut self, exchange: &Exchange, service: u16) {
        self.window.insert(Sample::new(exchange, service));
    }

    /// Feeds completed minutes to the own past, then forgets what has left the window.
    ///
    /// Minutes under an open anomaly are left out: what is unusual must not become usual.
    pub(crate) fn settle(&mut self, now: Nanos) {
        let complete = (now.0 / MINUTE).saturating_sub(MINUTES_TO_SETTLE - 1);
        let oldest = (now - RING).0 / MINUTE;
        // A clock that stepped back must not stop the feeding until it has caught up.
        let from = if self.next_minute > complete + MINUTES_TO_SETTLE { complete } else { self.next_minute };
        if !self.lifecycle.is_open() {
            for minute in from.max(oldest)..complete {
                let (start, end) = (Nanos(minute * MINUTE), Nanos((minute + 1) * MINUTE));
                match self.window.requests_between(start, end) {
                    0 => {}
                    requests => self.past.feed(end, requests),
                }
            }
        }
        self.next_minute = complete.max(from);
        self.window.expire(now);
    }

    pub(crate) fn view(&self, id: ClientId, now: Nanos) -> ClientView {
        ClientView {
            id,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            totals: self.totals,
            windows: WINDOWS.iter().map(|window| self.window.features(now, *window)).collect(),
            rate_series: self.window.rate_series(now),
            services: self.services.clone(),
            protocols: self.protocols.clone(),
            accuracy: self.accuracy,
            ja4: self.ja4.clone(),
            recent: self.recent.iter().rev().cloned().collect(),
            open_anomalies: self.lifecycle.open().map(|anomaly| anomaly.kind).collect(),
        }
    }
}

fn remember<T: Clone + PartialEq>(held: &mut Vec<T>, new: &T, most: usize) {
    if held.len() < most && !held.contains(new) {
        held.push(new.clone());
    }
}
