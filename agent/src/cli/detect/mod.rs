//! `hydrometer detect`: the anomalies in recorded exchanges.
//!
//! In flow exchanges ([`crate::records`]), out flow the changes of anomalies in the order in which an agent would have found
//! them ([`crate::judge`]), or an explanation of each; and at the end what was found by kind, and what was wrong with the
//! recording. Invariant: memory grows with the anomalies, not with the recording.

mod explain;
mod summary;

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use hydrometer_engine::{
    anomaly::{Anomaly, Reach, State},
    evaluation::Alert,
};
use indicatif::ProgressBar;

pub(super) use self::summary::faults;
use self::{explain::Explanations, summary::Summary};
use super::{
    anomalies::Printer,
    output::{ColorChoice, Format, Paint},
    recording::{JudgingArgs, RecordingArgs},
};
use crate::{convert, judge::Judge};

/// Find the anomalies in recorded exchanges
#[derive(Args, Debug)]
pub struct DetectArgs {
    #[command(flatten)]
    recording: RecordingArgs,
    #[command(flatten)]
    judging: JudgingArgs,
    /// What to print: a line each, evidence below each line (wide), or one JSON object a line; then a summary
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    color: ColorChoice,
    /// Explain each anomaly instead of telling its changes, or one: what decided, how unusual it was, the series behind it
    /// and what would make it harmless
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true, default_missing_value = ALL)]
    explain: Option<String>,
    /// Also write alerts to a file: one JSON object (id, t, kind, score, clients) a line, when an anomaly opens and when a
    /// campaign grows
    #[arg(long, value_name = "FILE")]
    alerts: Option<PathBuf>,
    /// Show anomalies that are muted, too
    #[arg(long)]
    muted: bool,
}

/// Instead of the identifier of one anomaly: every one.
const ALL: &str = "all";

/// Runs the command.
pub fn run(args: &DetectArgs) -> anyhow::Result<()> {
    let mut judge = Judge::new(args.judging.engine()?);
    let (mut records, progress) = args.recording.open()?;
    let mut telling = Telling::new(args, progress)?;
    let mut summary = Summary::default();
    for exchange in records.by_ref() {
        summary.cover(&exchange);
        for change in judge.take(exchange) {
            telling.tell(change, &mut summary)?;
        }
    }
    for change in judge.finish() {
        telling.tell(change, &mut summary)?;
    }
    telling.finish(args)?;
    summary.print(&records, &judge.stats(), args.output, Paint::for_stdout(args.color))?;
    args.recording.verdict(&records)
}

/// Where changes of anomalies go.
struct Telling {
    changes: Changes,
    /// Where alerts go as well.
    alerts: Option<BufWriter<File>>,
    /// What is shown: all that goes so far, or further.
    shows: Reach,
    /// Anomalies that were not shown when they opened.
    muted: u64,
    progress: ProgressBar,
}

enum Changes {
    /// As they come.
    Print(Printer),
    /// At the end.
    Explain(Explanations),
}

impl Telling {
    fn new(args: &DetectArgs, progress: ProgressBar) -> anyhow::Result<Self> {
        let changes = match &args.explain {
            None => Changes::Print(Printer::new(args.output, args.color)),
            Some(id) => Changes::Explain(Explanations::of((id != ALL).then(|| id.clone()))),
        };
        let alerts = args.alerts.as_deref().map(create).transpose()?;
        let shows = if args.muted { Reach::Node } else { Reach::Fleet };
        Ok(Self { changes, alerts, shows, muted: 0, progress })
    }

    fn tell(&mut self, change: Anomaly, summary: &mut Summary) -> anyhow::Result<()> {
        if let (Some(alerts), Some(alert)) = (&mut self.alerts, Alert::of(&change)) {
            let line = serde_json::to_string(&alert).context("cannot write JSON")?;
            writeln!(alerts, "{line}").context("cannot write the alerts")?;
        }
        if change.reach < self.shows {
            self.muted += u64::from(change.state == State::Open);
            return Ok(());
        }
        summary.add(&change);
        let anomaly = convert::anomaly(change, "");
        match &mut self.changes {
            // The bar and the lines may share a terminal.
            Changes::Print(printer) => self.progress.suspend(|| printer.print(&anomaly)),
            Changes::Explain(explanations) => {
                explanations.add(anomaly);
                Ok(())
            }
        }
    }

    fn finish(self, args: &DetectArgs) -> anyhow::Result<()> {
        self.progress.finish_and_clear();
        if let Some(mut alerts) = self.alerts {
            alerts.flush().context("cannot write the alerts")?;
        }
        if self.muted > 0 {
            eprintln!("anomalies that were muted, and are not shown without --muted: {}", self.muted);
        }
        match self.changes {
            Changes::Print(printer) => printer.finish(),
            Changes::Explain(explanations) => explanations
                .print(args.output, Paint::for_stdout(args.color))
                .with_context(|| args.recording.name()),
        }
    }
}

fn create(path: &Path) -> anyhow::Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(BufWriter::new(file))
}
