//! The exchanges of a capture: frames in, exchanges out, each with who asked and by which stack.

use hydrometer_ebpf::abi::ExchangeEvent;
use hydrometer_engine::{Exchange, Ipv6Prefix, Nanos, Service};

use super::{Captured, Replay};
use crate::{
    heads::HeadSizes,
    hello::Hellos,
    identity::{Identities, SecretError},
    known::Known,
    pipelining::Pipelines,
    traffic::Traffic,
    wire,
};

/// Flows of which something is remembered.
pub(crate) const MAX_FLOWS: usize = 1 << 18;

/// A capture that is read.
#[derive(Debug)]
pub struct Reading {
    replay: Replay,
    hellos: Hellos,
    known: Known,
    identities: Identities,
    heads: HeadSizes,
    pipelines: Pipelines,
    ipv6_prefix: Ipv6Prefix,
}

impl Reading {
    /// Watches these services in traffic that is read so.
    pub fn new(traffic: Traffic, services: &[Service]) -> Result<Self, SecretError> {
        let ipv6_prefix = traffic.ipv6_prefix;
        Ok(Self {
            identities: Identities::new(traffic.proxies.clone(), ipv6_prefix, MAX_FLOWS)?,
            replay: Replay::of(traffic, services),
            hellos: Hellos::default(),
            known: Known::new(MAX_FLOWS),
            heads: HeadSizes::new(MAX_FLOWS),
            pipelines: Pipelines::new(),
            ipv6_prefix,
        })
    }

    /// Takes the next frame.
    pub fn take(&mut self, frame: &Captured<'_>) {
        self.replay.captured(frame);
    }

    /// The exchanges that have ended since the last call.
    pub fn ended(&mut self) -> Vec<Exchange> {
        if !self.replay.has_news() {
            return Vec::new();
        }
        let events = self.replay.drain();
        self.exchanges(events)
    }

    /// The exchanges that are still open, as they stand, and the requests that no answer came to.
    pub fn flush(&mut self) -> Vec<Exchange> {
        let events = self.replay.flush();
        let mut exchanges = self.exchanges(events);
        let mut unanswered = Vec::new();
        self.pipelines.flush(|event| unanswered.push(event));
        exchanges.extend(unanswered.iter().map(|event| self.exchange(event)));
        exchanges
    }

    /// What became of the frames.
    pub fn replay(&self) -> &Replay {
        &self.replay
    }

    fn exchanges(&mut self, events: Vec<ExchangeEvent>) -> Vec<Exchange> {
        for (event, bytes) in self.replay.hellos() {
            self.hellos.take(&event, &bytes, &mut self.known);
        }
        for (event, bytes) in self.replay.heads() {
            self.identities.take(&event, &bytes);
        }
        let mut whole = Vec::new();
        for event in events {
            self.pipelines.take(event, |event| whole.push(event));
        }
        whole.iter().map(|event| self.exchange(event)).collect()
    }

    fn exchange(&mut self, event: &ExchangeEvent) -> Exchange {
        let mut exchange = wire::exchange(event, Nanos(0), self.ipv6_prefix);
        self.known.identify(&mut exchange);
        self.identities.identify(event, &mut exchange);
        self.heads.tell(event, &mut exchange);
        exchange
    }
}
