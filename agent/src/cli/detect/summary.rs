//! What came of a recording: anomalies by kind, and what was wrong with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use hydrometer_engine::{
    ClientId, EngineStats, Exchange, Nanos,
    anomaly::{Anomaly, AnomalyKind, Severity, State},
};
use serde::Serialize;

use crate::{
    cli::{
        output::{self, Align, Format, Grid, Paint, Tone},
        units, words,
    },
    convert,
    records::{Faults, Reason, Records},
};

/// What came of a recording.
#[derive(Default)]
pub(super) struct Summary {
    span: Option<(Nanos, Nanos)>,
    kinds: BTreeMap<AnomalyKind, Kind>,
}

/// What came of one kind.
#[derive(Default)]
struct Kind {
    anomalies: BTreeSet<String>,
    open: BTreeSet<String>,
    clients: BTreeSet<ClientId>,
    highest: Option<Severity>,
}

/// As JSON.
#[derive(Serialize)]
struct Document<'a> {
    summary: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    exchanges: u64,
    clients: usize,
    first: Option<f64>,
    last: Option<f64>,
    kinds: Vec<Row>,
    faults: &'a Faults,
    losses: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct Row {
    kind: AnomalyKind,
    anomalies: usize,
    open: usize,
    clients: usize,
    highest: String,
}

impl Summary {
    /// Notes when an exchange was.
    pub(super) fn cover(&mut self, exchange: &Exchange) {
        let end = exchange.start + exchange.duration;
        let (first, last) = self.span.unwrap_or((exchange.start, end));
        self.span = Some((first.min(exchange.start), last.max(end)));
    }

    /// Notes a change.
    pub(super) fn add(&mut self, change: &Anomaly) {
        // A campaign may change its kind.
        for kind in self.kinds.values_mut() {
            kind.anomalies.remove(&change.id);
            kind.open.remove(&change.id);
        }
        let kind = self.kinds.entry(change.kind).or_default();
        kind.anomalies.insert(change.id.clone());
        if change.state != State::Closed {
            kind.open.insert(change.id.clone());
        }
        let alone = change.members.is_empty().then_some(change.client);
        kind.clients.extend(change.members.iter().map(|member| member.client).chain(alone));
        kind.highest = kind.highest.max(Some(change.severity));
    }

    /// Prints it. As JSON it is one more line, an object whose only field is `summary`.
    pub(super) fn print(
        &self,
        records: &Records,
        stats: &EngineStats,
        output: Format,
        paint: Paint,
    ) -> anyhow::Result<()> {
        if output != Format::Json {
            return output::print(&(self.table(records, stats, paint) + &faults(records.faults(), paint)));
        }
        let lost = stats.losses.iter().filter(|loss| loss.count > 0);
        output::print_json_line(&Document {
            summary: Body {
                exchanges: records.exchanges(),
                clients: stats.clients,
                first: self.span.map(|(first, _)| first.as_secs_f64()),
                last: self.span.map(|(_, last)| last.as_secs_f64()),
                kinds: self.rows(),
                faults: records.faults(),
                losses: lost.map(|loss| (loss.stage, loss.count)).collect(),
            },
        })
    }

    fn rows(&self) -> Vec<Row> {
        let kinds = self.kinds.iter().filter(|(_, kind)| !kind.anomalies.is_empty());
        let rows = kinds.map(|(&name, kind)| Row {
            kind: name,
            anomalies: kind.anomalies.len(),
            open: kind.open.len(),
            clients: kind.clients.len(),
            highest: kind
                .highest
                .map(|severity| words::severity(convert::severity(severity).into()))
                .unwrap_or_default(),
        });
        rows.collect()
    }

    fn table(&self, records: &Records, stats: &EngineStats, paint: Paint) -> String {
        let span = self.span.map(|(first, last)| units::duration(last.since(first))).unwrap_or_default();
        let mut text = format!(
            "\n{} exchanges of {} clients{}{span}\n",
            units::count(records.exchanges()),
            units::count(stats.clients as u64),
            if span.is_empty() { "" } else { " in " },
        );
        let rows = self.rows();
        if !rows.is_empty() {
            use Align::{Left, Right};
            let columns = [
                ("KIND", Left),
                ("ANOMALIES", Right),
                ("OPEN", Right),
                ("CLIENTS", Right),
                ("HIGHEST", Left),
            ];
            let mut grid = Grid::new(paint, &columns);
            for row in rows {
                let figures = [row.anomalies, row.open, row.clients].map(|count| units::count(count as u64));
                let cells = [row.kind.name().to_owned()].into_iter().chain(figures).chain([row.highest]);
                grid.row(cells.map(|cell| (Tone::Plain, cell)));
            }
            text.push_str(&grid.finish());
        }
        for loss in stats.losses.iter().filter(|loss| loss.count > 0) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}: {}. {}", loss.stage, units::count(loss.count), loss.meaning);
        }
        text
    }
}

/// What was wrong with a recording: a line a reason; nothing where all was right.
pub(in crate::cli) fn faults(faults: &Faults, paint: Paint) -> String {
    use Align::{Left, Right};
    if faults.is_empty() {
        return String::new();
    }
    let columns = [("WRONG", Left), ("LINES", Right), ("FIRST", Left), ("WHAT", Left)];
    let mut grid = Grid::new(paint, &columns);
    let mut meanings = String::new();
    for (reason, fault) in faults.iter() {
        let more = if fault.count > fault.lines.len() as u64 { ", …" } else { "" };
        let lines: Vec<String> = fault.lines.iter().map(u64::to_string).collect();
        let tone = if reason == Reason::UnknownField { Tone::Plain } else { Tone::Warn };
        grid.row([
            (tone, reason.name().to_owned()),
            (Tone::Plain, units::count(fault.count)),
            (Tone::Plain, lines.join(", ") + more),
            (Tone::Plain, fault.first.clone()),
        ]);
        if reason.meaning() != "Passed over." {
            // Writing to a String cannot fail.
            let _ = writeln!(meanings, "{reason}: {}", reason.meaning());
        }
    }
    format!("\n{}{meanings}", grid.finish())
}
