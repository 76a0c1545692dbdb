//! What the engine runs on, with or without an agent around it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use hydrometer_engine::{EngineConfig, Ipv6Prefix};

use super::{ConfigError, ContextSettings, Problems, Settings, parse_error};
use crate::identity::Secret;

impl Settings {
    /// The same settings with another file of contracts, if there is one.
    #[must_use]
    pub fn with_contracts(self, contracts: Option<PathBuf>) -> Self {
        Self { contracts: contracts.or(self.contracts), ..self }
    }

    /// Checks and takes what the engine runs on, whatever else is set.
    pub fn engine(self) -> Result<EngineConfig, ConfigError> {
        let mut problems = Problems::default();
        let prefix = self.traffic.validate(Secret::Ephemeral, &mut problems).ipv6_prefix;
        let context = ContextSettings {
            contract: self.contract,
            infrastructure: self.infrastructure,
            release: self.release,
            mute: self.mute,
            acknowledgement: self.acknowledgement,
        };
        let engine = engine(self.engine, context, self.contracts.as_deref(), prefix, &mut problems);
        problems.none_or(engine)
    }

    /// Reads a TOML file, as it is written.
    pub fn table(path: &Path) -> Result<toml::Table, ConfigError> {
        // Whatever is no setting is told with its line.
        Self::read(path)?;
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error| parse_error(path, &text, &error))
    }

    /// The settings that a table says.
    pub fn of_table(table: toml::Table) -> Result<Self, ConfigError> {
        table.try_into().map_err(|error: toml::de::Error| ConfigError::Invalid {
            problems: vec![error.message().replace('\n', " ")],
        })
    }
}

/// What the engine runs on: its own settings, what the operator knows, and what the file `contracts` says of that.
pub(super) fn engine(
    engine: EngineConfig,
    context: ContextSettings,
    contracts: Option<&Path>,
    prefix: Ipv6Prefix,
    problems: &mut Problems,
) -> EngineConfig {
    if let Err(error) = engine.validate() {
        problems.add(format!("engine: {error}"));
    }
    let apart = contracts.map(ContextSettings::read).transpose();
    let apart = apart.unwrap_or_else(|error| {
        problems.add(error.to_string());
        None
    });
    let (context, releases) = context.and(apart.unwrap_or_default()).validate(prefix, problems);
    let mut engine = EngineConfig { context, ..engine };
    engine.releases.extend(releases);
    engine
}
