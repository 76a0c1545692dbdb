//! What the operator has said about anomalies: which are muted, and which somebody has taken up.
//!
//! Mutes, acknowledgements and the time in; out, for each anomaly, the remarks that hold for it now, and how far its
//! next state goes. A muted anomaly is found, tracked and closed as any other, but goes no further than this node. The
//! fleet hears to the end of what it has heard of: that it was muted, and that it closed. What is still open
//! when its mute ends is raised then.
//!
//! Of several mutes that hold, the one that ends last counts. A campaign is muted by its id, by its stack, or by a
//! network that holds all of its members; whoever else asks from there is a reason to hear of it.

use std::{collections::BTreeMap, fmt};

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::{
    ClientId, Ipv6Prefix, Nanos, ParseSelectorError, Selector,
    anomaly::{Anomaly, AnomalyKind, Reach, Remark, State},
    context::JA4,
};

/// Anomalies that are not to be raised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mute {
    /// Which.
    pub target: Target,
    /// Only of this kind; of every kind when `None`.
    pub kind: Option<AnomalyKind>,
    /// Who says so, why, and until when.
    pub remark: Remark,
}

/// What a mute is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Target {
    /// Anomalies of these clients.
    Clients(Selector),
    /// The anomaly with this identifier.
    Anomaly(String),
}

/// Somebody has taken up an anomaly: it goes on being told, with the remark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// Identifier of the anomaly.
    pub anomaly: String,
    /// Who, why, and until when it holds.
    pub remark: Remark,
}

/// What was said while the engine ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// What is muted.
    pub mutes: Vec<Mute>,
    /// What is taken up.
    pub acknowledgements: Vec<Acknowledgement>,
}

/// An anomaly's identifier has this many digits.
const ID_LEN: usize = 16;

impl Target {
    /// Reads the identifier of an anomaly, or whatever [`Selector::parse`] does; also a JA4 fingerprint as it is shown.
    pub fn parse(text: &str, prefix: Ipv6Prefix) -> Result<Self, ParseSelectorError> {
        if text.len() == ID_LEN && text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Ok(Self::Anomaly(text.to_ascii_lowercase()));
        }
        let stack = Selector::parse(&format!("{JA4}{text}"), prefix).ok().filter(|_| text.contains('_'));
        let selector = stack.map_or_else(|| Selector::parse(text, prefix), Ok)?;
        // So that the same clients are the same target, however they are written.
        Ok(Self::Clients(match selector {
            Selector::Client(ClientId::V6(client)) => {
                Selector::Network(Ipv6Net::new_assert(client.address(), client.prefix().length()).into())
            }
            Selector::Network(IpNet::V4(network)) if network.prefix_len() == 32 => {
                Selector::Client(ClientId::V4(network.addr()))
            }
            selector => selector,
        }))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clients(selector) => selector.fmt(f),
            Self::Anomaly(id) => f.write_str(id),
        }
    }
}

/// Everything that the operator has said and that still holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Attention {
    mutes: Vec<Mute>,
    acknowledged: BTreeMap<String, Remark>,
    /// Whether remarks came since the time last moved.
    is_changed: bool,
    /// Whether remarks came, or ceased to hold, when the time last moved: what is open is to be marked anew.
    has_news: bool,
}

/// What the operator has said about one anomaly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Marks {
    muted: Option<Remark>,
    acknowledged: Option<Remark>,
}

/// Who has heard of one anomaly so far, and with which marks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Audience {
    /// Whether the fleet has.
    fleet: bool,
    marks: Marks,
}

impl Attention {
    #[cfg(test)]
    pub(crate) const NONE: Self =
        Self { mutes: Vec::new(), acknowledged: BTreeMap::new(), is_changed: false, has_news: false };

    /// From now on these hold alone. They are news where they are others than before.
    pub(crate) fn renew(
        &mut self,
        mutes: impl IntoIterator<Item = Mute>,
        acknowledgements: impl IntoIterator<Item = Acknowledgement>,
        now: Nanos,
    ) {
        let mutes: Vec<Mute> = mutes.into_iter().filter(|mute| mute.remark.holds(now)).collect();
        let held = acknowledgements.into_iter().filter(|known| known.remark.holds(now));
        let acknowledged = held.map(|known| (known.anomaly, known.remark)).collect();
        self.is_changed |= mutes != self.mutes || acknowledged != self.acknowledged;
        (self.mutes, self.acknowledged) = (mutes, acknowledged);
    }

    /// Forgets what has ceased to hold.
    pub(crate) fn advance(&mut self, now: Nanos) {
        let count = self.mutes.len() + self.acknowledged.len();
        self.mutes.retain(|mute| mute.remark.holds(now));
        self.acknowledged.retain(|_, remark| remark.holds(now));
        let has_ended = self.mutes.len() + self.acknowledged.len() < count;
        self.has_news = std::mem::take(&mut self.is_changed) || has_ended;
    }

    /// Whether an anomaly that is open is to be told again, since other marks hold for it than those last heard.
    pub(crate) fn has_news_for(&self, audience: &Audience, marks: impl FnOnce() -> Marks) -> bool {
        self.has_news && marks() != audience.marks
    }

    /// What holds for an anomaly of which `is_about` tells whether it is about such clients alone.
    pub(crate) fn marks(&self, id: &str, kind: AnomalyKind, is_about: impl Fn(&Selector) -> bool) -> Marks {
        let mutes = self.mutes.iter().filter(|mute| mute.kind.is_none_or(|muted| muted == kind));
        let muted = mutes.filter(|mute| match &mute.target {
            Target::Clients(selector) => is_about(selector),
            Target::Anomaly(muted) => muted == id,
        });
        let longest = muted.max_by_key(|mute| mute.remark.until);
        Marks {
            muted: longest.map(|mute| mute.remark.clone()),
            acknowledged: self.acknowledged.get(id).cloned(),
        }
    }

    /// What holds for an anomaly of one client, which shows these TLS stacks.
    pub(crate) fn marks_of(&self, id: &str, kind: AnomalyKind, client: ClientId, ja4: &[String]) -> Marks {
        self.marks(id, kind, |selector| selector.has(client, ja4))
    }
}

impl Audience {
    /// Marks a new state of an anomaly, and says how far it goes. The first that the fleet hears of is an open one.
    pub(crate) fn hear(&mut self, anomaly: &mut Anomaly, marks: Marks, now: Nanos) {
        let was_muted = self.marks.muted.is_some();
        self.marks = marks;
        anomaly.muted.clone_from(&self.marks.muted);
        anomaly.acknowledged.clone_from(&self.marks.acknowledged);
        let is_over = anomaly.state == State::Closed;
        let concerns_fleet = match &anomaly.muted {
            None => self.fleet || !is_over,
            Some(_) => self.fleet && (!was_muted || is_over),
        };
        anomaly.reach = if concerns_fleet { Reach::Fleet } else { Reach::Node };
        if concerns_fleet && !std::mem::replace(&mut self.fleet, true) {
            anomaly.state = State::Open;
            anomaly.raised = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ClientId = ClientId::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));
    const STACK: &str = "t13d1516h2_8daaf6152771_b186095e22b6";

    fn remark(reason: &str, until: u64) -> Remark {
        Remark { by: "ann".to_owned(), reason: reason.to_owned(), at: Nanos(0), until: Nanos(until) }
    }

    fn mute(clients: &str, kind: Option<AnomalyKind>, until: u64) -> Mute {
        let selector = Selector::parse(clients, Ipv6Prefix::default()).unwrap();
        Mute { target: Target::Clients(selector), kind, remark: remark(clients, until) }
    }

    #[test]
    fn targets_are_read_as_they_are_shown() {
        for (text, shown) in [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7/32", "203.0.113.7"),
            ("203.0.113.0/24", "203.0.113.0/24"),
            ("2001:db8:1:2::42", "2001:db8:1:2::/64"),
            ("key:00f0a1b2c3d4e5f6", "key:00f0a1b2c3d4e5f6"),
            (STACK, &format!("ja4:{STACK}")),
            ("C5E4488DBB0BA68B", "c5e4488dbb0ba68b"),
        ] {
            let target = Target::parse(text, Ipv6Prefix::default()).unwrap();
            assert_eq!(target.to_string(), shown);
            assert_eq!(Target::parse(shown, Ipv6Prefix::default()).unwrap(), target);
        }
        assert!(Target::parse("c5e4488dbb0ba68", Ipv6Prefix::default()).is_err());
    }

    #[test]
    fn a_mute_holds_for_those_it_names_until_it_expires_and_the_longest_counts() {
        let by_id = Target::Anomaly("a1".to_owned());
        let mut attention = Attention::default();
        attention.renew(
            [
                mute("203.0.113.0/24", Some(AnomalyKind::Flood), 30),
                mute("203.0.113.7", Some(AnomalyKind::Flood), 20),
                mute(&format!("ja4:{STACK}"), None, 10),
                Mute { target: by_id, kind: None, remark: remark("by id", 40) },
            ],
            [Acknowledgement { anomaly: "a2".to_owned(), remark: remark("seen", 15) }],
            Nanos(0),
        );
        attention.advance(Nanos(1));
        assert!(attention.has_news);
        attention.advance(Nanos(2));
        assert!(!attention.has_news, "news are news once");
        let stacks = [STACK.to_owned()];
        let why = |attention: &Attention, id, kind, client, ja4| {
            attention.marks_of(id, kind, client, ja4).muted.map(|remark| remark.reason)
        };
        let other = ClientId::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));
        for (id, kind, client, ja4, expected) in [
            ("x", AnomalyKind::Flood, CLIENT, &[][..], Some("203.0.113.0/24")),
            ("x", AnomalyKind::LowAndSlow, CLIENT, &[], None),
            ("x", AnomalyKind::LowAndSlow, CLIENT, &stacks, Some("ja4:t13d1516h2_8daaf6152771_b186095e22b6")),
            ("a1", AnomalyKind::LowAndSlow, other, &stacks, Some("by id")),
            ("x", AnomalyKind::Flood, other, &[], None),
        ] {
            assert_eq!(why(&attention, id, kind, client, ja4).as_deref(), expected, "{id} {kind} {client}");
        }
        attention.advance(Nanos(10));
        assert!(attention.has_news, "one has expired");
        assert_eq!(why(&attention, "x", AnomalyKind::LowAndSlow, CLIENT, &stacks), None);
        let seen =
            |attention: &Attention| attention.marks_of("a2", AnomalyKind::Flood, other, &[]).acknowledged;
        assert_eq!(seen(&attention), Some(remark("seen", 15)));
        attention.advance(Nanos(15));
        assert_eq!(seen(&attention), None);
    }
}
