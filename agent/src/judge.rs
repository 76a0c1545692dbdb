//! Recorded exchanges through an engine, at the times at which an agent would have had them.
//!
//! In flow exchanges, nearly in order; out flow the changes of anomalies. The engine learns of an exchange when it ended,
//! and of the time once a second, both as the recording has them. Invariant: memory does not grow with the recording.

use std::time::Duration;

use hydrometer_engine::{Engine, EngineConfig, EngineStats, Exchange, Nanos, anomaly::Anomaly};

use crate::ordered::Ordered;

/// Between two looks at the clients.
const SECOND: Duration = Duration::from_secs(1);
/// Silence after which the rest of it is left out: by then everything is settled.
const SILENCE: Duration = Duration::from_hours(24);

/// An engine that is told of recorded exchanges.
#[derive(Debug)]
pub struct Judge {
    engine: Engine,
    /// Exchanges by their end, until the recording has come there.
    ended: Ordered<Exchange>,
    /// The last second that the engine knows of.
    now: Option<Nanos>,
    /// What has changed and was not told yet.
    changes: Vec<Anomaly>,
}

impl Judge {
    /// One that has seen nothing.
    pub fn new(config: EngineConfig) -> Self {
        Self { engine: Engine::new(config), ended: Ordered::default(), now: None, changes: Vec::new() }
    }

    /// Takes the next exchange; they come by their start, or by their end. Returns what changed.
    pub fn take(&mut self, exchange: Exchange) -> Vec<Anomaly> {
        let start = exchange.start;
        if let Some(first) = self.ended.push(start + exchange.duration, exchange) {
            self.observe(&first);
        }
        while let Some(ended) = self.ended.pop_until(start) {
            self.observe(&ended);
        }
        std::mem::take(&mut self.changes)
    }

    /// The recording is over. Returns what changed.
    pub fn finish(&mut self) -> Vec<Anomaly> {
        while let Some(ended) = self.ended.pop() {
            self.observe(&ended);
        }
        if let Some(now) = self.now {
            self.advance(now + SECOND);
        }
        std::mem::take(&mut self.changes)
    }

    /// The engine's account.
    pub fn stats(&self) -> EngineStats {
        self.engine.stats()
    }

    fn observe(&mut self, exchange: &Exchange) {
        let end = exchange.start + exchange.duration;
        let mut now = *self.now.get_or_insert(end);
        let settled = now + SILENCE;
        while now + SECOND <= end {
            now = if now < settled { now + SECOND } else { end };
            self.advance(now);
        }
        self.engine.observe(exchange);
    }

    fn advance(&mut self, now: Nanos) {
        self.now = Some(now);
        self.changes.extend(self.engine.advance(now));
    }
}
