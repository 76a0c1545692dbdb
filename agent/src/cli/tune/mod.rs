//! `hydrometer tune`: what other settings would have found in a recording.
//!
//! In flow exchanges, the settings as they are and as they are proposed; out flow the anomalies that would appear, go, or
//! be raised at another time. Both engines see the same exchanges at the same times.

mod difference;
mod proposal;

use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;

use self::{difference::Difference, proposal::Setting};
use super::{
    detect,
    output::{self, ColorChoice, Paint, Report},
    recording::{JudgingArgs, RecordingArgs},
};
use crate::{config::Settings, judge::Judge, records::Records};

/// Show which anomalies would appear or go under other settings, before they are applied
#[derive(Args, Debug)]
pub struct TuneArgs {
    #[command(flatten)]
    recording: RecordingArgs,
    #[command(flatten)]
    judging: JudgingArgs,
    /// The settings that are proposed: a TOML file like an agent's [default: those of --config]
    #[arg(long, value_name = "FILE")]
    proposed: Option<PathBuf>,
    /// Change one of them: its name in that file, and its value as TOML, such as engine.logit_harvest.ratio=3; repeat for
    /// several
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<Setting>,
    /// Change how many false alarms may be raised for 1,000 clients in a day (engine.false_alarms)
    #[arg(long, value_name = "NUMBER")]
    false_alarms: Option<f64>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Report,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    color: ColorChoice,
}

/// Runs the command.
pub fn run(args: &TuneArgs) -> anyhow::Result<()> {
    let now = args.judging.engine()?;
    let proposed = args.judging.over(proposed(args)?)?;
    anyhow::ensure!(
        now != proposed,
        "nothing is proposed: change something by --false-alarms, --set or --proposed"
    );
    let (mut records, progress) = args.recording.open()?;
    let difference = compare(&mut records, [Judge::new(now), Judge::new(proposed)], &progress);
    match args.output {
        Report::Json => output::print_json(&difference.document(records.faults()))?,
        Report::Text => {
            let paint = Paint::for_stdout(args.color);
            output::print(&(difference.text(paint) + &detect::faults(records.faults(), paint)))?;
        }
    }
    args.recording.verdict(&records)
}

fn proposed(args: &TuneArgs) -> anyhow::Result<Settings> {
    let file = args.proposed.as_deref().or(args.judging.config.as_deref());
    let budget = args.false_alarms.map(Setting::false_alarms);
    let changes: Vec<Setting> = args.set.iter().cloned().chain(budget).collect();
    Ok(proposal::settings(file, &changes)?)
}

/// Lets both judge the recording.
fn compare(records: &mut Records, [mut now, mut proposed]: [Judge; 2], progress: &ProgressBar) -> Difference {
    let mut difference = Difference::default();
    for exchange in records {
        difference.now(now.take(exchange.clone()));
        difference.proposed(proposed.take(exchange));
    }
    difference.now(now.finish());
    difference.proposed(proposed.finish());
    progress.finish_and_clear();
    difference
}
