//! Exchanges and the time go in; client views and anomalies come out.
//!
//! `observe` files an exchange under its client; `advance` judges the clients that were heard of
//! since the last call, renews and closes what is open, and sweeps a small part of the rest, so its
//! cost follows the traffic, not the number of clients.
//!
//! Invariant: everything is a function of the calls so far. Maps are ordered, hashes are fixed,
//! nothing reads a clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    ClientId, ClientView, EngineConfig, EngineLoss, EngineStats, Exchange, Nanos, Service,
    anomaly::{Anomaly, AnomalyKind, State},
    attention::{Attention, Said},
    baseline::{Votes, median_in_place},
    campaign::{self, Bounds, Campaigns, Report},
    client::Client,
    client_id::fnv1a,
    clients::Clients,
    context::Contract,
    detector::{self, Detector, Norms, Subject},
    impact::{ImpactConfig, Taken},
    ledger::Ledgers,
    lifecycle::Facts,
    tokens,
    trail::{Digest, Trail, quantile},
    window::RING,
};

/// An exchange that begins this long after everything known is not believed.
const MAX_AHEAD: Duration = Duration::from_hours(1);

/// An exchange that began this long ago is not believed either.
const MAX_BEHIND: Duration = Duration::from_hours(24);

/// Services told apart; exchanges with further ones count, but their records are not judged.
const MAX_SERVICES: usize = 256;
const UNKNOWN_SERVICE: u16 = u16::MAX;

/// Calls of `advance` in which every client is swept once.
const SWEEP_CALLS: usize = 300;

/// Exchanges a client needs before it votes on their size.
const EXCHANGES_TO_VOTE: usize = 8;

const MINUTE: Duration = Duration::from_mins(1);

/// Streamed answers a client needs before it votes on a service's record size.
const ANSWERS_TO_VOTE: usize = 3;

/// The engine of one node, one fleet or one capture.
///
/// About 2 KB a client that has asked little, 4.6 KB one with a full history, 2.3 KB more at most, and 75 KB a service.
#[derive(Debug, Serialize, Deserialize)]
pub struct Engine {
    // What comes from the settings is not saved with the rest.
    #[serde(skip)]
    config: EngineConfig,
    #[serde(skip)]
    detectors: Vec<Box<dyn Detector>>,
    /// Share of the clients that one detector may accuse wrongly in a day.
    #[serde(skip)]
    share: f64,
    clients: Clients,
    services: BTreeMap<Service, u16>,
    norms: Norms,
    campaigns: Campaigns,
    ledgers: Ledgers,
    said: Said,
    attention: Attention,
    /// Those heard of since the time last moved.
    touched: Vec<ClientId>,
    open: BTreeSet<ClientId>,
    /// Anomalies that ended because their client was forgotten.
    ended: Vec<Anomaly>,
    now: Option<Nanos>,
    newest: Option<Nanos>,
    /// Since this engine was made or loaded.
    #[serde(skip)]
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    exchanges: u64,
    late: u64,
    absurd: u64,
    forgotten: u64,
    services: u64,
}

impl Engine {
    /// An engine that has seen nothing. `config` should have passed [`EngineConfig::validate`].
    pub fn new(config: EngineConfig) -> Self {
        let mut engine = Self {
            detectors: detector::enabled(&config),
            share: config.false_alarms / 1000.0 / AnomalyKind::STATISTICAL as f64,
            ledgers: Ledgers::new(&config),
            said: Said::default(),
            attention: Attention::default(),
            config,
            clients: Clients::default(),
            services: BTreeMap::new(),
            norms: Norms::default(),
            campaigns: Campaigns::default(),
            touched: Vec::new(),
            open: BTreeSet::new(),
            ended: Vec::new(),
            now: None,
            newest: None,
            counts: Counts::default(),
        };
        engine.attend(Said::default());
        engine
    }

    /// From the next [`Engine::advance`] on these mutes and acknowledgements hold, beside those of the settings; others
    /// that were given here before do not.
    pub fn attend(&mut self, said: Said) {
        let set = &self.config.context;
        let mutes = set.mutes.iter().chain(&said.mutes);
        let acknowledgements = set.acknowledgements.iter().chain(&said.acknowledgements);
        self.attention.renew(mutes.cloned(), acknowledgements.cloned(), self.now.unwrap_or_default());
        self.said = said;
    }

    /// This one, as it was read back, under these settings.
    pub(crate) fn resumed(self, config: EngineConfig) -> Self {
        let Self { config, detectors, share, ledgers, .. } = Self::new(config);
        let saved = self.ledgers;
        let mut engine = Self { config, detectors, share, ledgers, ..self };
        engine.clients.index();
        let said = std::mem::take(&mut engine.said);
        engine.attend(said);
        let facts = Facts {
            attention: &engine.attention,
            prices: &engine.config.impact,
            ja4: &[],
            taken: Taken::NOTHING,
            campaign: None,
        };
        let now = engine.reference().unwrap_or_default();
        engine.ended.extend(engine.ledgers.resume(saved, facts, now));
        engine
    }

    /// Its settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Takes in one finished exchange. One that cannot be used is counted in [`Engine::stats`].
    ///
    /// Its times are judged against the last [`Engine::advance`] and the newest exchange; the first
    /// of either sets the epoch.
    pub fn observe(&mut self, exchange: &Exchange) {
        if self.is_absurd(exchange) {
            self.counts.absurd += 1;
            return;
        }
        self.counts.exchanges += 1;
        self.newest = self.newest.max(Some(exchange.start));
        let service = self.service_index(exchange.service);
        let is_late = self.reference().is_some_and(|reference| exchange.start + RING < reference);

        let client = self.clients.hear(exchange.client, || Client::new(exchange.start));
        client.count(exchange);
        let taken = self.config.impact.taken_by(exchange);
        client.taken = client.taken + taken;
        self.ledgers.book(exchange, taken, &client.fingerprint.ja4);
        if is_late {
            self.counts.late += 1;
        } else {
            if !std::mem::replace(&mut client.is_touched, true) {
                self.touched.push(exchange.client);
            }
            client.place(exchange, service);
        }
        self.forget_surplus();
    }

    /// Moves the time to `now` and returns every anomaly that opened, changed or closed since the
    /// last call. Meant to be called once a second.
    pub fn advance(&mut self, now: Nanos) -> Vec<Anomaly> {
        self.now = Some(now);
        self.attention.advance(now);
        let mut changes = std::mem::take(&mut self.ended);
        // In an order that does not depend on who was heard of first.
        let mut due = std::mem::take(&mut self.touched);
        due.sort_unstable();
        due.retain(|id| self.clients.get_mut(*id).is_some_and(|client| is_due(client, now)));
        // The operator's own machines are never judged, and teach nothing.
        due.retain(|id| !self.ledgers.is_infrastructure(*id));
        self.norms.since.get_or_insert(now);
        self.norms.all().for_each(|votes| votes.settle(now));
        let busiest_minute = self.norms.busiest_minute(None, now);
        for id in due {
            let Some(client) = self.clients.get(id) else { continue };
            let digest = client.trail.digest();
            self.learn(id, &digest, now);
            self.judge(id, &digest, now, &mut changes);
            self.compare(id, &digest, busiest_minute, now);
        }
        let bounds = bounds(&self.config, self.share, busiest_minute);
        let lifecycle = &self.config.lifecycle;
        let prices = &self.config.impact;
        let mut campaigns = self.campaigns.advance(&bounds, lifecycle, &self.attention, now);
        campaigns.retain(|campaign| !self.config.disabled.contains(&campaign.kind));
        for member in campaigns.iter_mut().flat_map(|campaign| &mut campaign.members) {
            let open = self.clients.get(member.client).into_iter().flat_map(|client| client.lifecycle.open());
            member.anomalies = open.map(|anomaly| anomaly.id.clone()).collect();
        }
        changes.extend(campaigns);
        changes.extend(self.ledgers.advance(lifecycle, &self.attention, prices, now));
        self.renew_open(now, &mut changes);
        self.sweep(now);
        changes
    }

    /// Everything about one client as of `now`.
    pub fn client(&self, id: &ClientId, now: Nanos) -> Option<ClientView> {
        self.clients.get(*id).map(|client| client.view(*id, now))
    }

    /// Whether an exchange of this client has been taken in, and is remembered.
    pub fn knows(&self, id: &ClientId) -> bool {
        self.clients.get(*id).is_some()
    }

    /// A client of which no exchange has ended, as one that was seen is shown.
    pub fn silent_client(id: ClientId, first_seen: Nanos, now: Nanos) -> ClientView {
        Client::new(first_seen).view(id, now)
    }

    /// Every client known, in ascending order.
    pub fn client_ids(&self) -> impl Iterator<Item = ClientId> + '_ {
        self.clients.ids().into_iter()
    }

    /// Every anomaly that is open, in the state last returned by [`Engine::advance`].
    pub fn open_anomalies(&self) -> Vec<Anomaly> {
        self.open
            .iter()
            .filter_map(|id| self.clients.get(*id))
            .flat_map(|client| client.lifecycle.open())
            .chain(self.ledgers.open())
            .cloned()
            .collect()
    }

    /// What was taken in and what was lost.
    pub fn stats(&self) -> EngineStats {
        let loss = |stage, count, meaning| EngineLoss { stage, count, meaning };
        EngineStats {
            clients: self.clients.len(),
            open_anomalies: self
                .open
                .iter()
                .filter_map(|id| self.clients.get(*id))
                .map(|client| client.lifecycle.open().count())
                .sum::<usize>()
                + self.ledgers.open().count(),
            exchanges: self.counts.exchanges,
            losses: vec![
                loss(
                    "engine_late",
                    self.counts.late,
                    "Exchanges that began over ten minutes before they ended: counted, but not among the last ones.",
                ),
                loss(
                    "engine_absurd_time",
                    self.counts.absurd,
                    "Exchanges from over a day ago or over an hour ahead, dropped; check the clock.",
                ),
                loss(
                    "engine_clients_forgotten",
                    self.counts.forgotten,
                    "Clients forgotten to make room for new ones; raise max_clients if memory allows.",
                ),
                loss(
                    "engine_services_full",
                    self.counts.services,
                    "Exchanges of services beyond the 256 whose record sizes are learnt; watch fewer services.",
                ),
            ],
        }
    }

    /// What an exchange's times are judged against.
    fn reference(&self) -> Option<Nanos> {
        self.now.or(self.newest)
    }

    fn is_absurd(&self, exchange: &Exchange) -> bool {
        let Some(newest) = self.now.max(self.newest) else { return exchange.duration > MAX_BEHIND };
        let is_ahead = exchange.start > newest + MAX_AHEAD;
        let is_behind = self.reference().is_some_and(|reference| exchange.start + MAX_BEHIND < reference);
        is_ahead || is_behind || exchange.duration > MAX_BEHIND
    }

    fn service_index(&mut self, service: Service) -> u16 {
        if let Some(index) = self.services.get(&service) {
            return *index;
        }
        if self.services.len() == MAX_SERVICES {
            self.counts.services += 1;
            return UNKNOWN_SERVICE;
        }
        let index = self.services.len() as u16;
        self.services.insert(service, index);
        self.norms.record_bytes.push(Votes::default());
        index
    }

    /// Forgets the clients not heard of for longest, down to the most that may be kept.
    fn forget_surplus(&mut self) {
        while self.clients.len() > self.config.max_clients.max(1) {
            let Some((id, mut client)) = self.clients.forget_oldest() else { return };
            let now = self.reference().unwrap_or_default();
            let facts = Facts {
                attention: &self.attention,
                prices: &self.config.impact,
                ja4: &client.fingerprint.ja4,
                taken: client.taken,
                campaign: self.campaigns.of(id, &self.config.disabled),
            };
            self.ended.extend(client.lifecycle.close_all(now, facts));
            self.open.remove(&id);
            self.campaigns.forget(id);
            self.norms.all().for_each(|votes| votes.withdraw(id));
            self.counts.forgotten += 1;
        }
    }

    /// Casts a client's votes on what is usual. One under suspicion has a say on the records of its services alone: they
    /// are the server's doing, and until a norm is known many may be suspected for them.
    fn learn(&mut self, id: ClientId, digest: &Digest, now: Nanos) {
        let Some(client) = self.clients.get(id) else { return };
        let norms = &mut self.norms;
        let mut by_service: BTreeMap<u16, Vec<f64>> = BTreeMap::new();
        for mark in client.trail.iter().filter(|mark| mark.record_bytes > 0) {
            by_service.entry(mark.service).or_default().push(mark.record_bytes.into());
        }
        for (service, mut sizes) in by_service {
            let enough = sizes.len() >= ANSWERS_TO_VOTE;
            let votes = norms.record_bytes.get_mut(service as usize).filter(|_| enough);
            if let (Some(votes), Some(median)) = (votes, median_in_place(&mut sizes)) {
                votes.cast(id, median, now);
            }
        }
        if client.lifecycle.is_open() {
            return;
        }
        let minute = client.window().requests_between(now - MINUTE, now);
        norms.busiest_minutes.raise(id, minute as f64, now);
        norms.costs.raise(id, client.pace.total(now).cost(), now);
        if client.trail.len() >= EXCHANGES_TO_VOTE {
            norms.request_bytes.cast(id, quantile(&digest.request_bytes, 0.5), now);
            norms.answer_tokens.cast(id, quantile(&digest.tokens, 0.5), now);
            norms.durations.cast(id, quantile(&digest.seconds, 0.5), now);
        }
    }

    fn judge(&mut self, id: ClientId, digest: &Digest, now: Nanos, changes: &mut Vec<Anomaly>) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let was_open = client.lifecycle.is_open();
        let contract = self.ledgers.contract(id, &client.fingerprint.ja4, now);
        for detector in &self.detectors {
            let kind = detector.kind();
            // What was agreed is no evidence against the client, and none of what others do.
            if contract.is_some_and(|contract| contract.allows(kind)) {
                continue;
            }
            let window = client.window();
            let subject = Subject {
                id,
                trail: &client.trail,
                digest,
                cadence: &client.cadence,
                pace: &client.pace,
                window,
                past: &client.past,
                norms: &self.norms,
                now,
            };
            let nats = detector.weigh(&subject);
            let has = client.lifecycle.has(kind);
            // What is open stays open on less, so that it does not flap.
            let ease = if has { 0.5 } else { 1.0 };
            let threshold = || self.norms.threshold(detector.as_ref(), id, self.share, now);
            // What a campaign tells need not be told of each member.
            let is_told = || !has && self.campaigns.has(id, kind);
            if nats > 0.0 && nats >= threshold() * ease && !is_told() {
                let Some(account) = detector.explain(&subject) else { continue };
                let last_seen = client.trail.newest().map_or(now, |mark| mark.start);
                let prices = &self.config.impact;
                let taken = if has {
                    Taken::NOTHING
                } else {
                    taken_by_last(&client.trail, account.evidence.exchanges, &self.services, prices)
                };
                let finding = account.finding(kind, last_seen, taken);
                let facts = Facts {
                    attention: &self.attention,
                    prices,
                    ja4: &client.fingerprint.ja4,
                    taken: client.taken,
                    campaign: self.campaigns.of(id, &self.config.disabled),
                };
                let opened = client.lifecycle.found(id, kind, finding, facts, now);
                if opened.is_some() {
                    self.campaigns.note_news(id);
                }
                changes.extend(opened);
            } else if !was_open {
                self.norms.evidence.entry(kind).or_default().raise(id, nats, now);
            }
        }
        if client.lifecycle.is_open() {
            self.open.insert(id);
            if !was_open {
                // What is unusual must not become usual.
                self.norms.all().for_each(|votes| votes.withdraw(id));
            }
        }
    }

    /// Shows the campaigns what the client looks like.
    fn compare(&mut self, id: ClientId, digest: &Digest, busiest_minute: f64, now: Nanos) {
        let Some(client) = self.clients.get(id) else { return };
        // Who shows several stacks is several clients behind one address.
        let (Some(newest), true) = (client.trail.newest(), client.fingerprint.ja4.len() <= 1) else { return };
        let contract = self.ledgers.contract(id, &client.fingerprint.ja4, now);
        if contract.is_some_and(Contract::allows_campaigns) {
            return;
        }
        let ja4 = client.fingerprint.ja4.first().map(String::as_str);
        let report = Report {
            client: id,
            trail: &client.trail,
            digest,
            stack: ja4.map_or(0, |ja4| fnv1a(ja4.as_bytes()) as u32),
            ja4,
            first_seen: client.fingerprint.first_seen,
            requests: client.fingerprint.totals.requests,
            taken: client.taken,
            minute: client.window().requests_between(now - MINUTE, now),
            port: self
                .services
                .iter()
                .find(|(_, index)| **index == newest.service)
                .map_or(0, |(service, _)| service.port),
        };
        let bounds = bounds(&self.config, self.share, busiest_minute);
        self.campaigns.update(&report, &bounds, now);
    }

    fn renew_open(&mut self, now: Nanos, changes: &mut Vec<Anomaly>) {
        let Self { open, clients, config, attention, campaigns, .. } = self;
        open.retain(|id| {
            let Some(client) = clients.get_mut(*id) else { return false };
            let facts = Facts {
                attention,
                prices: &config.impact,
                ja4: &client.fingerprint.ja4,
                taken: client.taken,
                campaign: campaigns.of(*id, &config.disabled),
            };
            let told = client.lifecycle.advance(now, &config.lifecycle, facts);
            if told.iter().any(|anomaly| anomaly.state == State::Closed) {
                campaigns.note_news(*id);
            }
            changes.extend(told);
            client.lifecycle.is_open()
        });
    }

    /// Settles the next few clients, so that the quiet ones give back memory, too.
    fn sweep(&mut self, now: Nanos) {
        let count = self.clients.len().div_ceil(SWEEP_CALLS);
        for client in self.clients.visit(count) {
            client.settle(now);
            client.tallies.shrink();
        }
    }
}

/// Whether a client that was heard of is to be judged again; one that was asked before, since it was forgotten and came
/// back meanwhile, is not.
fn is_due(client: &mut Client, now: Nanos) -> bool {
    if !std::mem::take(&mut client.is_touched) {
        return false;
    }
    client.settle(now);
    client.falls_due()
}

/// What a client's last `exchanges` took, if all were like those that its trail holds.
fn taken_by_last(
    trail: &Trail,
    exchanges: u64,
    services: &BTreeMap<Service, u16>,
    prices: &ImpactConfig,
) -> Taken {
    let port =
        |index: u16| services.iter().find(|(_, known)| **known == index).map_or(0, |(known, _)| known.port);
    let each = trail.iter().map(|mark| {
        let request_tokens = tokens::of_request(mark.request_bytes.into());
        prices.taken(port(mark.service), request_tokens, mark.tokens.into())
    });
    let held = each.fold(Taken::NOTHING, |sum, taken| sum + taken);
    held.times(exchanges as f64 / trail.len().max(1) as f64)
}

/// What campaigns are judged by.
fn bounds(config: &EngineConfig, share: f64, busiest_minute: f64) -> Bounds<'_> {
    Bounds {
        // Not learnt from the clients: the members of a campaign would vouch for one another.
        threshold: Votes::default().everyone().threshold(share, 1.0, campaign::SCALE),
        busiest_minute,
        releases: &config.releases,
        prices: &config.impact,
    }
}
