//! The filter language: terms apart by blanks, all of which a client has to meet.
//!
//! In flows what the user typed, out flows a [`Filter`] or a sentence that says what is wrong.
//!
//! | term | keeps clients |
//! |---|---|
//! | `rate>1` | whose figure in that column compares so (`>`, `>=`, `<`, `<=`, `=`) |
//! | `203.0.113.0/24` | inside that prefix |
//! | `203.0.113.7` | with that address |
//! | `kind:logit_harvest` | with an open anomaly of that kind |
//! | `anomaly` | with any open anomaly |
//! | `ja4:t13d` | whose JA4 begins so |
//! | `proto:tls` | that speak that protocol |
//! | `gateway` | with that text in their address, JA4 or service |
//! | `!term` | that do not meet the term |

use std::net::IpAddr;

use hydrometer_engine::ClientId;
use hydrometer_proto::v1::{AnomalyKind, Client};
use jiff::Timestamp;

use super::columns::{self, COLUMNS};
use crate::cli::words;

/// A parsed filter; without terms it keeps everyone.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    terms: Vec<Term>,
}

#[derive(Clone, Debug)]
struct Term {
    negated: bool,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Figure { column: usize, comparison: Comparison, than: f64 },
    Address(IpAddr),
    Prefix { address: IpAddr, bits: u8 },
    Kind(AnomalyKind),
    AnyAnomaly,
    Ja4(String),
    Protocol(String),
    Text(String),
}

#[derive(Clone, Copy, Debug)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
    Equal,
}

/// What a filter is applied to besides the client itself.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// When the list was read.
    pub now: Timestamp,
    /// Kinds of the client's open anomalies, as far as known.
    pub kinds: &'a [i32],
}

impl Filter {
    /// Parses what the user typed.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split_whitespace().map(Term::parse).collect::<Result<_, _>>().map(|terms| Self { terms })
    }

    /// Whether a client meets every term.
    pub fn keeps(&self, client: &Client, context: Context<'_>) -> bool {
        self.terms.iter().all(|term| term.test.holds(client, context) != term.negated)
    }
}

impl Term {
    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix('!') {
            Some("") => Err("! needs a term behind it, such as !anomaly".to_owned()),
            Some(rest) => Ok(Self { negated: true, test: Test::parse(rest)? }),
            None => Ok(Self { negated: false, test: Test::parse(text)? }),
        }
    }
}

impl Test {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(at) = text.find(['<', '>', '=']) {
            return Self::parse_figure(&text[..at], &text[at..]);
        }
        if text == "anomaly" {
            return Ok(Self::AnyAnomaly);
        }
        if let Some((address, bits)) = text.split_once('/') {
            return parse_prefix(address, bits)
                .ok_or_else(|| format!("{text} is not a prefix such as 203.0.113.0/24"));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address));
        }
        match text.split_once(':') {
            Some(("kind", kind)) => {
                words::parse_kind(kind).map(Self::Kind).map_err(|error| error.to_string())
            }
            Some(("ja4", prefix)) => Ok(Self::Ja4(prefix.to_owned())),
            Some(("proto", protocol)) => Ok(Self::Protocol(protocol.to_owned())),
            Some((key, _)) if key.chars().all(|letter| letter.is_ascii_lowercase()) && !key.is_empty() => {
                Err(format!("{key}: is not known; try kind:, ja4: or proto:"))
            }
            _ => Ok(Self::Text(text.to_owned())),
        }
    }

    fn parse_figure(name: &str, rest: &str) -> Result<Self, String> {
        let names = || COLUMNS.iter().map(|column| column.name).collect::<Vec<_>>().join(", ");
        let column = COLUMNS
            .iter()
            .position(|column| column.name == name)
            .ok_or_else(|| format!("{name:?} is not a column; columns are {}", names()))?;
        let (comparison, number) = [
            (">=", Comparison::AtLeast),
            ("<=", Comparison::AtMost),
            (">", Comparison::Above),
            ("<", Comparison::Below),
            ("=", Comparison::Equal),
        ]
        .into_iter()
        .find_map(|(sign, comparison)| Some((comparison, rest.strip_prefix(sign)?)))
        .ok_or_else(|| format!("{rest} is not a comparison"))?;
        match number.parse::<f64>() {
            Ok(than) if than.is_finite() => Ok(Self::Figure { column, comparison, than }),
            _ => Err(format!("{number:?} is not a number; write {name}>1")),
        }
    }

    fn holds(&self, client: &Client, context: Context<'_>) -> bool {
        match self {
            Self::Figure { column, comparison, than } => (COLUMNS[*column].value)(client, context.now)
                .is_some_and(|value| comparison.holds(value, *than)),
            Self::Address(address) => client.address.parse::<ClientId>().is_ok_and(|id| id.has(*address)),
            Self::Prefix { address, bits } => {
                columns::address(client).is_some_and(|of| is_inside(of, *address, *bits))
            }
            Self::Kind(kind) => context.kinds.contains(&(*kind).into()),
            Self::AnyAnomaly => !client.open_anomalies.is_empty(),
            Self::Ja4(prefix) => client.ja4.iter().any(|ja4| ja4.starts_with(prefix)),
            Self::Protocol(name) => {
                client.protocols.iter().any(|&protocol| words::protocol(protocol) == *name)
            }
            Self::Text(text) => {
                client.address.contains(text)
                    || client.ja4.iter().any(|ja4| ja4.contains(text))
                    || client.services.iter().any(|service| words::service(Some(service)).contains(text))
            }
        }
    }
}

impl Comparison {
    fn holds(self, value: f64, than: f64) -> bool {
        match self {
            Self::Above => value > than,
            Self::AtLeast => value >= than,
            Self::Below => value < than,
            Self::AtMost => value <= than,
            // Figures are shown rounded: what reads as equal is equal.
            Self::Equal => (value - than).abs() < 0.005,
        }
    }
}

fn parse_prefix(address: &str, bits: &str) -> Option<Test> {
    let address: IpAddr = address.parse().ok()?;
    let bits: u8 = bits.parse().ok()?;
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Test::Prefix { address, bits })
}

fn is_inside(address: IpAddr, prefix: IpAddr, bits: u8) -> bool {
    let differing = match (address, prefix) {
        (IpAddr::V4(address), IpAddr::V4(prefix)) => (address.to_bits() ^ prefix.to_bits()).leading_zeros(),
        (IpAddr::V6(address), IpAddr::V6(prefix)) => (address.to_bits() ^ prefix.to_bits()).leading_zeros(),
        _ => return false,
    };
    differing >= u32::from(bits)
}

#[cfg(test)]
mod tests {
    use hydrometer_proto::v1::{ClientCounters, WindowFeatures};

    use super::*;

    fn client() -> Client {
        Client {
            address: "203.0.113.7".to_owned(),
            counters: Some(ClientCounters { requests: 50, ..ClientCounters::default() }),
            windows: vec![WindowFeatures {
                window: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
                request_rate: 2.5,
                ..WindowFeatures::default()
            }],
            open_anomalies: vec!["a1".to_owned()],
            ja4: vec!["t13d1516h2_8daaf6152771".to_owned()],
            ..Client::default()
        }
    }

    #[test]
    fn terms_keep_the_clients_they_describe() {
        let kinds = [AnomalyKind::LogitHarvest.into()];
        let context = Context { now: Timestamp::UNIX_EPOCH, kinds: &kinds };
        for (text, keeps) in [
            ("", true),
            ("rate>1", true),
            ("rate>=2.5 requests=50", true),
            ("rate<1", false),
            ("cv<9", false),
            ("203.0.113.0/24", true),
            ("203.0.113.7", true),
            ("203.0.113.8", false),
            ("0.0.0.0/0", true),
            ("2001:db8::/32", false),
            ("!2001:db8::/32", true),
            ("anomaly", true),
            ("!anomaly", false),
            ("kind:logit_harvest", true),
            ("kind:flood", false),
            ("ja4:t13d", true),
            ("113.7", true),
            ("!gateway", true),
            ("rate>1 203.0.113.0/24 kind:logit_harvest !gateway", true),
        ] {
            assert_eq!(Filter::parse(text).unwrap().keeps(&client(), context), keeps, "{text:?}");
        }
    }

    #[test]
    fn a_wrong_term_is_explained() {
        for (text, said) in [
            ("speed>1", "is not a column; columns are rate"),
            ("rate>fast", "is not a number"),
            ("10.0.0.0/99", "is not a prefix"),
            ("kind:bad", "kinds are bulk_extraction"),
            ("port:80", "port: is not known"),
            ("!", "needs a term"),
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }
}
