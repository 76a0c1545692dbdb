//! How to attach, as a person may choose it.

use std::{fmt, str::FromStr};

use clap::ValueEnum;
use serde::Deserialize;

use super::super::AttachMode;

/// Modes of a person's choice. The words are those of the status, and three that stand for several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The best that the interface takes
    #[default]
    Auto,
    /// XDP in the driver, in one of its two modes
    Xdp,
    /// XDP in the driver, packets in several pieces
    XdpNativeFrags,
    /// XDP in the driver, packets in one piece
    XdpNative,
    /// XDP in the stack
    XdpSkb,
    /// TC in one of its two modes
    Tc,
    /// TC by link (Linux 6.6)
    Tcx,
    /// TC by filter
    Clsact,
}

impl Way {
    /// What is tried for packets from the network, best first.
    pub(in super::super) fn ingress(self) -> &'static [AttachMode] {
        use AttachMode::{Clsact, Tcx, XdpNative, XdpNativeFrags, XdpSkb};
        match self {
            Self::Auto => &[XdpNativeFrags, XdpNative, XdpSkb, Tcx, Clsact],
            Self::Xdp => &[XdpNativeFrags, XdpNative],
            Self::XdpNativeFrags => &[XdpNativeFrags],
            Self::XdpNative => &[XdpNative],
            Self::XdpSkb => &[XdpSkb],
            Self::Tc => &[Tcx, Clsact],
            Self::Tcx => &[Tcx],
            Self::Clsact => &[Clsact],
        }
    }

    /// Likewise for packets to the network, which XDP does not see.
    pub(in super::super) fn egress(self) -> &'static [AttachMode] {
        match self {
            Self::Tcx => &[AttachMode::Tcx],
            Self::Clsact => &[AttachMode::Clsact],
            _ => &[AttachMode::Tcx, AttachMode::Clsact],
        }
    }
}

/// Where among the TC programs of an interface ours stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Position {
    /// Before all others, which may send the packet elsewhere.
    #[default]
    First,
    /// After all others: only what they let pass is seen.
    Last,
    /// Directly before this one.
    Before(Neighbour),
    /// Directly after this one.
    After(Neighbour),
}

/// A TC program of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// By the kernel's number of it.
    Id(u32),
    /// By name.
    Name(String),
}

/// A text that is no position.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no position: write first, last, before:PROGRAM or after:PROGRAM, PROGRAM by name or id")]
pub struct PositionError(String);

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let neighbour = |program: &str| match program.parse() {
            Ok(0) => None,
            Ok(id) => Some(Neighbour::Id(id)),
            Err(_) => (!program.is_empty()).then(|| Neighbour::Name(program.to_owned())),
        };
        let position = match text.split_once(':') {
            None if text == "first" => Some(Self::First),
            None if text == "last" => Some(Self::Last),
            Some(("before", program)) => neighbour(program).map(Self::Before),
            Some(("after", program)) => neighbour(program).map(Self::After),
            _ => None,
        };
        position.ok_or_else(|| PositionError(text.to_owned()))
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "program {id}"),
            Self::Name(name) => write!(f, "program {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_an_end_or_beside_a_program() {
        let name = || Neighbour::Name("cil_to_netdev".to_owned());
        for (text, expected) in [
            ("first", Some(Position::First)),
            ("last", Some(Position::Last)),
            ("before:cil_to_netdev", Some(Position::Before(name()))),
            ("after:cil_to_netdev", Some(Position::After(name()))),
            ("after:42", Some(Position::After(Neighbour::Id(42)))),
            ("after:0", None),
            ("before:", None),
            ("middle", None),
            ("first:1", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Position>().ok(), expected, "{text:?}");
        }
    }
}
