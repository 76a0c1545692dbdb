//! Who asks, by `X-Forwarded-For` or `Forwarded` (RFC 7239): each proxy adds at the end where it was asked from.
//!
//! What a client writes there itself comes before all that. So the list is read from its end, as long as those it
//! names are trusted; the first who is not is the client, and what stands before is anybody's. Only the header that
//! the proxies are known to set is read: the other one they hand on as it came.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use clap::ValueEnum;
use httparse::Header;
use serde::Deserialize;

use super::Proxies;

/// The header that the trusted proxies set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239)
    Forwarded,
}

impl ForwardedHeader {
    fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }

    /// The address in one element of the list.
    fn address(self, element: &str) -> Option<IpAddr> {
        match self {
            Self::XForwardedFor => address(element),
            Self::Forwarded => {
                let is_for = |name: &str| name.trim().eq_ignore_ascii_case("for");
                let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
                address(pairs.find(|(name, _)| is_for(name))?.1.trim().trim_matches('"'))
            }
        }
    }
}

/// The client of a request that has come from `source` with these fields: the last one who is not trusted. Where all
/// are, the first one named; `None` where nobody is named, or somebody without an address.
pub(super) fn client(proxies: &Proxies, source: IpAddr, fields: &[Header<'_>]) -> Option<IpAddr> {
    if !proxies.trust(source) {
        return Some(source);
    }
    let name = proxies.header.name();
    // A header that comes several times is one list (RFC 9110 section 5.3).
    let mut elements = fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case(name))
        .flat_map(|field| std::str::from_utf8(field.value).unwrap_or("?").split(','))
        .rev()
        .map(|element| proxies.header.address(element.trim()));
    let mut client = None;
    loop {
        match elements.next() {
            Some(Some(address)) if proxies.trust(address) => client = Some(address),
            Some(address) => return address,
            None => return client,
        }
    }
}

/// An address, perhaps with a port: `203.0.113.7`, `203.0.113.7:53000`, `2001:db8::7`, `[2001:db8::7]:53000`.
fn address(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::from);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = text.parse().ok().or_else(bracketed).or_else(with_port)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(header: ForwardedHeader, source: &str, values: &[&str]) -> Option<String> {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|range| range.parse().unwrap()).to_vec();
        let proxies = Proxies { trusted, header, api_keys: None };
        let fields: Vec<_> = values
            .iter()
            .flat_map(|value| {
                let (name, value) = value.split_once(": ").unwrap();
                [Header { name, value: value.as_bytes() }]
            })
            .collect();
        client(&proxies, source.parse().unwrap(), &fields).map(|client| client.to_string())
    }

    #[test]
    fn the_client_is_the_last_who_is_not_trusted() {
        for (values, expected) in [
            (&["X-Forwarded-For: 203.0.113.7"][..], Some("203.0.113.7")),
            (&["x-forwarded-for: 203.0.113.7, 10.1.2.3"], Some("203.0.113.7")),
            // What the client wrote itself comes first.
            (&["X-Forwarded-For: 198.51.100.1, 203.0.113.7, 10.1.2.3"], Some("203.0.113.7")),
            (&["X-Forwarded-For: 10.9.9.9", "X-Forwarded-For: 203.0.113.7"], Some("203.0.113.7")),
            (&["X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 10.1.2.3"], Some("203.0.113.7")),
            (&["X-Forwarded-For: 2001:db8::7"], Some("2001:db8::7")),
            (&["X-Forwarded-For: [2001:db8::7]:53000,fd00::3"], Some("2001:db8::7")),
            (&["X-Forwarded-For: 203.0.113.7:53000"], Some("203.0.113.7")),
            (&["X-Forwarded-For: ::ffff:203.0.113.7"], Some("203.0.113.7")),
            // All of them are ours: the first one asks.
            (&["X-Forwarded-For: 10.0.0.9, 10.1.2.3"], Some("10.0.0.9")),
            (&["X-Forwarded-For: unknown, 10.1.2.3"], None),
            (&["X-Forwarded-For: 198.51.100.1, x"], None),
            (&["X-Forwarded-For: "], None),
            (&["Forwarded: for=203.0.113.7"], None),
            (&["Host: example.com"], None),
        ] {
            let found = ask(ForwardedHeader::XForwardedFor, "10.0.0.1", values);
            assert_eq!(found.as_deref(), expected, "{values:?}");
        }
        for (values, expected) in [
            (&["Forwarded: for=203.0.113.7"][..], Some("203.0.113.7")),
            (&["forwarded: For=\"[2001:db8::7]:4711\";proto=https"], Some("2001:db8::7")),
            (&["Forwarded: proto=http; for=203.0.113.7 ;by=10.0.0.1, for=10.1.2.3"], Some("203.0.113.7")),
            // An open quote swallows nothing that a proxy has added.
            (&["Forwarded: for=\"198.51.100.1, for=203.0.113.7"], Some("203.0.113.7")),
            (&["Forwarded: for=_hidden, for=10.1.2.3"], None),
            (&["Forwarded: for=unknown"], None),
            (&["Forwarded: by=203.0.113.43"], None),
            (&["X-Forwarded-For: 203.0.113.7"], None),
        ] {
            let found = ask(ForwardedHeader::Forwarded, "fd00::1", values);
            assert_eq!(found.as_deref(), expected, "{values:?}");
        }
    }

    #[test]
    fn somebody_who_is_not_trusted_speaks_for_nobody() {
        let found = ask(ForwardedHeader::XForwardedFor, "192.0.2.1", &["X-Forwarded-For: 203.0.113.7"]);
        assert_eq!(found.as_deref(), Some("192.0.2.1"));
    }

    proptest! {
        #[test]
        fn whatever_a_client_writes_the_proxys_word_counts(text in "[ -~]{0,60}") {
            for (header, name, element) in [
                (ForwardedHeader::XForwardedFor, "X-Forwarded-For", "203.0.113.7"),
                (ForwardedHeader::Forwarded, "Forwarded", "for=203.0.113.7"),
            ] {
                let field = format!("{name}: {text}, {element}");
                let found = ask(header, "10.0.0.1", &[&field]);
                prop_assert_eq!(found.as_deref(), Some("203.0.113.7"));
            }
        }
    }
}
