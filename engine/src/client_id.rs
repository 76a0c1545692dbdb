//! Who asks.

use std::{
    fmt,
    net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// A client: an IPv4 address or an IPv6 network, by default a /64, the smallest unit that a person or a company
/// is given; or an API key that a trusted proxy passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ClientId {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 network.
    V6(Ipv6Network),
    /// An API key that came through a trusted proxy, by its keyed hash.
    Key(u64),
}

/// What the text of a [`ClientId::Key`] begins with.
const KEY: &str = "key:";

/// An IPv6 address whose bits beyond the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ipv6Network {
    address: Ipv6Addr,
    prefix: Ipv6Prefix,
}

/// How many leading bits of an IPv6 address tell one client from another: 0 to 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ipv6Prefix(u8);

/// The text names no client.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{text:?} is not a client: give an IPv4 address, an IPv6 address, an IPv6 network such as fd00::/64, or key:HASH"
)]
pub struct ParseClientIdError {
    text: String,
    #[source]
    source: Option<AddrParseError>,
}

impl ClientId {
    /// The client at `address`, whose IPv6 address counts as far as `prefix` goes.
    pub fn new(address: IpAddr, prefix: Ipv6Prefix) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4),
            IpAddr::V6(v6) => Self::V6(Ipv6Network::new(v6, prefix)),
        }
    }

    /// Reads a client; of an IPv6 address without a prefix `prefix` counts.
    pub fn parse(text: &str, prefix: Ipv6Prefix) -> Result<Self, ParseClientIdError> {
        let error = |source| ParseClientIdError { text: text.to_owned(), source };
        if let Some(hash) = text.strip_prefix(KEY) {
            let is_hash = hash.len() == 16 && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
            let hash = u64::from_str_radix(hash, 16).ok().filter(|_| is_hash);
            return hash.map(Self::Key).ok_or_else(|| error(None));
        }
        let address = |text: &str| text.parse::<IpAddr>().map_err(|source| error(Some(source)));
        let Some((before, length)) = text.split_once('/') else {
            return Ok(Self::new(address(text)?, prefix));
        };
        let prefix = length.parse().ok().and_then(Ipv6Prefix::new).ok_or_else(|| error(None))?;
        match Self::new(address(before)?, prefix) {
            Self::V4(_) => Err(error(None)),
            network => Ok(network),
        }
    }

    /// Whether `address` is this client's.
    pub fn has(&self, address: IpAddr) -> bool {
        match self {
            Self::V4(own) => address.to_canonical() == IpAddr::V4(*own),
            Self::V6(network) => Self::new(address, network.prefix) == *self,
            Self::Key(_) => false,
        }
    }

    /// The same on every machine and in every run, unlike [`std::hash::Hash`].
    pub(crate) fn stable_hash(&self) -> u64 {
        match self {
            Self::V4(address) => fnv1a(&address.octets()),
            Self::V6(network) => fnv1a(&network.address.octets()) ^ u64::from(network.prefix.0),
            Self::Key(hash) => fnv1a(&hash.to_be_bytes()),
        }
    }
}

impl Ipv6Network {
    /// The network of `address` with this prefix.
    pub fn new(address: Ipv6Addr, prefix: Ipv6Prefix) -> Self {
        Self { address: Ipv6Addr::from_bits(address.to_bits() & prefix.mask()), prefix }
    }

    /// Its first address.
    pub fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// How many bits of an address count.
    pub fn prefix(&self) -> Ipv6Prefix {
        self.prefix
    }
}

impl Ipv6Prefix {
    /// A prefix of `length` bits; `None` beyond 128.
    pub const fn new(length: u8) -> Option<Self> {
        if length <= 128 { Some(Self(length)) } else { None }
    }

    /// In bits.
    pub const fn length(self) -> u8 {
        self.0
    }

    /// Ones where an address counts.
    pub fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.0)).unwrap_or(0)
    }
}

impl Default for Ipv6Prefix {
    fn default() -> Self {
        Self(64)
    }
}

/// The 64-bit FNV-1a hash.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl From<IpAddr> for ClientId {
    /// With the default prefix.
    fn from(address: IpAddr) -> Self {
        Self::new(address, Ipv6Prefix::default())
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => f.pad(&address.to_string()),
            Self::V6(network) => f.pad(&format!("{}/{}", network.address, network.prefix.0)),
            Self::Key(hash) => f.pad(&format!("{KEY}{hash:016x}")),
        }
    }
}

impl FromStr for ClientId {
    type Err = ParseClientIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, Ipv6Prefix::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints() {
        for text in [
            "203.0.113.7",
            "2001:db8:1:2::/64",
            "2001:db8::/48",
            "2001:db8::42/128",
            "::/0",
            "key:00f0a1b2c3d4e5f6",
        ] {
            assert_eq!(text.parse::<ClientId>().unwrap().to_string(), text);
        }
        assert_eq!("2001:db8::42".parse::<ClientId>().unwrap().to_string(), "2001:db8::/64");
        assert_eq!("2001:db8::42/64".parse::<ClientId>().unwrap().to_string(), "2001:db8::/64");
        assert_eq!("::ffff:10.0.0.1".parse::<ClientId>().unwrap().to_string(), "10.0.0.1");
        let whole = Ipv6Prefix::new(128).unwrap();
        assert_eq!(ClientId::parse("2001:db8::42", whole).unwrap().to_string(), "2001:db8::42/128");
        for text in [
            "10.0.0.1/64",
            "host",
            "2001:db8::/129",
            "2001:db8::/x",
            "2001:db8::/",
            "key:f0",
            "key:+0f0a1b2c3d4e5f6",
        ] {
            assert!(text.parse::<ClientId>().is_err(), "{text}");
        }
    }
}
