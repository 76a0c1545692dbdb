//! Which interfaces are to be watched: by name, by regular expression, by address.
//!
//! In flows text that a person wrote, out flows a [`Selection`] that says of an interface whether it is
//! wanted. Invariant: a pattern matches whole names, so that `/eth/` does not take `veth0` along.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use regex::Regex;

use super::Interface;

/// What an interface has to be called, or which address it has to have.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// This name: `eth0`.
    Name(String),
    /// A name that this describes from begin to end: `/ens.*/`.
    Regex(Regex),
    /// An address in this network: `10.0.0.0/8`, `fd00::/8`, `10.0.0.5`.
    Network(IpNet),
}

/// Why a text is no pattern.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// It begins with a slash and does not end with one, or is not a regular expression.
    #[error("{text:?} is no regular expression between two slashes: {why}")]
    Regex {
        /// What was written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel would not allow an interface of this name (`dev_valid_name`).
    #[error(
        "{0:?} is no interface: write a name (1 to 15 bytes), a /regular expression/, or an address with or \
         without /PREFIX"
    )]
    Name(String),
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if let Some(rest) = text.strip_prefix('/') {
            return whole_names(rest)
                .map(Self::Regex)
                .map_err(|why| PatternError::Regex { text: text.to_owned(), why });
        }
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        let is_name = (1..16).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.contains(|character: char| character.is_whitespace() || "/:".contains(character));
        if is_name { Ok(Self::Name(text.to_owned())) } else { Err(PatternError::Name(text.to_owned())) }
    }
}

/// The expression before the closing slash.
fn whole_names(rest: &str) -> Result<Regex, String> {
    let expression = rest.strip_suffix('/').ok_or("the closing slash is missing")?;
    // First by itself, so that a fault is shown in what was written.
    let fault = |error: regex::Error| error.to_string().replace('\n', " ");
    Regex::new(expression).map_err(fault)?;
    Regex::new(&format!("^(?:{expression})$")).map_err(fault)
}

impl Pattern {
    /// Whether `interface` is meant.
    pub fn matches(&self, interface: &Interface) -> bool {
        match self {
            Self::Name(name) => *name == interface.name,
            Self::Regex(regex) => regex.is_match(&interface.name),
            Self::Network(network) => interface.addresses.iter().any(|address| network.contains(address)),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Regex(regex) => {
                let whole = regex.as_str();
                let written = whole.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$"));
                write!(f, "/{}/", written.unwrap_or(whole))
            }
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// Interfaces to watch.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Those that any of these means,
    pub include: Vec<Pattern>,
    /// unless any of these does.
    pub exclude: Vec<Pattern>,
}

impl Selection {
    /// Whether `interface` is to be watched.
    pub fn wants(&self, interface: &Interface) -> bool {
        let means = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(interface));
        means(&self.include) && !means(&self.exclude)
    }

    /// The interfaces that are included by name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.include.iter().filter_map(|pattern| match pattern {
            Pattern::Name(name) => Some(name.as_str()),
            Pattern::Regex(_) | Pattern::Network(_) => None,
        })
    }

    /// Those of them that are excluded by name or by expression as well.
    pub fn excluded_names(&self) -> impl Iterator<Item = &str> {
        let nameless = |name: &str| Interface { name: name.to_owned(), ..Interface::default() };
        self.names().filter(move |name| {
            let interface = nameless(name);
            self.exclude.iter().any(|pattern| pattern.matches(&interface))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Interface { name: name.to_owned(), addresses, ..Interface::default() }
    }

    fn selection(include: &[&str], exclude: &[&str]) -> Selection {
        let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Selection { include: patterns(include), exclude: patterns(exclude) }
    }

    #[test]
    fn an_interface_is_meant_by_name_by_expression_or_by_address() {
        for (pattern, meant, not_meant) in [
            ("eth0", interface("eth0", &[]), interface("eth01", &[])),
            ("/eth[0-9]/", interface("eth0", &[]), interface("veth0", &[])),
            ("/eth|ens.*/", interface("ens3f0", &[]), interface("eth0", &[])),
            ("10.0.0.0/8", interface("a", &["fd00::1", "10.200.0.1"]), interface("b", &["11.0.0.1"])),
            ("10.1.2.3/8", interface("a", &["10.200.0.1"]), interface("b", &[])),
            ("10.0.0.5", interface("a", &["10.0.0.5"]), interface("b", &["10.0.0.6"])),
            ("fd00::/8", interface("a", &["fd12::1"]), interface("b", &["fe80::1", "10.0.0.1"])),
        ] {
            let selection = selection(&[pattern], &[]);
            assert!(selection.wants(&meant), "{pattern} means {meant:?}");
            assert!(!selection.wants(&not_meant), "{pattern} does not mean {not_meant:?}");
        }
    }

    #[test]
    fn what_is_excluded_is_not_wanted_whatever_includes_it() {
        let selection = selection(&["eth0", "/.*/"], &["lo", "/veth.*/", "192.168.0.0/16"]);
        assert!(selection.wants(&interface("eth0", &["10.0.0.1"])));
        for name in ["lo", "veth12ab"] {
            assert!(!selection.wants(&interface(name, &[])), "{name}");
        }
        assert!(!selection.wants(&interface("eth0", &["10.0.0.1", "192.168.3.4"])));
    }

    #[test]
    fn a_pattern_reads_as_it_was_written() {
        for text in ["eth0", "/ens.*/", "/a|b/", "10.0.0.0/8", "fd00::/8"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_can_be_no_interface_is_refused() {
        for (text, why) in [
            ("", "write a name"),
            ("a-name-that-is-too-long", "1 to 15 bytes"),
            ("eth 0", "write a name"),
            ("eth0:1", "write a name"),
            ("10.0.0.0/33", "write a name"),
            ("/eth", "closing slash"),
            ("/eth(/", "unclosed group"),
            ("/a)|(b/", "unopened group"),
        ] {
            let said = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(said.contains(why) && !said.contains('\n'), "{text:?}: {said}");
        }
    }
}
