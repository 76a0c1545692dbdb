//! Who asks.

use std::{
    fmt,
    net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A client: an IPv4 address or an IPv6 /64, the smallest unit that a person or a company is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientId {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The upper 64 bits of an IPv6 address.
    V6(u64),
}

/// The text is neither an address nor an IPv6 /64.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text:?} is not a client: give an IPv4 address, an IPv6 address or an IPv6 /64")]
pub struct ParseClientIdError {
    text: String,
    #[source]
    source: Option<AddrParseError>,
}

impl ClientId {
    /// The same on every machine and in every run, unlike [`std::hash::Hash`].
    pub(crate) fn stable_hash(&self) -> u64 {
        match self {
            Self::V4(address) => fnv1a(&address.octets()),
            Self::V6(prefix) => fnv1a(&prefix.to_be_bytes()),
        }
    }
}

/// The 64-bit FNV-1a hash.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl From<IpAddr> for ClientId {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4),
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Self::V4(v4),
                None => Self::V6((v6.to_bits() >> 64) as u64),
            },
        }
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => f.pad(&address.to_string()),
            Self::V6(prefix) => f.pad(&format!("{}/64", Ipv6Addr::from_bits((*prefix as u128) << 64))),
        }
    }
}

impl FromStr for ClientId {
    type Err = ParseClientIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, is_v6_prefix) = match text.strip_suffix("/64") {
            Some(address) => (address, true),
            None => (text, false),
        };
        match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) if is_v6_prefix => {
                Err(ParseClientIdError { text: text.to_owned(), source: None })
            }
            Ok(address) => Ok(address.into()),
            Err(source) => Err(ParseClientIdError { text: text.to_owned(), source: Some(source) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints() {
        for text in ["203.0.113.7", "2001:db8:1:2::/64"] {
            assert_eq!(text.parse::<ClientId>().unwrap().to_string(), text);
        }
        assert_eq!("2001:db8::42".parse::<ClientId>().unwrap().to_string(), "2001:db8::/64");
        assert_eq!("::ffff:10.0.0.1".parse::<ClientId>().unwrap().to_string(), "10.0.0.1");
        assert!("10.0.0.1/64".parse::<ClientId>().is_err());
        assert!("host".parse::<ClientId>().is_err());
    }
}
