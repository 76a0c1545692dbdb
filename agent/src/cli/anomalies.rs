//! `hydrometer anomalies`: what was found, and with `--follow` what is being found.
//!
//! In flows the WatchAnomalies stream, out flow lines: a table, a table with evidence, or one
//! [`schema::Anomaly`] a line. Invariant: a line is written whole and at once, so that a pipe sees
//! each anomaly when it happens.

use std::{collections::HashMap, path::Path};

use anyhow::bail;
use clap::Args;
use hydrometer_proto::v1::{
    Anomaly, AnomalyKind, FeatureEvidence, Impact, Remark, Severity, WatchAnomaliesRequest,
};
use jiff::Timestamp;

use super::{
    clients::OpenKinds,
    connect,
    output::{self, ColorChoice, Format, Paint, Tone},
    schema, units, words,
};

/// Show anomalies with their evidence.
#[derive(Args, Debug)]
pub struct AnomaliesArgs {
    /// What to print: a line each, evidence below each line (wide), or one JSON object a line
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Keep printing anomalies as they open, change and close
    #[arg(short, long)]
    follow: bool,
    /// Only those last seen since then: a span such as 10m, or an RFC 3339 instant
    #[arg(long, value_name = "SPAN|INSTANT", value_parser = |text: &str| words::parse_since(text, Timestamp::now()))]
    since: Option<Timestamp>,
    /// Only these kinds, e.g. low_and_slow,logit_harvest
    #[arg(long, value_delimiter = ',', value_parser = words::parse_kind)]
    kind: Vec<AnomalyKind>,
    /// Only this severity or worse: low, medium, high, critical
    #[arg(long, value_parser = words::parse_severity)]
    min_severity: Option<Severity>,
    /// Only this client
    #[arg(long, value_name = "ADDR")]
    client: Option<String>,
    /// Also those that are muted
    #[arg(long)]
    muted: bool,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    color: ColorChoice,
}

impl AnomaliesArgs {
    fn request(&self) -> WatchAnomaliesRequest {
        WatchAnomaliesRequest {
            follow: self.follow,
            since: self
                .since
                .map(|at| prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }),
            kinds: self.kind.iter().map(|&kind| kind.into()).collect(),
            min_severity: self.min_severity.unwrap_or_default().into(),
            client: self.client.clone().unwrap_or_default(),
            muted: self.muted,
        }
    }
}

/// Prints the anomalies of the agent on `socket`; following, until Ctrl-C or until the agent goes.
pub async fn run(args: AnomaliesArgs, socket: &Path) -> anyhow::Result<()> {
    let stream = stream(&args, socket);
    if !args.follow {
        return stream.await;
    }
    tokio::select! {
        result = stream => result,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

async fn stream(args: &AnomaliesArgs, socket: &Path) -> anyhow::Result<()> {
    const ASKED: &str = "show anomalies";
    let mut printer = Printer::new(args.output, args.color);
    let mut agent = connect::agent(socket).await?;
    let mut stream = agent
        .watch_anomalies(args.request())
        .await
        .map_err(|status| connect::refused(ASKED, &status))?
        .into_inner();
    while let Some(message) = stream.message().await.map_err(|status| connect::refused(ASKED, &status))? {
        if let Some(anomaly) = message.anomaly {
            printer.print(&anomaly)?;
        }
    }
    if args.follow {
        bail!(
            "the agent on {} has ended the stream: it is stopping; run the command again when it is back",
            socket.display()
        );
    }
    printer.finish()
}

/// Prints anomalies one by one.
pub struct Printer {
    output: Format,
    paint: Paint,
    is_first: bool,
}

impl Printer {
    /// One that has printed nothing.
    pub fn new(output: Format, color: ColorChoice) -> Self {
        Self { output, paint: Paint::for_stdout(color), is_first: true }
    }

    /// Prints an anomaly.
    pub fn print(&mut self, anomaly: &Anomaly) -> anyhow::Result<()> {
        if self.output == Format::Json {
            return output::print_json_line(&schema::Anomaly::from(anomaly));
        }
        if std::mem::take(&mut self.is_first) {
            output::print(&header(self.paint))?;
        }
        output::print(&line(anomaly, self.paint))?;
        if self.output == Format::Wide {
            output::print(&evidence(anomaly, self.paint))?;
        }
        Ok(())
    }

    /// There are no more.
    pub fn finish(self) -> anyhow::Result<()> {
        if self.is_first && self.output != Format::Json {
            output::print("no anomalies\n")?;
        }
        Ok(())
    }
}

/// The kinds of all open anomalies, by identifier.
pub async fn open_kinds(agent: &mut connect::Agent) -> anyhow::Result<OpenKinds> {
    const ASKED: &str = "read the open anomalies";
    let mut stream = agent
        .watch_anomalies(WatchAnomaliesRequest::default())
        .await
        .map_err(|status| connect::refused(ASKED, &status))?
        .into_inner();
    let mut kinds = HashMap::new();
    while let Some(message) = stream.message().await.map_err(|status| connect::refused(ASKED, &status))? {
        if let Some(anomaly) = message.anomaly.filter(words::is_open) {
            kinds.insert(anomaly.id, anomaly.kind);
        }
    }
    Ok(kinds)
}

/// Lines appear one by one, so the columns have fixed widths: those of their longest usual value.
fn columns(time: &str, state: &str, severity: &str, kind: &str, client: &str, score: &str) -> [String; 6] {
    [
        format!("{time:<20}"),
        format!("{state:<7}"),
        format!("{severity:<8}"),
        format!("{kind:<17}"),
        format!("{client:<24}"),
        format!("{score:>5}"),
    ]
}

/// The titles of the columns.
pub fn header(paint: Paint) -> String {
    let titles =
        columns("LAST SEEN", "STATE", "SEVERITY", "KIND", "CLIENT", "SCORE").join("  ") + "  SUMMARY";
    paint.text(Tone::Strong, &titles) + "\n"
}

/// One anomaly in one line.
pub fn line(anomaly: &Anomaly, paint: Paint) -> String {
    let cells = columns(
        &units::instant(words::instant(anomaly.last_seen.as_ref())),
        &state(anomaly),
        &words::severity(anomaly.severity),
        &words::kind(anomaly.kind),
        &anomaly.client,
        &format!("{:.2}", anomaly.score),
    );
    let is_raised = words::is_raised(anomaly);
    let tones = [
        Tone::Plain,
        Tone::Plain,
        words::severity_tone(anomaly.severity),
        Tone::Plain,
        Tone::Strong,
        Tone::Plain,
    ];
    let mut text = String::new();
    for (cell, tone) in cells.iter().zip(tones) {
        text.push_str(&paint.text(if is_raised { tone } else { Tone::Dim }, cell));
        text.push_str("  ");
    }
    text.push_str(
        &paint.text(Tone::Plain, anomaly.evidence.as_ref().map_or("", |evidence| &evidence.summary)),
    );
    text.push('\n');
    text
}

/// Its state; what is open and muted is `muted`.
fn state(anomaly: &Anomaly) -> String {
    let is_muted = words::is_open(anomaly) && anomaly.muted.is_some();
    if is_muted { "muted".to_owned() } else { words::state(anomaly.state) }
}

/// One anomaly of a client already named, on lines that fit a narrow terminal.
pub fn finding(anomaly: &Anomaly, paint: Paint) -> String {
    let tone = if words::is_raised(anomaly) { words::severity_tone(anomaly.severity) } else { Tone::Dim };
    let title = format!(
        "{} {} {}, score {:.2}",
        words::severity(anomaly.severity).to_uppercase(),
        words::kind(anomaly.kind),
        state(anomaly),
        anomaly.score
    );
    let summary = anomaly.evidence.as_ref().map_or("", |evidence| &evidence.summary);
    format!(
        "{}\n    {}\n{}",
        paint.text(tone, &title),
        paint.text(Tone::Plain, summary),
        evidence(anomaly, paint)
    )
}

/// Why it was raised: what was measured, and how unusual against what.
pub fn evidence(anomaly: &Anomaly, paint: Paint) -> String {
    let mut text = format!(
        "    {} {}\n    since {}, on {}, {} exchanges, id {}\n",
        paint.text(Tone::Plain, &anomaly.atlas_technique),
        paint.text(Tone::Plain, &anomaly.atlas_technique_name),
        units::instant(words::instant(anomaly.first_seen.as_ref())),
        paint.text(Tone::Plain, if anomaly.node.is_empty() { "this node" } else { &anomaly.node }),
        units::count(anomaly.evidence.as_ref().map_or(0, |evidence| evidence.exchanges)),
        paint.text(Tone::Dim, &anomaly.id),
    );
    for (what, id) in [
        ("part of campaign", &anomaly.campaign_id),
        ("split from campaign", &anomaly.split_from),
        ("merged into campaign", &anomaly.merged_into),
    ] {
        if !id.is_empty() {
            text.push_str(&paint.text(Tone::Plain, &format!("    {what} {id}")));
            text.push('\n');
        }
    }
    if let Some(impact) = &anomaly.impact {
        text.push_str(&paint.text(Tone::Plain, &format!("    took {}", taken(impact))));
        text.push('\n');
    }
    for feature in anomaly.evidence.iter().flat_map(|evidence| &evidence.features) {
        text.push_str(&paint.text(Tone::Plain, &format!("    {}", measured(feature))));
        text.push('\n');
    }
    if !anomaly.benign_if.is_empty() {
        text.push_str(&paint.text(Tone::Plain, &format!("    harmless if {}", anomaly.benign_if)));
        text.push('\n');
    }
    for (what, remark) in [("muted", &anomaly.muted), ("acknowledged", &anomaly.acknowledged)] {
        if let Some(remark) = remark {
            text.push_str(&paint.text(Tone::Plain, &format!("    {what} {}", said(remark))));
            text.push('\n');
        }
    }
    text
}

/// What was taken, and its price where there is one.
fn taken(impact: &Impact) -> String {
    let (asked, answered) =
        (units::number(impact.request_tokens as f64), units::number(impact.answer_tokens as f64));
    let cost = impact.cost.map_or_else(String::new, |cost| format!(", {cost:.2} {}", impact.currency));
    format!("about {asked} tokens asked and {answered} answered{cost}")
}

/// Who says so, why, and until when.
pub fn said(remark: &Remark) -> String {
    let until = units::instant(words::instant(remark.until.as_ref()));
    format!("by {} until {until}: {}", remark.by, remark.reason)
}

/// A feature beside what it was compared with. A fixed limit is not usual, and nothing deviates from it.
fn measured(feature: &FeatureEvidence) -> String {
    let name = &feature.feature;
    let value = units::with_unit(feature.value, &feature.unit);
    let baseline = units::with_unit(feature.baseline, &feature.unit);
    let against = match feature.compared_with.as_str() {
        "limit" => return format!("{name}: {value}, the limit is {baseline}"),
        "contract" => return format!("{name}: {value}, the contract allows {baseline}"),
        "own" => "its own past",
        "population" => "the other clients",
        "service" => "all answers of the service",
        other => other,
    };
    format!("{name}: {value} where {baseline} is usual, {:+.1} σ from {against}", feature.deviation)
}
