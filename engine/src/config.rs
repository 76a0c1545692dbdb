//! What an operator may set, with defaults that need no setting.
//!
//! The caller validates once, at its edge; the engine then trusts the values. Every problem is
//! reported at once, each by the name a user would write it under.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Settings of the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Clients kept; beyond it the one not seen for longest is forgotten (and counted).
    pub max_clients: usize,
    /// When anomalies close and how often they are renewed.
    pub lifecycle: LifecycleConfig,
    /// The `request_rate` detector.
    pub request_rate: RequestRateConfig,
    /// The `machine_cadence` detector.
    pub machine_cadence: MachineCadenceConfig,
    /// The `logit_harvest` detector.
    pub logit_harvest: LogitHarvestConfig,
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

/// Settings of the `request_rate` detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestRateConfig {
    /// Whether it runs.
    pub enabled: bool,
    /// Requests in one minute below which nothing is raised.
    pub min_requests: u32,
    /// How many times its own usual busy minute a client must exceed.
    pub own_factor: f64,
    /// How many times the population's usual busy minute a client must exceed.
    pub population_factor: f64,
    /// Other active clients needed before the population says anything.
    pub min_clients: usize,
}

/// Settings of the `machine_cadence` detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MachineCadenceConfig {
    /// Whether it runs.
    pub enabled: bool,
    /// Requests in a row that must be regular.
    pub min_requests: usize,
    /// Largest coefficient of variation of the time between requests.
    pub max_cv: f64,
    /// Shortest median time between requests that counts as a cadence, seconds.
    pub min_interval_s: f64,
}

/// Settings of the `logit_harvest` detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogitHarvestConfig {
    /// Whether it runs.
    pub enabled: bool,
    /// Streamed answers a client must have had.
    pub min_answers: usize,
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
        check.at_least("request_rate.min_requests", f64::from(self.request_rate.min_requests), 1.0);
        check.at_least("request_rate.own_factor", self.request_rate.own_factor, 1.0);
        check.at_least("request_rate.population_factor", self.request_rate.population_factor, 1.0);
        check.at_least("request_rate.min_clients", self.request_rate.min_clients as f64, 1.0);
        check.at_least("machine_cadence.min_requests", self.machine_cadence.min_requests as f64, 4.0);
        check.at_most("machine_cadence.min_requests", self.machine_cadence.min_requests as f64, 128.0);
        check.at_least("machine_cadence.max_cv", self.machine_cadence.max_cv, 0.001);
        check.at_most("machine_cadence.max_cv", self.machine_cadence.max_cv, 0.5);
        check.at_least("machine_cadence.min_interval_s", self.machine_cadence.min_interval_s, 0.001);
        check.at_least("logit_harvest.min_answers", self.logit_harvest.min_answers as f64, 1.0);
        check.at_most("logit_harvest.min_answers", self.logit_harvest.min_answers as f64, 64.0);
        check.at_least("logit_harvest.ratio", self.logit_harvest.ratio, 1.1);
        check.at_least("logit_harvest.cold_limit_bytes", self.logit_harvest.cold_limit_bytes, 1.0);
        check.done()
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_clients: 100_000,
            lifecycle: LifecycleConfig::default(),
            request_rate: RequestRateConfig::default(),
            machine_cadence: MachineCadenceConfig::default(),
            logit_harvest: LogitHarvestConfig::default(),
        }
    }
}

impl Default for LifecycleConfig {
    fn default() -> Self {
        Self { close_after_s: 600.0, update_every_s: 10.0 }
    }
}

impl Default for RequestRateConfig {
    fn default() -> Self {
        Self { enabled: true, min_requests: 120, own_factor: 4.0, population_factor: 5.0, min_clients: 5 }
    }
}

impl Default for MachineCadenceConfig {
    fn default() -> Self {
        Self { enabled: true, min_requests: 12, max_cv: 0.12, min_interval_s: 0.2 }
    }
}

impl Default for LogitHarvestConfig {
    fn default() -> Self {
        Self { enabled: true, min_answers: 3, ratio: 2.2, cold_limit_bytes: 600.0 }
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
        config.machine_cadence.max_cv = 0.9;
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "max_clients is 0: set it to 1 or more; \
             machine_cadence.max_cv is 0.9: set it to 0.5 or less; \
             logit_harvest.ratio is NaN: set it to 1.1 or more"
        );
    }

    #[test]
    fn an_unknown_key_is_an_error_and_a_missing_one_is_the_default() {
        assert!(serde_json::from_str::<EngineConfig>(r#"{"max_client": 5}"#).is_err());
        assert!(serde_json::from_str::<EngineConfig>(r#"{"request_rate": {"floor": 5}}"#).is_err());
        let config: EngineConfig = serde_json::from_str(r#"{"logit_harvest": {"ratio": 3.0}}"#).unwrap();
        assert_eq!(config.logit_harvest.min_answers, LogitHarvestConfig::default().min_answers);
    }
}
