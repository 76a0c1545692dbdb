//! `hydrometer mute`, `unmute` and `mutes`: which anomalies are not to be raised, why, and until when.
//!
//! In flow a target and a reason, out flows what holds now, as the agent says it.

use std::{path::Path, time::Duration};

use clap::Args;
use hydrometer_proto::v1::{AnomalyKind, ListMutesRequest, Mute, MuteRequest, UnmuteRequest};

use super::{
    anomalies, connect,
    output::{self, Align, ColorChoice, Grid, Paint, Report, Tone},
    schema, units, words,
};

/// Keep anomalies from being raised for a while. They are found and tracked all the same, shown by `anomalies --muted`,
/// and raised if they are still open when the mute ends.
#[derive(Args, Debug)]
pub struct MuteArgs {
    /// A client, a network such as 203.0.113.0/24, a JA4 fingerprint, or the identifier of an anomaly
    #[arg(value_name = "CLIENT|CIDR|JA4|ANOMALY")]
    target: String,
    /// Only anomalies of this kind
    #[arg(long, value_parser = words::parse_kind)]
    kind: Option<AnomalyKind>,
    /// Why
    #[arg(long)]
    reason: String,
    /// How long, such as 12h or 7d
    #[arg(long = "for", value_name = "SPAN", value_parser = words::parse_period)]
    period: Duration,
    /// Who says so [default: whoever runs this]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
}

/// End mutes: what is still open is raised.
#[derive(Args, Debug)]
pub struct UnmuteArgs {
    /// What was muted, as `mutes` shows it
    #[arg(value_name = "CLIENT|CIDR|JA4|ANOMALY")]
    target: String,
    /// Only the mute of this kind
    #[arg(long, value_parser = words::parse_kind)]
    kind: Option<AnomalyKind>,
}

/// Show what is muted, by whom, why and until when.
#[derive(Args, Debug)]
pub struct MutesArgs {
    /// What to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Report,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    color: ColorChoice,
}

/// Asks the agent on `socket` to mute.
pub async fn mute(args: MuteArgs, socket: &Path) -> anyhow::Result<()> {
    let request = MuteRequest {
        target: args.target,
        kind: args.kind.unwrap_or_default().into(),
        reason: args.reason,
        by: args.by.unwrap_or_else(words::user),
        period: Some(words::to_duration(args.period)),
    };
    let mut agent = connect::agent(socket).await?;
    let answer = agent.mute(request).await.map_err(|status| connect::refused("mute", &status))?;
    answer.into_inner().mute.iter().try_for_each(|mute| output::print(&line("muted", mute)))
}

/// Asks the agent on `socket` to end mutes.
pub async fn unmute(args: UnmuteArgs, socket: &Path) -> anyhow::Result<()> {
    let request = UnmuteRequest { target: args.target, kind: args.kind.unwrap_or_default().into() };
    let mut agent = connect::agent(socket).await?;
    let answer = agent.unmute(request).await.map_err(|status| connect::refused("unmute", &status))?;
    answer.into_inner().mutes.iter().try_for_each(|mute| output::print(&line("no longer muted:", mute)))
}

/// Prints the mutes of the agent on `socket`.
pub async fn list(args: MutesArgs, socket: &Path) -> anyhow::Result<()> {
    let mut agent = connect::agent(socket).await?;
    let answer = agent.list_mutes(ListMutesRequest {}).await;
    let mutes = answer.map_err(|status| connect::refused("list the mutes", &status))?.into_inner().mutes;
    match args.output {
        Report::Json => output::print_json(&mutes.iter().map(schema::Mute::from).collect::<Vec<_>>()),
        Report::Text => output::print(&render(&mutes, Paint::for_stdout(args.color))),
    }
}

fn line(what: &str, mute: &Mute) -> String {
    let said = mute.remark.as_ref().map(anomalies::said).unwrap_or_default();
    let text = format!("{what} {} {}, {said}", mute.target, kinds(mute));
    Paint::PLAIN.text(Tone::Plain, &text) + "\n"
}

/// The mutes as a table.
pub fn render(mutes: &[Mute], paint: Paint) -> String {
    if mutes.is_empty() {
        return "nothing is muted\n".to_owned();
    }
    let titles = ["MUTED", "KIND", "UNTIL", "BY", "IN", "REASON"];
    let mut grid = Grid::new(paint, &titles.map(|title| (title, Align::Left)));
    for mute in mutes {
        let remark = mute.remark.clone().unwrap_or_default();
        let place = if mute.in_settings { "settings" } else { "agent" };
        let until = units::instant(words::instant(remark.until.as_ref()));
        grid.row([
            (Tone::Strong, mute.target.clone()),
            (Tone::Plain, kinds(mute)),
            (Tone::Plain, until),
            (Tone::Plain, remark.by),
            (Tone::Dim, place.to_owned()),
            (Tone::Plain, remark.reason),
        ]);
    }
    grid.finish()
}

fn kinds(mute: &Mute) -> String {
    if mute.kind() == AnomalyKind::Unspecified { "(all kinds)".to_owned() } else { words::kind(mute.kind) }
}
