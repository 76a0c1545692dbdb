//! What was wrong with a recording: by reason, how often, and where first.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

/// Lines of each reason that are named.
const NAMED: usize = 5;
/// Characters of what was wrong that are kept.
const SAID: usize = 160;

/// Why a line is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is no JSON object.
    NotJson,
    /// It is longer than any exchange.
    TooLong,
    /// A field is not there.
    MissingField,
    /// A field is of another type.
    WrongType,
    /// A figure is below zero.
    Negative,
    /// A figure is infinite or no number.
    NotFinite,
    /// A figure is beyond what an exchange can have.
    Absurd,
    /// The client is none.
    Client,
    /// The same exchange came before.
    Duplicate,
    /// It ended long before what came before it.
    OutOfOrder,
    /// It begins long after what comes behind it.
    Future,
    /// It has a field that is not known.
    UnknownField,
    /// The recording cannot be read on.
    Damaged,
}

impl Reason {
    /// Its name in snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::TooLong => "too_long",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::Negative => "negative",
            Self::NotFinite => "not_finite",
            Self::Absurd => "absurd",
            Self::Client => "client",
            Self::Duplicate => "duplicate",
            Self::OutOfOrder => "out_of_order",
            Self::Future => "future",
            Self::UnknownField => "unknown_field",
            Self::Damaged => "damaged",
        }
    }

    /// What became of such lines, in one sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::OutOfOrder => {
                "Passed over: they ended over ten minutes before a line before them began; sort recordings by start \
                 before they are joined."
            }
            Self::Future => {
                "Passed over: they begin over an hour after lines behind them end; check the clock."
            }
            Self::Duplicate => "Passed over: the same exchange came before.",
            Self::UnknownField => "Judged without that field; a newer version may know it.",
            Self::Damaged => "The recording cannot be read on from there; everything before it was judged.",
            _ => "Passed over.",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Everything that is wrong for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Lines (of a capture: frames).
    pub count: u64,
    /// Numbers of the first of them, from 1.
    pub lines: Vec<u64>,
    /// What is wrong with the first.
    pub first: String,
}

/// What is wrong, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults(BTreeMap<Reason, Fault>);

impl Faults {
    pub(super) fn add(&mut self, reason: Reason, line: u64, said: &dyn fmt::Display) {
        let fault = self.0.entry(reason).or_default();
        if fault.count == 0 {
            fault.first = said.to_string().chars().take(SAID).collect();
        }
        fault.count += 1;
        // What waited to be believed may be told after a later line.
        fault.lines.insert(fault.lines.partition_point(|held| *held <= line), line);
        fault.lines.truncate(NAMED);
    }

    /// Whether everything was right.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All reasons, and what is wrong for each.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, &Fault)> {
        self.0.iter().map(|(reason, fault)| (*reason, fault))
    }

    /// What is wrong for that reason.
    pub fn of(&self, reason: Reason) -> Option<&Fault> {
        self.0.get(&reason)
    }
}
