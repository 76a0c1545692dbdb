//! One stored state of an anomaly, in the words that all formats share.
//!
//! In flows a [`Row`], out flow names, levels and times. Invariant: what this version does not know,
//! such as a kind of a newer agent, gets a name of its own and is never left out.

use std::net::IpAddr;

use hydrometer_proto::v1::{Anomaly, AnomalyKind, AnomalyState, Severity};
use prost_types::Timestamp;

use super::atlas::{self, Attack};
use crate::store::Row;

/// A state to be told to a SOC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finding<'a> {
    row: &'a Row,
}

/// Who a client is, as far as its text tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who<'a> {
    /// One address.
    Address(IpAddr),
    /// A network, such as an IPv6 /64.
    Network(&'a str),
    /// Anything else: the hash of an API key.
    Name(&'a str),
}

impl<'a> Finding<'a> {
    /// What `row` says.
    pub(super) fn of(row: &'a Row) -> Self {
        Self { row }
    }

    /// The anomaly itself.
    pub(super) fn anomaly(self) -> &'a Anomaly {
        &self.row.anomaly
    }

    /// Names this state for ever: a receiver that gets it twice can tell.
    pub(super) fn uid(self) -> String {
        format!("{}-{}", self.anomaly().id, self.anomaly().revision)
    }

    /// Name of the kind, such as "low_and_slow".
    pub(super) fn kind(self) -> String {
        let number = self.anomaly().kind;
        AnomalyKind::try_from(number).map_or_else(
            |_| format!("kind_{number}"),
            |kind| kind.as_str_name().trim_start_matches("ANOMALY_KIND_").to_lowercase(),
        )
    }

    /// A line for a list: what, and by whom.
    pub(super) fn title(self) -> String {
        let kind = self.kind().replace('_', " ");
        let mut letters = kind.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        let kind: String = first.into_iter().chain(letters).collect();
        match self.anomaly().members.len() {
            0 => format!("{kind} by {}", self.anomaly().client),
            members => format!("{kind} by {members} clients, among them {}", self.anomaly().client),
        }
    }

    /// Why, one sentence.
    pub(super) fn summary(self) -> &'a str {
        self.anomaly().evidence.as_ref().map_or("", |evidence| &evidence.summary)
    }

    /// How much it matters.
    pub(super) fn severity(self) -> Severity {
        Severity::try_from(self.anomaly().severity).unwrap_or_default()
    }

    /// Where in its life.
    pub(super) fn state(self) -> AnomalyState {
        AnomalyState::try_from(self.anomaly().state).unwrap_or_default()
    }

    /// Tactic and technique.
    pub(super) fn attack(self) -> Option<Attack<'a>> {
        atlas::attack(&self.anomaly().atlas_technique, &self.anomaly().atlas_technique_name)
    }

    /// When it was stored, Unix nanoseconds.
    pub(super) fn stored(self) -> i64 {
        self.row.stored
    }

    /// When the behaviour was last seen, or else when this was stored: Unix nanoseconds.
    pub(super) fn time(self) -> i64 {
        self.anomaly().last_seen.map_or(self.stored(), nanos)
    }
}

impl<'a> Who<'a> {
    /// Reads the text form of a client.
    pub(super) fn of(client: &'a str) -> Self {
        if let Ok(address) = client.parse() {
            return Self::Address(address);
        }
        let network = client.split_once('/').is_some_and(|(address, _)| address.parse::<IpAddr>().is_ok());
        if network { Self::Network(client) } else { Self::Name(client) }
    }
}

/// Unix nanoseconds.
pub(super) fn nanos(time: Timestamp) -> i64 {
    time.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanos))
}

/// Unix milliseconds.
pub(super) fn millis(time: Timestamp) -> i64 {
    nanos(time).div_euclid(1_000_000)
}
