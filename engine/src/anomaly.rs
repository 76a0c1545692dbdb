//! A finding about a client, with the evidence a person needs to judge it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ClientId, Impact, Nanos, state::name};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnomalyKind {
    /// Many varied questions with long answers, without a pause.
    BulkExtraction,
    /// A machine's even pace, kept up.
    LowAndSlow,
    /// One template filled in, with answers of a fixed length.
    TemplateSweep,
    /// Answers that carry log-probabilities.
    LogitHarvest,
    /// Contexts far longer than anybody's, at a cost that is held.
    DenialOfWallet,
    /// One small request, again and again.
    Flood,
    /// Requests that hold slots open and move hardly anything.
    SlowDrip,
    /// Many clients that ask as one.
    Hydra,
    /// One actor that moves from address to address.
    ProxyRotation,
    /// Many clients that ask as one and moved to a new service soon after its release.
    Pivot,
    /// More than a contract allows.
    ContractExceeded,
}

impl AnomalyKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::BulkExtraction,
        Self::LowAndSlow,
        Self::TemplateSweep,
        Self::LogitHarvest,
        Self::DenialOfWallet,
        Self::Flood,
        Self::SlowDrip,
        Self::Hydra,
        Self::ProxyRotation,
        Self::Pivot,
        Self::ContractExceeded,
    ];

    /// Kinds that rest on what is unusual, and so have a share of the false alarms.
    pub(crate) const STATISTICAL: usize = Self::ALL.len() - 1;

    /// The kind's name in snake case, as users type and read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BulkExtraction => "bulk_extraction",
            Self::LowAndSlow => "low_and_slow",
            Self::TemplateSweep => "template_sweep",
            Self::LogitHarvest => "logit_harvest",
            Self::DenialOfWallet => "denial_of_wallet",
            Self::Flood => "flood",
            Self::SlowDrip => "slow_drip",
            Self::Hydra => "hydra",
            Self::ProxyRotation => "proxy_rotation",
            Self::Pivot => "pivot",
            Self::ContractExceeded => "contract_exceeded",
        }
    }

    /// The MITRE ATLAS 5.6.0 technique: identifier and name.
    pub const fn technique(self) -> (&'static str, &'static str) {
        match self {
            Self::BulkExtraction | Self::LogitHarvest | Self::Pivot => ("AML.T0024.002", "Extract AI Model"),
            Self::LowAndSlow | Self::TemplateSweep => ("AML.T0005.001", "Train Proxy via Replication"),
            Self::DenialOfWallet => ("AML.T0034.001", "Resource-Intensive Queries"),
            Self::Flood | Self::SlowDrip => ("AML.T0029", "Denial of AI Service"),
            Self::Hydra | Self::ProxyRotation => ("AML.T0008.005", "AI Service Proxies"),
            Self::ContractExceeded => ("AML.T0040", "AI Model Inference API Access"),
        }
    }

    /// The kind that users call so, with dashes or underscores.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.replace('-', "_");
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// How many of a hundred anomalies of the kind are true, as a share: counted in generated places that are like those of
    /// `cargo xtask eval --seeds`, by Laplace's rule of succession. How far evidence is beyond the threshold says nothing
    /// more, since what is falsely accused looks like the real thing (docs/evaluation.md has the figures).
    pub(crate) const fn confidence(self) -> f64 {
        match self {
            Self::BulkExtraction => 0.89,
            Self::Flood | Self::Pivot => 0.91,
            Self::ProxyRotation => 0.97,
            Self::SlowDrip => 0.98,
            Self::LowAndSlow
            | Self::TemplateSweep
            | Self::LogitHarvest
            | Self::DenialOfWallet
            | Self::Hydra => 0.99,
            // Counted, not guessed.
            Self::ContractExceeded => 1.0,
        }
    }

    /// What would have to be true for it to be harmless: what an analyst asks the client, or looks up.
    pub const fn benign_if(self) -> &'static str {
        match self {
            Self::BulkExtraction => {
                "the client has announced a batch job or an evaluation, or it is a gateway for many users"
            }
            Self::LowAndSlow => {
                "it is a scheduler or a monitor that somebody in your organisation or at the client's runs"
            }
            Self::TemplateSweep => {
                "it classifies or labels a data set of its own, with answers cut to a few words on purpose"
            }
            Self::LogitHarvest => {
                "the client has said what it needs log-probabilities for, such as an evaluation or reranking"
            }
            Self::DenialOfWallet => {
                "the client works on long documents or code bases, and pays for what it asks by the token"
            }
            Self::Flood => {
                "it is a load test or a health check, or a client that retries in a loop because of a fault"
            }
            Self::SlowDrip => {
                "the client is on a very slow link, or waits for a person while it holds the request open"
            }
            Self::Hydra => "all members are one customer's own workers, or one gateway's addresses",
            Self::ProxyRotation => "the client's provider changes its address often, as mobile networks do",
            Self::Pivot => {
                "the members are one customer that had announced to try the new service on its release"
            }
            Self::ContractExceeded => {
                "the client has been granted more, and the contract here was not changed yet"
            }
        }
    }
}

impl fmt::Display for AnomalyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How much it matters: at least as much as its kind does, and more the more it has cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// Look today.
    Medium,
    /// Look now.
    High,
    /// Act now.
    Critical,
}

/// Where an anomaly is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Just raised.
    Open,
    /// Still going on; evidence renewed.
    Updated,
    /// Over.
    Closed,
}

/// What a value was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ComparedWith {
    /// The client's own past.
    Own,
    /// All clients of this node.
    Population,
    /// All answers of the same service.
    Service,
    /// A fixed limit of the detector.
    Limit,
    /// What was agreed with the client.
    Contract,
}

impl ComparedWith {
    /// The word for it: "own", "population", "service", "limit" or "contract".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Population => "population",
            Self::Service => "service",
            Self::Limit => "limit",
            Self::Contract => "contract",
        }
    }
}

/// The name of a feature or of a unit: part of the program. The alias keeps serde from borrowing it from what is read.
pub type Name = &'static str;

/// A feature that decided, and what it was compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureEvidence {
    /// Name of the feature.
    #[serde(deserialize_with = "name")]
    pub feature: Name,
    /// Its value for this client.
    pub value: f64,
    /// What is usual, or the limit.
    pub baseline: f64,
    /// Unit of both.
    #[serde(deserialize_with = "name")]
    pub unit: Name,
    /// What the baseline is.
    pub compared_with: ComparedWith,
    /// Robust standard deviations from the baseline.
    pub deviation: f64,
}

/// A value over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Name of the feature.
    #[serde(deserialize_with = "name")]
    pub feature: Name,
    /// Unit of the values.
    #[serde(deserialize_with = "name")]
    pub unit: Name,
    /// Start of the first point.
    pub start: Nanos,
    /// Between points.
    pub step: Duration,
    /// Values, oldest first.
    pub values: Vec<f64>,
}

/// Why an anomaly was raised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// One sentence in plain words.
    pub summary: String,
    /// The features that decided.
    pub features: Vec<FeatureEvidence>,
    /// The recent series behind them.
    pub series: Vec<Series>,
    /// Exchanges the finding rests on.
    pub exchanges: u64,
}

/// A client that belongs to a campaign.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub client: ClientId,
    /// One sentence in plain words.
    pub reason: String,
    /// Identifiers of its open anomalies.
    pub anomalies: Vec<String>,
}

/// One finding, in one state. The same id passes through open, updated and closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Stable identifier.
    pub id: String,
    /// Which detector.
    pub kind: AnomalyKind,
    /// Where in its life.
    pub state: State,
    /// How much it matters.
    pub severity: Severity,
    /// 0 (nothing) to 1 (certain).
    pub score: f64,
    /// The client; of a campaign, the member by whom it was found.
    pub client: ClientId,
    /// Who belongs to the campaign and why, by address; empty for an anomaly of one client.
    pub members: Vec<Member>,
    /// When the behaviour began.
    pub first_seen: Nanos,
    /// When it was last seen.
    pub last_seen: Nanos,
    /// When it was raised.
    pub raised: Nanos,
    /// Why.
    pub evidence: Evidence,
    /// Number of this state, from 1; rises with every change.
    pub revision: u32,
    /// That it is not to be raised, when somebody has said so.
    pub muted: Option<Remark>,
    /// That it is known, when somebody has said so.
    pub acknowledged: Option<Remark>,
    /// Who is to hear of this state.
    pub reach: Reach,
    /// What was taken since it began: by the client, by all members, or under the contract in the span that is exceeded.
    pub impact: Impact,
    /// Identifier of the campaign that the client belongs to, or last belonged to.
    pub campaign: Option<String>,
    /// Of a campaign: identifier of the one that most of those who founded it had left.
    pub split_from: Option<String>,
    /// Of a campaign that is closed: identifier of the one that has taken in its members.
    pub merged_into: Option<String>,
}

/// What somebody has said about anomalies, and how long it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it was said; 0 when that is not known.
    pub at: Nanos,
    /// From then on it no longer holds.
    pub until: Nanos,
}

impl Remark {
    /// Whether it holds at `now`.
    pub fn holds(&self, now: Nanos) -> bool {
        now < self.until
    }
}

/// How far a state of an anomaly goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reach {
    /// No further than this node: it is muted.
    Node,
    /// To the control plane and whoever subscribes there.
    Fleet,
}
