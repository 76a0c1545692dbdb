//! What two engines made of the same exchanges, and how that differs.
//!
//! An anomaly of one is the same as one of the other if it is of the same kind and about the same client, or about members
//! half of whom are the same; of several, those that were raised first go together.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_engine::{
    ClientId,
    anomaly::{Anomaly, Reach, State},
};
use serde::Serialize;

use crate::{
    cli::{
        anomalies,
        output::{Align, Grid, Paint, Tone},
        schema, units,
    },
    convert,
    records::Faults,
};

/// Raised within so much of each other is raised at the same time, seconds.
const AT_ONCE_S: f64 = 60.0;

/// Anomalies by their ids, as they stand, of both.
#[derive(Default)]
pub(super) struct Difference {
    now: BTreeMap<String, Anomaly>,
    proposed: BTreeMap<String, Anomaly>,
}

/// What becomes of an anomaly.
enum Change<'a> {
    Appears(&'a Anomaly),
    Goes(&'a Anomaly),
    /// Raised so many seconds later, or earlier, and otherwise the same.
    Moves(&'a Anomaly, f64),
}

/// How many there are of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    now: usize,
    proposed: usize,
    appear: usize,
    go: usize,
    #[serde(rename = "move")]
    moved: usize,
}

/// As JSON.
#[derive(Serialize)]
pub(super) struct Document<'a> {
    kinds: BTreeMap<&'static str, Counts>,
    changes: Vec<Entry>,
    faults: &'a Faults,
}

#[derive(Serialize)]
struct Entry {
    change: &'static str,
    /// Of one that is raised at another time.
    #[serde(skip_serializing_if = "Option::is_none")]
    later_s: Option<f64>,
    anomaly: schema::Anomaly,
}

impl Difference {
    /// Takes in what changed for the settings as they are.
    pub(super) fn now(&mut self, changes: Vec<Anomaly>) {
        for change in changes {
            note(&mut self.now, change);
        }
    }

    /// Likewise for those that are proposed.
    pub(super) fn proposed(&mut self, changes: Vec<Anomaly>) {
        for change in changes {
            note(&mut self.proposed, change);
        }
    }

    /// A table of kinds, and each anomaly that is not the same.
    pub(super) fn text(&self, paint: Paint) -> String {
        use Align::{Left, Right};
        let changes = self.changes();
        let columns = [
            ("KIND", Left),
            ("NOW", Right),
            ("PROPOSED", Right),
            ("APPEAR", Right),
            ("GO", Right),
            ("MOVE", Right),
        ];
        let mut grid = Grid::new(paint, &columns);
        for (kind, counts) in self.counts(&changes) {
            let figures = [counts.now, counts.proposed, counts.appear, counts.go, counts.moved];
            let cells = [kind.to_owned()].into_iter().chain(figures.map(|count| units::count(count as u64)));
            grid.row(cells.map(|cell| (Tone::Plain, cell)));
        }
        let mut text = if self.now.is_empty() && self.proposed.is_empty() {
            "no anomalies, now or proposed\n".to_owned()
        } else {
            grid.finish()
        };
        if changes.is_empty() {
            return text + "\nnothing would change\n";
        }
        text.push('\n');
        for change in &changes {
            let (word, tone) = match change {
                Change::Appears(_) => ("appears".to_owned(), Tone::Warn),
                Change::Goes(_) => ("goes".to_owned(), Tone::Good),
                Change::Moves(_, later) => {
                    let by = units::span(later.abs() as i64);
                    (format!("{by} {}", if *later > 0.0 { "later" } else { "earlier" }), Tone::Plain)
                }
            };
            text.push_str(&paint.text(tone, &format!("{word:<13}")));
            text.push_str(&anomalies::line(&convert::anomaly(change.anomaly().clone(), ""), paint));
        }
        text
    }

    /// As JSON, with what was wrong with the recording.
    pub(super) fn document<'a>(&self, faults: &'a Faults) -> Document<'a> {
        let changes = self.changes();
        Document {
            kinds: self.counts(&changes),
            changes: changes
                .iter()
                .map(|change| Entry {
                    change: change.name(),
                    later_s: if let Change::Moves(_, later) = change { Some(*later) } else { None },
                    anomaly: schema::Anomaly::from(&convert::anomaly(change.anomaly().clone(), "")),
                })
                .collect(),
            faults,
        }
    }

    /// What is not the same, by when it was raised.
    fn changes(&self) -> Vec<Change<'_>> {
        let mut left: Vec<&Anomaly> = in_order(&self.now);
        let mut changes = Vec::new();
        for proposed in in_order(&self.proposed) {
            match left.iter().position(|now| is_same(now, proposed)) {
                Some(at) => {
                    let now = left.remove(at);
                    let later = proposed.raised.as_secs_f64() - now.raised.as_secs_f64();
                    if later.abs() > AT_ONCE_S {
                        changes.push(Change::Moves(proposed, later));
                    }
                }
                None => changes.push(Change::Appears(proposed)),
            }
        }
        changes.extend(left.into_iter().map(Change::Goes));
        changes.sort_by_key(|change| change.anomaly().raised);
        changes
    }

    fn counts(&self, changes: &[Change<'_>]) -> BTreeMap<&'static str, Counts> {
        let mut counts: BTreeMap<&'static str, Counts> = BTreeMap::new();
        for anomaly in self.now.values() {
            counts.entry(anomaly.kind.name()).or_default().now += 1;
        }
        for anomaly in self.proposed.values() {
            counts.entry(anomaly.kind.name()).or_default().proposed += 1;
        }
        for change in changes {
            let counts = counts.entry(change.anomaly().kind.name()).or_default();
            match change {
                Change::Appears(_) => counts.appear += 1,
                Change::Goes(_) => counts.go += 1,
                Change::Moves(..) => counts.moved += 1,
            }
        }
        counts
    }
}

impl<'a> Change<'a> {
    fn anomaly(&self) -> &'a Anomaly {
        match self {
            Self::Appears(anomaly) | Self::Goes(anomaly) | Self::Moves(anomaly, _) => anomaly,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Appears(_) => "appears",
            Self::Goes(_) => "goes",
            Self::Moves(..) => "moves",
        }
    }
}

/// Keeps the newest state; what is over is kept as it was.
/// What is muted nobody is told, so it makes no difference.
fn note(held: &mut BTreeMap<String, Anomaly>, change: Anomaly) {
    if change.reach < Reach::Fleet {
        return;
    }
    if change.state != State::Closed || !held.contains_key(&change.id) {
        held.insert(change.id.clone(), change);
    }
}

fn in_order(anomalies: &BTreeMap<String, Anomaly>) -> Vec<&Anomaly> {
    let mut all: Vec<&Anomaly> = anomalies.values().collect();
    all.sort_by_key(|anomaly| anomaly.raised);
    all
}

fn is_same(a: &Anomaly, b: &Anomaly) -> bool {
    let members = |anomaly: &Anomaly| {
        anomaly.members.iter().map(|member| member.client).collect::<BTreeSet<ClientId>>()
    };
    let (a_members, b_members) = (members(a), members(b));
    let common = a_members.intersection(&b_members).count();
    let is_about_the_same = if a_members.is_empty() && b_members.is_empty() {
        a.client == b.client
    } else {
        common > 0 && common * 2 >= a_members.len().min(b_members.len())
    };
    a.kind == b.kind && is_about_the_same
}
