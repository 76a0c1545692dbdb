//! Clients that act as one.
//!
//! Rule. Clients with one TLS stack whose typical exchanges are alike ([`Profile::distance`]) are a
//! campaign when there are far more of them than their surroundings explain: the evidence, in nats, is how
//! unlikely so many would lie within a radius if clients were as dense there as in the ring around it (Poisson, bounded
//! by Chernoff). It is compared with what benign clients reach, like that of every detector.
//!
//! What it is called follows from how the members take turns:
//! - `proxy_rotation`: one after the other, hardly two at a time;
//! - `pivot`: most of them moved to a new service within two days of its release, and others did not;
//! - `flood`: one small exchange, repeated by all together more often than few clients ever do;
//! - `hydra`: else.
//!
//! Clients that repeat one small exchange, as a monitoring vendor's do, are no campaign unless they flood. Sharing a
//! client library, a NAT or a gateway makes none: who shows several stacks is not one client, and who shares a
//! stack still asks for other things.
//!
//! Known false positives: a customer's own fleet of workers behind many addresses: give it a contract. Known misses:
//! clients that vary their sizes on purpose; less than nine of them; more than half unrelated requests.
//!
//! ATLAS: AML.T0008.005, AI Service Proxies; AML.T0024.002, Extract AI Model; AML.T0029, Denial of AI Service.
//!
//! An update costs the clients near it, not all. Campaigns merge and split ([`reshape`]). Invariant: a client belongs to one
//! campaign at most; a campaign's id never changes.

mod index;
pub(crate) mod profile;
mod reshape;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    ClientId, LifecycleConfig, Nanos, Release,
    anomaly::{
        Anomaly, AnomalyKind, ComparedWith, Evidence, FeatureEvidence, Member, Reach, Series, Severity, State,
    },
    attention::{Attention, Audience, Marks},
    impact::{ImpactConfig, Taken},
    lifecycle,
    trail::{Digest, Trail},
};

use self::{
    index::{Entry, Index, RADIUS},
    profile::Profile,
    reshape::Departure,
};

/// Clients not heard of for so long say nothing about how many are alike.
const FRESH: Duration = Duration::from_hours(24);

/// How much larger the ring around the radius is than what is within: two to the fourth, less one.
const RING_TO_CORE: f64 = 15.0;

/// By how many nats crowding must rise for false alarms to become e times fewer.
pub(crate) const SCALE: f64 = 5.0;

/// A member may be this much further from the middle than clients are from one another.
const MEMBER_RADIUS: f32 = 1.5 * RADIUS;

/// Members are told again when there are so many times as many, or as few; within an hour when there are others at all.
const GROWTH: f64 = 1.1;
const TELL_EVERY: Duration = Duration::from_mins(1);

/// With so many times fewer clients at work at a time than there are, they take turns.
const TURNS: f64 = 4.0;

/// A move to a new service this long after its release is no news.
const PIVOT_WITHIN: Duration = Duration::from_hours(48);

/// The newest exchanges that tell which service a client uses.
const NEWEST: usize = 8;

/// What a client tells the campaigns.
pub(crate) struct Report<'a> {
    pub(crate) client: ClientId,
    pub(crate) trail: &'a Trail,
    pub(crate) digest: &'a Digest,
    /// Hash of its TLS stack.
    pub(crate) stack: u32,
    pub(crate) ja4: Option<&'a str>,
    pub(crate) first_seen: Nanos,
    pub(crate) requests: u64,
    /// What it has taken in all.
    pub(crate) taken: Taken,
    /// Requests in the last minute.
    pub(crate) minute: u64,
    /// Port of the service of each of its newest exchanges.
    pub(crate) port: u16,
}

/// All campaigns, and everyone who might be in one.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Campaigns {
    index: Index,
    open: Vec<Campaign>,
    member_of: BTreeMap<ClientId, u64>,
    next: u64,
    /// Clients in the index by the port they use.
    ports: BTreeMap<u16, u64>,
    port_of: BTreeMap<ClientId, u16>,
    /// Clients that are in none any more.
    departed: BTreeMap<ClientId, Departure>,
    /// Requests of the last minute, and when that was, of those who repeat one exchange.
    minutes: BTreeMap<ClientId, (u64, Nanos)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Campaign {
    number: u64,
    id: String,
    kind: AnomalyKind,
    centre: Profile,
    ja4: Option<String>,
    /// By whom it was found.
    first: ClientId,
    members: BTreeMap<ClientId, Part>,
    nats: f64,
    first_seen: Nanos,
    last_seen: Nanos,
    raised: Nanos,
    told: Nanos,
    told_members: usize,
    told_kind: AnomalyKind,
    revision: u32,
    audience: Audience,
    severity: Severity,
    /// Whether an anomaly of a member opened or closed since it was told.
    has_news: bool,
    /// When it was last held against the others.
    reviewed: Nanos,
    /// Identifier of the campaign that most of its founders had left.
    split_from: Option<String>,
    /// Identifier of the campaign that has taken in its members.
    part_of: Option<String>,
}

/// A member's part.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Part {
    first: Nanos,
    last: Nanos,
    requests: u64,
    taken: Taken,
    distance: f32,
    joined: Nanos,
    port: u16,
}

/// What is needed to judge.
pub(crate) struct Bounds<'a> {
    /// Evidence that makes a campaign, nats.
    pub(crate) threshold: f64,
    /// Requests of a minute that few clients ever reach.
    pub(crate) busiest_minute: f64,
    pub(crate) releases: &'a [Release],
    pub(crate) prices: &'a ImpactConfig,
}

impl Campaigns {
    /// Takes in what a client looks like now, and whether that makes it one of many.
    pub(crate) fn update(&mut self, report: &Report<'_>, bounds: &Bounds<'_>, now: Nanos) {
        let Some(profile) = Profile::of(report.trail, report.digest, report.stack) else { return };
        let last = report.trail.newest().map_or(now, |mark| mark.start);
        self.index.set(Entry { client: report.client, profile, first: report.first_seen, last });
        self.note(report, profile, now);
        let part = Part {
            first: report.first_seen,
            last,
            requests: report.requests,
            taken: report.taken,
            distance: 0.0,
            joined: now,
            port: report.port,
        };
        if self.refresh(report.client, &profile, part, now) || self.join(report.client, &profile, part) {
            return;
        }
        let mut near = self.index.near(&profile);
        near.retain(|(entry, _)| now.since(entry.last) <= FRESH);
        let inner: Vec<&Entry> =
            near.iter().filter(|(_, distance)| *distance <= RADIUS).map(|(entry, _)| entry).collect();
        let nats = crowding(inner.len(), near.len() - inner.len());
        // One client beside a campaign is none.
        let free = inner.iter().filter(|entry| !self.member_of.contains_key(&entry.client)).count();
        let together = || self.per_minute(inner.iter().map(|entry| entry.client), now);
        if free > 1 && nats >= bounds.threshold && (!profile.repeats || together() > bounds.busiest_minute) {
            self.found(report, &profile, &inner, nats, now);
        }
    }

    /// What opened, changed and closed since the last call.
    pub(crate) fn advance(
        &mut self,
        bounds: &Bounds<'_>,
        config: &LifecycleConfig,
        attention: &Attention,
        now: Nanos,
    ) -> Vec<Anomaly> {
        let patience = Duration::from_secs_f64(config.close_after_s);
        let total: u64 = self.ports.values().sum();
        let mut changes = Vec::new();
        self.reshape(now);
        for campaign in &mut self.open {
            let is_over = campaign.is_over(patience, now);
            if is_over && campaign.revision == 0 {
                continue;
            }
            let (count, told) = (campaign.members.len() as f64, campaign.told_members as f64);
            let has_changed = count >= told * GROWTH || count * GROWTH <= told;
            let is_due = campaign.revision == 0 || now.since(campaign.told) >= TELL_EVERY;
            let is_remarked = attention.has_news_for(&campaign.audience, || campaign.marks(attention));
            if is_over
                || is_remarked
                || is_due
                    && (has_changed
                        || campaign.has_news
                        || campaign.revision == 0
                        || now.since(campaign.told) >= FRESH / 24)
            {
                campaign.kind = campaign.classify(bounds, &self.ports, total);
                let is_news = campaign.members.len() != campaign.told_members
                    || is_remarked
                    || campaign.has_news
                    || campaign.revision == 0
                    || campaign.kind != campaign.told_kind;
                if is_over || is_news {
                    changes.push(campaign.tell(is_over, attention, bounds.prices, now));
                } else {
                    campaign.told = now;
                }
            }
        }
        let member_of = &mut self.member_of;
        self.open.retain(|campaign| {
            let is_open = !campaign.is_over(patience, now);
            if !is_open {
                for client in campaign.members.keys() {
                    if member_of.get(client) == Some(&campaign.number) {
                        member_of.remove(client);
                    }
                }
            }
            is_open
        });
        changes
    }

    /// Whether the client is in a campaign that is told as `kind`.
    pub(crate) fn has(&self, client: ClientId, kind: AnomalyKind) -> bool {
        let Some(number) = self.member_of.get(&client) else { return false };
        self.open
            .iter()
            .any(|campaign| campaign.number == *number && campaign.told_kind == kind && campaign.revision > 0)
    }

    /// Identifier of the campaign that the client is in, once it is told.
    pub(crate) fn of(&self, client: ClientId, disabled: &[AnomalyKind]) -> Option<&str> {
        let number = self.member_of.get(&client)?;
        let campaign = self.open.iter().find(|campaign| campaign.number == *number)?;
        (campaign.revision > 0 && !disabled.contains(&campaign.told_kind)).then_some(campaign.id.as_str())
    }

    /// An anomaly of the client opened or closed.
    pub(crate) fn note_news(&mut self, client: ClientId) {
        let Some(number) = self.member_of.get(&client) else { return };
        for campaign in self.open.iter_mut().filter(|campaign| campaign.number == *number) {
            campaign.has_news = true;
        }
    }

    pub(crate) fn forget(&mut self, client: ClientId) {
        self.index.remove(client);
        self.minutes.remove(&client);
        self.departed.remove(&client);
        if let Some(port) = self.port_of.remove(&client)
            && let Some(count) = self.ports.get_mut(&port)
        {
            *count -= 1;
        }
    }

    fn note(&mut self, report: &Report<'_>, profile: Profile, now: Nanos) {
        if let Some(old) = self.port_of.insert(report.client, report.port)
            && let Some(count) = self.ports.get_mut(&old)
        {
            *count -= 1;
        }
        *self.ports.entry(report.port).or_default() += 1;
        if profile.repeats {
            self.minutes.insert(report.client, (report.minute, now));
        } else {
            self.minutes.remove(&report.client);
        }
    }

    /// Requests of the last minute of all these clients.
    fn per_minute(&self, clients: impl Iterator<Item = ClientId>, now: Nanos) -> f64 {
        let recent = clients.filter_map(|client| self.minutes.get(&client));
        recent.filter(|(_, at)| now.since(*at) <= TELL_EVERY).map(|(count, _)| *count as f64).sum()
    }

    /// Renews the part of a member; tells whether it still is one.
    fn refresh(&mut self, client: ClientId, profile: &Profile, part: Part, now: Nanos) -> bool {
        let Some(number) = self.member_of.get(&client).copied() else { return false };
        let Some(campaign) = self.open.iter_mut().find(|campaign| campaign.number == number) else {
            return false;
        };
        let distance = campaign.centre.distance(profile);
        if distance > 2.0 * MEMBER_RADIUS {
            campaign.members.remove(&client);
            self.leave(client, number, now);
            return false;
        }
        if let Some(held) = campaign.members.get_mut(&client) {
            *held = Part { distance, joined: held.joined, ..part };
        }
        campaign.last_seen = campaign.last_seen.max(part.last);
        true
    }

    /// Takes the client into the nearest campaign that it belongs to.
    fn join(&mut self, client: ClientId, profile: &Profile, part: Part) -> bool {
        let nearest = self
            .open
            .iter_mut()
            .map(|campaign| (campaign.centre.distance(profile), campaign))
            .filter(|(distance, _)| *distance <= MEMBER_RADIUS)
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((distance, campaign)) = nearest else { return false };
        campaign.members.insert(client, Part { distance, ..part });
        campaign.centre.approach(profile, 1.0 / campaign.members.len() as f32);
        campaign.last_seen = campaign.last_seen.max(part.last);
        self.member_of.insert(client, campaign.number);
        self.departed.remove(&client);
        true
    }

    fn found(&mut self, report: &Report<'_>, profile: &Profile, inner: &[&Entry], nats: f64, now: Nanos) {
        let mut centre = *profile;
        for (n, entry) in inner.iter().enumerate() {
            centre.approach(&entry.profile, 1.0 / (n + 1) as f32);
        }
        let number = self.next;
        self.next += 1;
        let mut members = BTreeMap::new();
        for entry in inner.iter().filter(|entry| !self.member_of.contains_key(&entry.client)) {
            let part = Part {
                first: entry.first,
                last: entry.last,
                requests: 0,
                taken: Taken::NOTHING,
                distance: centre.distance(&entry.profile),
                joined: now,
                port: self.port_of.get(&entry.client).copied().unwrap_or_default(),
            };
            members.insert(entry.client, part);
        }
        let origin = self.origin(inner, now);
        let origin = self.open.iter().find(|campaign| Some(campaign.number) == origin);
        let split_from = origin.filter(|origin| origin.revision > 0).map(|origin| origin.id.clone());
        for client in members.keys() {
            self.member_of.insert(*client, number);
            self.departed.remove(client);
        }
        let first_seen = members.values().map(|part| part.first).min().unwrap_or(now);
        self.open.push(Campaign {
            number,
            id: lifecycle::id(report.client, AnomalyKind::Hydra, first_seen),
            kind: AnomalyKind::Hydra,
            centre,
            ja4: report.ja4.map(str::to_owned),
            first: report.client,
            members,
            nats,
            first_seen,
            last_seen: now,
            raised: now,
            told: now,
            told_members: 0,
            told_kind: AnomalyKind::Hydra,
            revision: 0,
            audience: Audience::default(),
            // Whoever hides behind many addresses knows why.
            severity: Severity::High,
            has_news: false,
            reviewed: now,
            split_from,
            part_of: None,
        });
    }
}

impl Campaign {
    /// Whether its members have stopped, left, or become another's.
    fn is_over(&self, patience: Duration, now: Nanos) -> bool {
        self.part_of.is_some() || self.members.is_empty() || now.since(self.last_seen) > patience
    }

    fn classify(&self, bounds: &Bounds<'_>, ports: &BTreeMap<u16, u64>, total: u64) -> AnomalyKind {
        if self.centre.repeats {
            return AnomalyKind::Flood;
        }
        if bounds.releases.iter().any(|release| self.moved(release, ports, total)) {
            return AnomalyKind::Pivot;
        }
        let (first, last) =
            self.members.values().fold((self.last_seen, self.first_seen), |(first, last), part| {
                (first.min(part.first), last.max(part.last))
            });
        let at_work: f64 = self.members.values().map(|part| part.last.since(part.first).as_secs_f64()).sum();
        let at_once = at_work / last.since(first).as_secs_f64().max(1.0);
        if at_once * TURNS < self.members.len() as f64 {
            AnomalyKind::ProxyRotation
        } else {
            AnomalyKind::Hydra
        }
    }

    /// Whether most members that asked since the release ask the new service, and others do not.
    fn moved(&self, release: &Release, ports: &BTreeMap<u16, u64>, total: u64) -> bool {
        let at = Nanos::from_secs_f64(release.at_s);
        let since: Vec<&Part> = self
            .members
            .values()
            .filter(|part| part.last > at && part.first < at && part.last.since(at) <= PIVOT_WITHIN)
            .collect();
        let moved = since.iter().filter(|part| part.port == release.port).count();
        let others = total.saturating_sub(self.members.len() as u64).max(1) as f64;
        let adopted =
            ports.get(&release.port).map_or(0.0, |count| count.saturating_sub(moved as u64) as f64 / others);
        let share = moved as f64 / since.len().max(1) as f64;
        moved >= NEWEST / 2 && share >= 0.5 && share >= 2.0 * adopted
    }

    /// What the operator has said about it; about its clients, when that is about all of them.
    fn marks(&self, attention: &Attention) -> Marks {
        attention.marks(&self.id, self.kind, |selector| {
            self.members.keys().all(|client| selector.has(*client, self.ja4.as_slice()))
        })
    }

    fn tell(&mut self, is_over: bool, attention: &Attention, prices: &ImpactConfig, now: Nanos) -> Anomaly {
        let state = match (is_over, self.revision) {
            (true, _) => State::Closed,
            (false, 0) => State::Open,
            (false, _) => State::Updated,
        };
        self.revision += 1;
        self.told = now;
        self.told_members = self.members.len();
        self.told_kind = self.kind;
        self.has_news = false;
        let requests: u64 = self.members.values().map(|part| part.requests).sum();
        let taken = self.members.values().fold(Taken::NOTHING, |sum, part| sum + part.taken);
        self.severity = self.severity.max(prices.severity(taken));
        let mut anomaly = Anomaly {
            id: self.id.clone(),
            kind: self.kind,
            state,
            severity: self.severity,
            score: self.kind.confidence(),
            client: self.first,
            members: self.members.iter().map(|(client, part)| self.member(*client, part)).collect(),
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            raised: self.raised,
            evidence: Evidence {
                summary: self.summary(),
                features: vec![FeatureEvidence {
                    feature: "clients_alike",
                    value: self.members.len() as f64,
                    baseline: 0.0,
                    unit: "1",
                    compared_with: ComparedWith::Population,
                    deviation: self.nats,
                }],
                series: vec![self.series()],
                exchanges: requests,
            },
            revision: self.revision,
            muted: None,
            acknowledged: None,
            reach: Reach::Fleet,
            impact: prices.impact(taken),
            campaign: None,
            split_from: self.split_from.clone(),
            merged_into: self.part_of.clone(),
        };
        let marks = self.marks(attention);
        self.audience.hear(&mut anomaly, marks, now);
        // As the fleet was told.
        self.raised = anomaly.raised;
        anomaly
    }

    fn summary(&self) -> String {
        let count = self.members.len();
        if let Some(whole) = &self.part_of {
            return format!("{count} clients that have turned out to be a part of campaign {whole}.");
        }
        if count == 0 {
            return "All clients have changed what they ask for, and left.".to_owned();
        }
        let (request, answer) = (self.centre.request.exp2(), self.centre.answer.exp2());
        let stack = self.ja4.as_ref().map_or("one stack".to_owned(), |ja4| format!("the stack {ja4}"));
        let alike = format!(
            "{count} clients with {stack} ask with {request:.0} bytes for answers of {answer:.0} bytes"
        );
        match self.kind {
            AnomalyKind::ProxyRotation => {
                format!("{alike}, one after the other: one actor that changes addresses.")
            }
            AnomalyKind::Pivot => {
                format!("{alike}, and moved to the new service together soon after its release.")
            }
            AnomalyKind::Flood => format!("{alike}, over and over, together more often than any one client."),
            _ => format!("{alike}, far more than ask like that by chance: they act as one."),
        }
    }

    fn member(&self, client: ClientId, part: &Part) -> Member {
        let apart = (f64::from(part.distance).exp2() - 1.0) * 100.0;
        let after = part.joined.since(self.raised).as_secs_f64() / 60.0;
        let reason = format!(
            "Same stack; its exchanges are within {apart:.0} % of the campaign's; seen {after:.0} min after it was raised."
        );
        Member { client, reason, anomalies: Vec::new() }
    }

    /// Members that began in each of 24 equal spans.
    fn series(&self) -> Series {
        let span = self.last_seen.since(self.first_seen) / 24;
        let mut values = vec![0.0; 24];
        for part in self.members.values() {
            let at = part.first.since(self.first_seen).as_secs_f64() / span.as_secs_f64().max(1e-9);
            values[(at as usize).min(23)] += 1.0;
        }
        Series { feature: "members_begun", unit: "1", start: self.first_seen, step: span, values }
    }
}

/// Evidence, nats, that `inner` clients within the radius are more than `ring` around it explain.
fn crowding(inner: usize, ring: usize) -> f64 {
    let (inner, expected) = (inner as f64, (ring as f64 + 1.0) / RING_TO_CORE);
    if inner <= expected { 0.0 } else { inner * (inner / expected).ln() - inner + expected }
}
