//! What the commands that judge recorded exchanges share: which recording, and by which settings.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use hydrometer_engine::{EngineConfig, Release, Service};
use indicatif::ProgressBar;

use super::replay;
use crate::{
    config::{Settings, TrafficSettings},
    records::{Packets, Reason, Records},
};

/// The recording.
#[derive(Args, Debug)]
pub struct RecordingArgs {
    /// The exchanges, as `hydrometer replay --exchanges -o json` prints them, or a capture; either may be compressed by
    /// Zstandard; `-` reads standard input
    #[arg(value_name = "RECORDS")]
    pub(super) file: PathBuf,
    /// Of a capture: port, or address and port, of a service; several with commas or by repeating
    #[arg(long = "service", value_name = "[ADDRESS:]PORT", value_delimiter = ',', value_parser = replay::service)]
    services: Vec<Service>,
    #[command(flatten)]
    traffic: TrafficSettings,
    /// Fail when anything in the recording is wrong, instead of passing it over
    #[arg(long)]
    strict: bool,
}

/// By what it is judged.
#[derive(Args, Debug)]
pub struct JudgingArgs {
    /// Judge by the settings of an agent: its TOML file
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// What the operator knows: contracts, own machines, releases, mutes and acknowledgements, as tables of TOML
    #[arg(long, value_name = "FILE")]
    contracts: Option<PathBuf>,
    /// A new model: the port of its service, and when it appeared, in seconds as the recording has them; several with
    /// commas or by repeating
    #[arg(long, value_name = "PORT:SECONDS", value_delimiter = ',', value_parser = release)]
    releases: Vec<Release>,
}

impl RecordingArgs {
    /// Opens it, with a bar that shows how much was read.
    pub(super) fn open(&self) -> anyhow::Result<(Records, ProgressBar)> {
        let packets = Packets { services: self.services.clone(), traffic: self.traffic.clone().check()? };
        let progress = replay::progress_of(&self.file);
        let records = Records::open(&self.file, packets, &progress).with_context(|| self.name())?;
        Ok((records, progress))
    }

    /// What is wrong enough to fail, once everything else is told.
    pub(super) fn verdict(&self, records: &Records) -> anyhow::Result<()> {
        if let Some((replay, contents)) = records.packets() {
            replay::explain(replay, contents, records.exchanges());
        }
        let faults = records.faults();
        if let Some(damage) = faults.of(Reason::Damaged) {
            let at = damage.lines.first().copied().unwrap_or_default();
            bail!("{}, at {at}: {}; everything before it was judged", self.name(), damage.first);
        }
        if self.strict && !faults.is_empty() {
            let reasons: Vec<&str> = faults.iter().map(|(reason, _)| reason.name()).collect();
            bail!("{} is not in order ({}), and --strict was given", self.name(), reasons.join(", "));
        }
        Ok(())
    }

    pub(super) fn name(&self) -> String {
        self.file.display().to_string()
    }
}

impl JudgingArgs {
    /// Settings of the engine: an agent's, or those that need no setting, and what was given beside them.
    pub(super) fn engine(&self) -> anyhow::Result<EngineConfig> {
        let settings = self.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        self.over(settings)
    }

    /// Likewise, from these settings.
    pub(super) fn over(&self, settings: Settings) -> anyhow::Result<EngineConfig> {
        let mut engine = settings.with_contracts(self.contracts.clone()).engine()?;
        engine.releases.extend(&self.releases);
        Ok(engine)
    }
}

fn release(text: &str) -> Result<Release, String> {
    let parts =
        text.split_once(':').and_then(|(port, at)| Some((port.parse().ok()?, at.parse::<f64>().ok()?)));
    let release = parts.filter(|(_, at_s)| *at_s >= 0.0 && at_s.is_finite());
    let release = release.map(|(port, at_s)| Release { port, at_s });
    release
        .ok_or_else(|| format!("{text:?} is no release: give the port and the second, such as 8003:117874"))
}
