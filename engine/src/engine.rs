//! Exchanges and the time go in; client views and anomalies come out.

use std::collections::BTreeMap;

use crate::{ClientId, ClientView, EngineConfig, EngineStats, Exchange, Nanos, anomaly::Anomaly};

/// The engine of one node, one fleet or one capture.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    clients: BTreeMap<ClientId, Nanos>,
}

impl Engine {
    /// An engine that has seen nothing. `config` should have passed [`EngineConfig::validate`].
    pub fn new(config: EngineConfig) -> Self {
        Self { config, clients: BTreeMap::new() }
    }

    /// Takes in one finished exchange. One that cannot be used is counted in [`Engine::stats`].
    pub fn observe(&mut self, exchange: &Exchange) {
        if self.clients.len() < self.config.max_clients {
            self.clients.insert(exchange.client, exchange.start);
        }
    }

    /// Moves the time to `now` and returns every anomaly that opened, changed or closed since the
    /// last call. Meant to be called once a second.
    pub fn advance(&mut self, _now: Nanos) -> Vec<Anomaly> {
        Vec::new()
    }

    /// Everything about one client as of `now`.
    pub fn client(&self, _id: &ClientId, _now: Nanos) -> Option<ClientView> {
        None
    }

    /// Every client known, in ascending order.
    pub fn client_ids(&self) -> impl Iterator<Item = ClientId> + '_ {
        self.clients.keys().copied()
    }

    /// Every anomaly that is open, in its newest state.
    pub fn open_anomalies(&self) -> Vec<Anomaly> {
        Vec::new()
    }

    /// What was taken in and what was lost.
    pub fn stats(&self) -> EngineStats {
        EngineStats { clients: self.clients.len(), ..EngineStats::default() }
    }
}
