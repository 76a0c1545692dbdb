//! What an operator may set, with defaults that need no setting.
//!
//! The caller validates once, at its edge; the engine then trusts the values. Every problem is
//! reported at once, each by the name a user would write it under.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{anomaly::AnomalyKind, context::Context, impact::ImpactConfig};

/// Settings of the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Clients kept; beyond it the one not seen for longest is forgotten (and counted).
    pub max_clients: usize,
    /// When anomalies close and how often they are renewed.
    pub lifecycle: LifecycleConfig,
    /// False alarms that may be raised for 1,000 clients in a day, by all detectors together.
    pub false_alarms: f64,
    /// Kinds of anomalies that are not looked for.
    pub disabled: Vec<AnomalyKind>,
    /// New models, and when they appeared.
    pub releases: Vec<Release>,
    /// The `logit_harvest` detector.
    pub logit_harvest: LogitHarvestConfig,
    /// What tokens cost, and how much is how urgent.
    pub impact: ImpactConfig,
    /// What the operator knows about clients. It has a form of its own in files.
    #[serde(skip)]
    pub context: Context,
}

/// When anomalies close and how often they are renewed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LifecycleConfig {
    /// Seconds without the behaviour before an anomaly closes.
    pub close_after_s: f64,
    /// Least seconds between two updates of one anomaly, unless its severity rises.
    pub update_every_s: f64,
}

/// A model that became available.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Port of the service that serves it.
    pub port: u16,
    /// When, seconds since the epoch (or since the start of a recording).
    pub at_s: f64,
}

/// Settings of the `logit_harvest` detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogitHarvestConfig {
    /// How many times the service's usual record size the client's must be.
    pub ratio: f64,
    /// Record size, bytes, that is too large as long as the service's usual size is not learnt.
    pub cold_limit_bytes: f64,
}

/// Settings that make no sense, all of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct EngineConfigError {
    problems: Vec<String>,
}

impl EngineConfig {
    /// Checks every setting and reports every problem.
    pub fn validate(&self) -> Result<(), EngineConfigError> {
        let mut check = Check::default();
        check.at_least("max_clients", self.max_clients as f64, 1.0);
        check.at_least("lifecycle.close_after_s", self.lifecycle.close_after_s, 1.0);
        check.at_least("lifecycle.update_every_s", self.lifecycle.update_every_s, 1.0);
        check.at_least("false_alarms", self.false_alarms, 0.001);
        check.at_most("false_alarms", self.false_alarms, 1000.0);
        for release in &self.releases {
            check.at_least("releases.at_s", release.at_s, 0.0);
        }
        check.at_least("logit_harvest.ratio", self.logit_harvest.ratio, 1.1);
        check.at_least("logit_harvest.cold_limit_bytes", self.logit_harvest.cold_limit_bytes, 1.0);
        let impact = &self.impact;
        check.at_least("impact.input_per_million", impact.input_per_million, 0.0);
        check.at_least("impact.output_per_million", impact.output_per_million, 0.0);
        for service in &impact.services {
            let place = format!("impact.services of port {}", service.port);
            check.at_least(&format!("{place}: input_per_million"), service.input_per_million, 0.0);
            check.at_least(&format!("{place}: output_per_million"), service.output_per_million, 0.0);
        }
        check.at_least("impact.medium", impact.medium, 0.0);
        check.at_least("impact.high", impact.high, impact.medium);
        check.at_least("impact.critical", impact.critical, impact.high);
        check.done()
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_clients: 100_000,
            lifecycle: LifecycleConfig::default(),
            false_alarms: 1.0,
            disabled: Vec::new(),
            releases: Vec::new(),
            logit_harvest: LogitHarvestConfig::default(),
            impact: ImpactConfig::default(),
            context: Context::default(),
        }
    }
}

impl Default for LifecycleConfig {
    fn default() -> Self {
        Self { close_after_s: 93_600.0, update_every_s: 10.0 }
    }
}

impl Default for LogitHarvestConfig {
    fn default() -> Self {
        Self { ratio: 2.2, cold_limit_bytes: 600.0 }
    }
}

impl fmt::Display for EngineConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("; "))
    }
}

#[derive(Default)]
struct Check {
    problems: Vec<String>,
}

impl Check {
    fn at_least(&mut self, name: &str, value: f64, least: f64) {
        if !value.is_finite() || value < least {
            self.problems.push(format!("{name} is {value}: set it to {least} or more"));
        }
    }

    fn at_most(&mut self, name: &str, value: f64, most: f64) {
        if value > most {
            self.problems.push(format!("{name} is {value}: set it to {most} or less"));
        }
    }

    fn done(self) -> Result<(), EngineConfigError> {
        if self.problems.is_empty() { Ok(()) } else { Err(EngineConfigError { problems: self.problems }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        EngineConfig::default().validate().unwrap();
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let mut config = EngineConfig { max_clients: 0, ..EngineConfig::default() };
        config.logit_harvest.ratio = f64::NAN;
        config.false_alarms = 0.0;
        config.impact.high = 0.01;
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "max_clients is 0: set it to 1 or more; \
             false_alarms is 0: set it to 0.001 or more; \
             logit_harvest.ratio is NaN: set it to 1.1 or more; \
             impact.high is 0.01: set it to 0.1 or more"
        );
    }

    #[test]
    fn an_unknown_key_is_an_error_and_a_missing_one_is_the_default() {
        assert!(serde_json::from_str::<EngineConfig>(r#"{"max_client": 5}"#).is_err());
        assert!(serde_json::from_str::<EngineConfig>(r#"{"logit_harvest": {"floor": 5}}"#).is_err());
        let config: EngineConfig = serde_json::from_str(r#"{"logit_harvest": {"ratio": 3.0}}"#).unwrap();
        let logit_harvest = LogitHarvestConfig { ratio: 3.0, ..LogitHarvestConfig::default() };
        assert_eq!(config, EngineConfig { logit_harvest, ..EngineConfig::default() });
    }
}
