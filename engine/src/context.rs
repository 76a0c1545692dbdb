//! What the operator knows about clients and the traffic does not say: contracts, and the operator's own machines.
//!
//! A client in, the contract it is under or the role it has out. Who is named more closely goes first: an API key
//! or an address before a network, a small network before a large one, any of them before a TLS stack. Machines of
//! the operator's own are under no contract.
//!
//! A look-up costs one search for each length of network that is named, however many there are.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    ClientId, Ipv6Prefix, Nanos, ParseClientIdError,
    anomaly::AnomalyKind,
    attention::{Acknowledgement, Mute},
};

/// Everything that the operator has told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// What was agreed with clients.
    pub contracts: Vec<Contract>,
    /// The operator's own machines among the clients.
    pub infrastructure: Vec<Infrastructure>,
    /// Anomalies that are not to be raised.
    pub mutes: Vec<Mute>,
    /// Anomalies that somebody has taken up.
    pub acknowledgements: Vec<Acknowledgement>,
}

/// What was agreed with a client, or with several together.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// The name that anomalies show.
    pub name: String,
    /// Who is under it: anyone who is one of these.
    pub clients: Vec<Selector>,
    /// How much all of them together may ask.
    pub limits: Limits,
    /// What they may do: these kinds are not raised.
    pub allows: Vec<AnomalyKind>,
    /// From then on it is void; never when `None`.
    pub expires: Option<Nanos>,
}

/// How much may be asked; what is `None` has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Requests in any minute.
    pub requests_per_minute: Option<f64>,
    /// Requests in any 24 hours.
    pub requests_per_day: Option<f64>,
    /// Application bytes, asked and answered, in any 24 hours.
    pub bytes_per_day: Option<f64>,
    /// Estimated tokens, asked and answered, in any 24 hours.
    pub tokens_per_day: Option<f64>,
}

/// Machines of the operator's own: never suspected, and not taken for what clients usually do.
#[derive(Clone, Debug, PartialEq)]
pub struct Infrastructure {
    /// What they are for, such as `health check`.
    pub role: String,
    /// Which they are.
    pub clients: Vec<Selector>,
}

/// Describes clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Selector {
    /// One client: an address, an IPv6 network that is one, or an API key.
    Client(ClientId),
    /// Every client with an address in the network.
    Network(IpNet),
    /// Every client whose TLS stack has this JA4 fingerprint. Anybody can imitate one.
    Ja4(String),
}

/// What a [`Selector::Ja4`] begins with.
pub(crate) const JA4: &str = "ja4:";

/// A JA4 fingerprint has this many characters.
const JA4_LEN: usize = 36;

/// The text describes no clients.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ParseSelectorError {
    /// It is none of the forms.
    #[error("{0}, a network such as 203.0.113.0/24, or ja4:FINGERPRINT")]
    Form(#[from] ParseClientIdError),
    /// It is a network within what is one client.
    #[error("{network} is part of one client: IPv6 clients are told apart by {prefix} bits")]
    Narrow {
        /// As given.
        network: IpNet,
        /// Bits that count.
        prefix: u8,
    },
    /// It is no JA4 fingerprint.
    #[error("{0:?} is no JA4 fingerprint: those have {JA4_LEN} characters")]
    Ja4(String),
}

impl Selector {
    /// Reads an address, a network, `key:HASH` or `ja4:FINGERPRINT`; of IPv6 addresses `prefix` counts.
    pub fn parse(text: &str, prefix: Ipv6Prefix) -> Result<Self, ParseSelectorError> {
        if let Some(ja4) = text.strip_prefix(JA4) {
            let is_one = ja4.len() == JA4_LEN && ja4.is_ascii();
            return if is_one {
                Ok(Self::Ja4(ja4.to_owned()))
            } else {
                Err(ParseSelectorError::Ja4(ja4.to_owned()))
            };
        }
        match text.parse::<IpNet>() {
            Ok(network @ IpNet::V6(v6)) if v6.prefix_len() > prefix.length() => {
                Err(ParseSelectorError::Narrow { network, prefix: prefix.length() })
            }
            Ok(network) => Ok(Self::Network(network.trunc())),
            Err(_) => Ok(Self::Client(ClientId::parse(text, prefix)?)),
        }
    }

    /// Whether it describes the client, which shows these TLS stacks.
    pub(crate) fn has(&self, client: ClientId, ja4: &[String]) -> bool {
        match (self, client) {
            (Self::Client(named), _) => *named == client,
            (Self::Ja4(named), _) => ja4.contains(named),
            (Self::Network(IpNet::V4(network)), ClientId::V4(address)) => network.contains(&address),
            (Self::Network(IpNet::V6(network)), ClientId::V6(part)) => {
                network.prefix_len() <= part.prefix().length() && network.contains(&part.address())
            }
            (Self::Network(_), _) => false,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(client) => client.fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Ja4(ja4) => write!(f, "{JA4}{ja4}"),
        }
    }
}

impl Contract {
    /// Whether its clients may do so.
    pub fn allows(&self, kind: AnomalyKind) -> bool {
        self.allows.contains(&kind)
    }

    /// Whether its clients may act as one, as workers behind many addresses do.
    pub(crate) fn allows_campaigns(&self) -> bool {
        use AnomalyKind::{Hydra, Pivot, ProxyRotation};
        [Hydra, ProxyRotation, Pivot].iter().any(|kind| self.allows(*kind))
    }

    fn is_valid(&self, now: Nanos) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// The context, indexed.
#[derive(Debug, Default)]
pub(crate) struct Known {
    contracts: Vec<Contract>,
    under: Index,
    infrastructure: Index,
}

impl Known {
    pub(crate) fn new(context: Context) -> Self {
        let selectors = |contract: &Contract| contract.clients.clone();
        Self {
            under: Index::new(context.contracts.iter().map(selectors)),
            infrastructure: Index::new(context.infrastructure.into_iter().map(|own| own.clients)),
            contracts: context.contracts,
        }
    }

    pub(crate) fn contracts(&self) -> &[Contract] {
        &self.contracts
    }

    /// Whether the client is one of the operator's own machines.
    pub(crate) fn is_infrastructure(&self, client: ClientId) -> bool {
        !self.infrastructure.is_empty() && self.infrastructure.find(client, &[], |_| true).is_some()
    }

    /// Number of the contract that the client, which shows these TLS stacks, is under.
    pub(crate) fn contract(&self, client: ClientId, ja4: &[String], now: Nanos) -> Option<usize> {
        if self.under.is_empty() || self.is_infrastructure(client) {
            return None;
        }
        self.under.find(client, ja4, |number| self.contracts[number].is_valid(now))
    }
}

/// Selectors by how they are looked up, each with the number of the party it belongs to.
#[derive(Debug, Default)]
struct Index {
    keys: BTreeMap<u64, usize>,
    /// Longest prefix first; IPv4 addresses are mapped into IPv6.
    networks: Vec<(u8, BTreeMap<u128, usize>)>,
    ja4: BTreeMap<String, usize>,
}

impl Index {
    /// Who is named twice belongs to the first.
    fn new(parties: impl Iterator<Item = Vec<Selector>>) -> Self {
        let mut index = Self::default();
        let mut networks = BTreeMap::<u8, BTreeMap<u128, usize>>::new();
        for (number, selectors) in parties.enumerate() {
            for selector in selectors {
                let (address, length) = match selector {
                    Selector::Ja4(ja4) => {
                        index.ja4.entry(ja4).or_insert(number);
                        continue;
                    }
                    Selector::Client(ClientId::Key(hash)) => {
                        index.keys.entry(hash).or_insert(number);
                        continue;
                    }
                    Selector::Client(ClientId::V4(address)) => (mapped(address), 128),
                    Selector::Client(ClientId::V6(network)) => {
                        (network.address().to_bits(), network.prefix().length())
                    }
                    Selector::Network(network) => bits(network),
                };
                networks.entry(length).or_default().entry(address).or_insert(number);
            }
        }
        index.networks = networks.into_iter().rev().collect();
        index
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.networks.is_empty() && self.ja4.is_empty()
    }

    /// The party that names the client most closely, of those that are `valid`.
    fn find(&self, client: ClientId, ja4: &[String], valid: impl Fn(usize) -> bool) -> Option<usize> {
        let named = match client {
            ClientId::Key(hash) => self.keys.get(&hash).copied().filter(|number| valid(*number)),
            ClientId::V4(address) => self.find_network(mapped(address), MAPPED..=128, &valid),
            ClientId::V6(network) => {
                self.find_network(network.address().to_bits(), 0..=network.prefix().length(), &valid)
            }
        };
        named
            .or_else(|| ja4.iter().filter_map(|ja4| self.ja4.get(ja4).copied()).find(|number| valid(*number)))
    }

    fn find_network(
        &self,
        address: u128,
        lengths: RangeInclusive<u8>,
        valid: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let holding = self.networks.iter().filter(|(held, _)| lengths.contains(held));
        let named = holding.filter_map(|(held, numbers)| numbers.get(&(address & mask(*held))).copied());
        { named }.find(|number| valid(*number))
    }
}

/// Bits before an IPv4 address that is mapped into IPv6: a network of fewer holds IPv6 clients alone.
const MAPPED: u8 = 96;

fn mask(length: u8) -> u128 {
    Ipv6Prefix::new(length).unwrap_or_default().mask()
}

fn mapped(address: Ipv4Addr) -> u128 {
    address.to_ipv6_mapped().to_bits()
}

/// A network's first address and its length, in IPv6.
fn bits(network: IpNet) -> (u128, u8) {
    match network.network() {
        IpAddr::V4(address) => (mapped(address), network.prefix_len() + MAPPED),
        IpAddr::V6(address) => (Ipv6Addr::to_bits(address), network.prefix_len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> Selector {
        Selector::parse(text, Ipv6Prefix::default()).unwrap()
    }

    fn contract(name: &str, clients: &[&str], expires: Option<u64>) -> Contract {
        Contract {
            name: name.to_owned(),
            clients: clients.iter().map(|text| selector(text)).collect(),
            limits: Limits::default(),
            allows: Vec::new(),
            expires: expires.map(Nanos),
        }
    }

    const STACK: &str = "t13d1516h2_8daaf6152771_b186095e22b6";

    #[test]
    fn who_names_a_client_most_closely_goes_first() {
        let known = Known::new(Context {
            contracts: vec![
                contract("wide", &["198.51.0.0/16", "2001:db8::/32", &format!("ja4:{STACK}")], None),
                contract("narrow", &["198.51.100.0/24", "2001:db8:1::/48"], None),
                contract("one", &["198.51.100.7", "2001:db8:1:2::42", "key:00f0a1b2c3d4e5f6"], None),
                contract("old", &["198.51.100.8"], Some(1000)),
            ],
            infrastructure: vec![Infrastructure {
                role: "monitoring".to_owned(),
                clients: vec![selector("198.51.100.9")],
            }],
            ..Context::default()
        });
        let stack = [STACK.to_owned()];
        for (client, ja4, now, expected) in [
            ("198.51.7.7", &[][..], 0, Some("wide")),
            ("198.51.100.6", &[], 0, Some("narrow")),
            ("198.51.100.7", &stack, 0, Some("one")),
            ("198.51.100.8", &[], 999, Some("old")),
            ("198.51.100.8", &[], 1000, Some("narrow")),
            ("198.51.100.9", &stack, 0, None),
            ("203.0.113.1", &[], 0, None),
            ("203.0.113.1", &stack, 0, Some("wide")),
            ("2001:db8:9::1", &[], 0, Some("wide")),
            ("2001:db8:1::1", &[], 0, Some("narrow")),
            ("2001:db8:1:2::", &[], 0, Some("one")),
            ("key:00f0a1b2c3d4e5f6", &[], 0, Some("one")),
            ("key:10f0a1b2c3d4e5f6", &[], 0, None),
        ] {
            let found = known.contract(client.parse().unwrap(), ja4, Nanos(now));
            assert_eq!(found.map(|number| known.contracts()[number].name.as_str()), expected, "{client}");
        }
        assert!(known.is_infrastructure("198.51.100.9".parse().unwrap()));
        assert!(!known.is_infrastructure("198.51.100.7".parse().unwrap()));
    }

    #[test]
    fn all_clients_of_one_family_are_none_of_the_other() {
        for (all, one, other) in
            [("::/0", "2001:db8::1", "203.0.113.1"), ("0.0.0.0/0", "203.0.113.1", "2001:db8::1")]
        {
            let known =
                Known::new(Context { contracts: vec![contract("all", &[all], None)], ..Context::default() });
            let found = |client: &str| known.contract(client.parse().unwrap(), &[], Nanos(0));
            assert_eq!((found(one), found(other)), (Some(0), None), "{all}");
        }
    }

    #[test]
    fn what_describes_no_client_is_refused_with_the_reason() {
        for (text, said) in [
            ("host", "\"host\" is not a client"),
            ("ja4:t13d", "is no JA4 fingerprint"),
            ("2001:db8::/96", "is part of one client: IPv6 clients are told apart by 64 bits"),
            ("10.0.0.0/33", "is not a client"),
        ] {
            let error = Selector::parse(text, Ipv6Prefix::default()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
