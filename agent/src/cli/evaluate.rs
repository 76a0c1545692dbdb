//! `hydrometer evaluate`: how good the detectors are on recorded exchanges of which it is known who did what.
//!
//! In flow exchanges and labels, out flow recall, precision, delays, memberships and how reliable scores are. The engine is
//! the one that an agent runs, and never sees a label.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use hydrometer_engine::evaluation::{Alert, Alerts, Evaluation, Figures, Labels, Reliability};
use serde::Serialize;

use super::{
    detect,
    output::{self, Align, ColorChoice, Grid, Paint, Report, Tone},
    recording::{JudgingArgs, RecordingArgs},
    units,
};
use crate::{judge::Judge, records::Faults};

/// Score the detectors by recorded exchanges and labels that say who did what
#[derive(Args, Debug)]
pub struct EvaluateArgs {
    #[command(flatten)]
    recording: RecordingArgs,
    /// The labels: a JSON object of days, benign, campaigns and release, as docs/evaluation.md describes it
    #[arg(value_name = "LABELS")]
    labels: PathBuf,
    #[command(flatten)]
    judging: JudgingArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Report,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    color: ColorChoice,
}

/// As JSON.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    evaluation: &'a Evaluation,
    faults: &'a Faults,
}

/// Runs the command.
pub fn run(args: &EvaluateArgs) -> anyhow::Result<()> {
    let labels = labels(args)?;
    let mut config = args.judging.engine()?;
    config.releases.extend(labels.releases());
    let mut judge = Judge::new(config);
    let (mut records, progress) = args.recording.open()?;
    let mut alerts = Alerts::default();
    for exchange in records.by_ref() {
        alerts.extend(judge.take(exchange).iter().filter_map(Alert::of));
    }
    alerts.extend(judge.finish().iter().filter_map(Alert::of));
    progress.finish_and_clear();
    let evaluation = Evaluation::of(&labels, &alerts);
    match args.output {
        Report::Json => {
            output::print_json(&Document { evaluation: &evaluation, faults: records.faults() })?;
        }
        Report::Text => {
            let paint = Paint::for_stdout(args.color);
            output::print(&(text(&evaluation, paint) + &detect::faults(records.faults(), paint)))?;
        }
    }
    args.recording.verdict(&records)
}

fn labels(args: &EvaluateArgs) -> anyhow::Result<Labels> {
    let name = || format!("cannot use the labels {}", args.labels.display());
    let labels: Labels =
        serde_json::from_slice(&fs::read(&args.labels).with_context(name)?).with_context(name)?;
    labels.check().with_context(name)?;
    Ok(labels)
}

fn text(evaluation: &Evaluation, paint: Paint) -> String {
    let mut text = figures(&evaluation.figures);
    text.push('\n');
    text.push_str(&kinds(evaluation, paint));
    text.push('\n');
    text.push_str(&reliability(evaluation, paint));
    text
}

fn figures(figures: &Figures) -> String {
    let roles: Vec<String> =
        figures.false_by_role.iter().map(|(role, count)| format!("{role} {count}")).collect();
    let roles = if roles.is_empty() { String::new() } else { format!("; of {}", roles.join(", ")) };
    let rows = [
        (
            "campaigns",
            format!(
                "{} of {} found, {} by the right kind; recall {}",
                figures.found,
                figures.campaigns,
                figures.named,
                share(figures.recall)
            ),
        ),
        (
            "alerts",
            format!(
                "{}, precision {}, {} for each campaign found",
                figures.alerts,
                share(Some(figures.precision)),
                number(figures.alerts_per_found_campaign)
            ),
        ),
        (
            "false alerts",
            format!("{} per 1,000 clients and day{roles}", number(figures.false_alerts_per_1000_clients_day)),
        ),
        (
            "median delay",
            format!(
                "{}, {} of a campaign's length",
                delay(figures.median_delay_s),
                share(figures.median_delay_share)
            ),
        ),
        ("cluster F1", share(figures.cluster_f1)),
    ];
    rows.map(|(name, value)| format!("{name:<14}{value}\n")).concat()
}

fn kinds(evaluation: &Evaluation, paint: Paint) -> String {
    use Align::{Left, Right};
    let columns = [
        ("KIND", Left),
        ("CAMPAIGNS", Right),
        ("FOUND", Right),
        ("NAMED", Right),
        ("DELAY", Right),
        ("F1", Right),
        ("ALERTS", Right),
        ("PRECISION", Right),
    ];
    let mut grid = Grid::new(paint, &columns);
    for (name, kind) in &evaluation.per_kind {
        grid.row(
            [
                name.clone(),
                kind.campaigns.to_string(),
                kind.found.to_string(),
                kind.named.to_string(),
                delay(kind.median_delay_s),
                share(kind.f1),
                kind.alerts.to_string(),
                share(kind.precision),
            ]
            .map(|cell| (Tone::Plain, cell)),
        );
    }
    grid.finish()
}

/// Of the anomalies that are said to be about as likely as each other, how many are true.
fn reliability(evaluation: &Evaluation, paint: Paint) -> String {
    use Align::{Left, Right};
    let columns = [
        ("KIND", Left),
        ("SAID TO BE", Left),
        ("ALERTS", Right),
        ("MEAN", Right),
        ("TRUE", Right),
        ("SHARE", Right),
    ];
    let mut grid = Grid::new(paint, &columns);
    let mut rows = |name: &str, Reliability(bins): &Reliability| {
        for bin in bins {
            let cells = [
                name.to_owned(),
                format!("{:.2} to {:.2}", bin.from, bin.to),
                bin.alerts.to_string(),
                share(Some(bin.claimed)),
                bin.matched.to_string(),
                share(Some(bin.share)),
            ];
            grid.row(cells.map(|cell| (Tone::Plain, cell)));
        }
    };
    rows("all", &evaluation.reliability);
    for (name, kind) in &evaluation.per_kind {
        rows(name, &kind.reliability);
    }
    grid.finish()
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| units::ABSENT.to_owned(), |value| format!("{value:.2}"))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| units::ABSENT.to_owned(), units::number)
}

fn delay(seconds: Option<f64>) -> String {
    let span = seconds.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok());
    span.map_or_else(|| units::ABSENT.to_owned(), units::duration)
}
