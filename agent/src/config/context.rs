//! What the operator knows about clients, as it is written: contracts, own machines, releases, mutes, acknowledgements.
//!
//! In flow tables of TOML, in a file of their own or in the agent's settings; out flows what the engine takes.

use std::{fs, path::Path};

use hydrometer_engine::{
    Acknowledgement, Context, Contract, Infrastructure, Ipv6Prefix, Limits, Mute, Nanos, Release, Selector,
    Target,
    anomaly::{AnomalyKind, Remark},
};
use jiff::{Timestamp, civil, tz::TimeZone};
use serde::Deserialize;

use super::{ConfigError, Problems, parse_error};
use crate::mutes::MAX_MUTES;

/// Contracts that may be named: each takes 2 KiB.
const MAX_CONTRACTS: usize = 10_000;

/// The tables as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContextSettings {
    /// What was agreed with clients.
    pub(super) contract: Vec<ContractSettings>,
    /// The operator's own machines among the clients.
    pub(super) infrastructure: Vec<InfrastructureSettings>,
    /// New models.
    pub(super) release: Vec<ReleaseSettings>,
    /// Anomalies that are not to be raised.
    pub(super) mute: Vec<MuteSettings>,
    /// Anomalies that somebody has taken up.
    pub(super) acknowledgement: Vec<AcknowledgementSettings>,
}

/// One `[[contract]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContractSettings {
    name: String,
    clients: Vec<String>,
    requests_per_minute: Option<f64>,
    requests_per_day: Option<f64>,
    bytes_per_day: Option<f64>,
    tokens_per_day: Option<f64>,
    #[serde(default)]
    allows: Vec<String>,
    expires: Option<toml::value::Datetime>,
}

/// One `[[infrastructure]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InfrastructureSettings {
    role: String,
    clients: Vec<String>,
}

/// One `[[release]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseSettings {
    port: u16,
    at: toml::value::Datetime,
}

/// One `[[mute]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuteSettings {
    #[serde(default)]
    clients: Vec<String>,
    #[serde(default)]
    anomalies: Vec<String>,
    #[serde(default)]
    kinds: Vec<String>,
    reason: String,
    by: Option<String>,
    expires: toml::value::Datetime,
}

/// One `[[acknowledgement]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgementSettings {
    anomaly: String,
    reason: String,
    by: Option<String>,
    expires: toml::value::Datetime,
}

/// What a contract may allow by one word, and the kinds of anomalies that then are not raised.
const BEHAVIOURS: [(&str, &[AnomalyKind]); 6] = {
    use AnomalyKind::{
        BulkExtraction, DenialOfWallet, Flood, Hydra, LogitHarvest, LowAndSlow, Pivot, ProxyRotation,
        SlowDrip, TemplateSweep,
    };
    [
        // Many prompts of one form, by night or at even times.
        ("batch", &[BulkExtraction, LowAndSlow, TemplateSweep]),
        // As much as the service takes.
        ("load-test", &[BulkExtraction, DenialOfWallet, Flood, SlowDrip]),
        // A benchmark: one form, often with log-probabilities.
        ("evaluation", &[LogitHarvest, LowAndSlow, TemplateSweep]),
        // Log-probabilities are part of the service.
        ("logprobs", &[LogitHarvest]),
        // Documents or whole repositories as context.
        ("long-context", &[DenialOfWallet]),
        // Workers behind many addresses.
        ("fleet", &[Hydra, ProxyRotation, Pivot]),
    ]
};

impl ContextSettings {
    /// Reads a TOML file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error| parse_error(path, &text, &error))
    }

    /// Reads a TOML file where there are no other settings.
    pub fn load(path: &Path) -> Result<(Context, Vec<Release>), ConfigError> {
        let mut problems = Problems::default();
        let context = Self::read(path)?.validate(Ipv6Prefix::default(), &mut problems);
        problems.none_or(context)
    }

    /// These tables, and those of `other` behind them.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.contract.extend(other.contract);
        self.infrastructure.extend(other.infrastructure);
        self.release.extend(other.release);
        self.mute.extend(other.mute);
        self.acknowledgement.extend(other.acknowledgement);
        self
    }

    /// Checks everything; of clients' IPv6 addresses `prefix` counts.
    pub(super) fn validate(self, prefix: Ipv6Prefix, problems: &mut Problems) -> (Context, Vec<Release>) {
        problems.check(self.contract.len() <= MAX_CONTRACTS, || {
            format!("{} contracts are given, and {MAX_CONTRACTS} is the most", self.contract.len())
        });
        let contracts: Vec<Contract> =
            self.contract.into_iter().map(|contract| contract.validate(prefix, problems)).collect();
        let infrastructure: Vec<Infrastructure> =
            self.infrastructure.into_iter().map(|own| own.validate(prefix, problems)).collect();
        for (at, contract) in contracts.iter().enumerate() {
            for earlier in &contracts[..at] {
                problems.check(earlier.name != contract.name, || {
                    format!("two contracts are named {:?}: name them apart", contract.name)
                });
                let twice = contract.clients.iter().any(|client| earlier.clients.contains(client));
                problems.check(!twice, || {
                    format!("contracts {:?} and {:?} name the same client", earlier.name, contract.name)
                });
            }
        }
        let releases = self.release.into_iter().filter_map(|release| release.validate(problems)).collect();
        let mutes: Vec<Mute> =
            self.mute.into_iter().flat_map(|mute| mute.validate(prefix, problems)).collect();
        problems.check(mutes.len() <= MAX_MUTES, || {
            format!("{} mutes are given, and {MAX_MUTES} is the most: mute networks", mutes.len())
        });
        let acknowledgements = self.acknowledgement.into_iter();
        let acknowledgements = acknowledgements.filter_map(|known| known.validate(problems)).collect();
        (Context { contracts, infrastructure, mutes, acknowledgements }, releases)
    }
}

impl ContractSettings {
    fn validate(self, prefix: Ipv6Prefix, problems: &mut Problems) -> Contract {
        let place = format!("contract {:?}", self.name);
        problems.check(!self.name.trim().is_empty(), || "a contract has no name: give it one".to_owned());
        let limits = [
            ("requests_per_minute", self.requests_per_minute),
            ("requests_per_day", self.requests_per_day),
            ("bytes_per_day", self.bytes_per_day),
            ("tokens_per_day", self.tokens_per_day),
        ];
        for (name, limit) in limits {
            problems.check(limit.is_none_or(|limit| limit.is_finite() && limit >= 0.0), || {
                format!("{place}: {name} is {}: set it to 0 or more", limit.unwrap_or_default())
            });
        }
        let mut allows: Vec<AnomalyKind> =
            self.allows.iter().flat_map(|word| kinds(word, &place, problems)).collect();
        allows.sort_unstable();
        allows.dedup();
        let expires = self.expires.and_then(|at| instant(&at, civil::Time::MAX, &place, problems));
        Contract {
            clients: selectors(&self.clients, prefix, &place, problems),
            name: self.name,
            limits: Limits {
                requests_per_minute: self.requests_per_minute,
                requests_per_day: self.requests_per_day,
                bytes_per_day: self.bytes_per_day,
                tokens_per_day: self.tokens_per_day,
            },
            allows,
            expires,
        }
    }
}

impl InfrastructureSettings {
    fn validate(self, prefix: Ipv6Prefix, problems: &mut Problems) -> Infrastructure {
        let place = format!("infrastructure {:?}", self.role);
        let clients = selectors(&self.clients, prefix, &place, problems);
        // Anybody can imitate a stack, and would be invisible.
        problems.check(!clients.iter().any(|client| matches!(client, Selector::Ja4(_))), || {
            format!("{place}: a JA4 fingerprint is no proof of who asks: give addresses")
        });
        Infrastructure { role: self.role, clients }
    }
}

impl ReleaseSettings {
    fn validate(self, problems: &mut Problems) -> Option<Release> {
        let place = format!("release on port {}", self.port);
        let at = instant(&self.at, civil::Time::MIN, &place, problems)?;
        Some(Release { port: self.port, at_s: at.as_secs_f64() })
    }
}

impl MuteSettings {
    /// A mute for each target and kind.
    fn validate(self, prefix: Ipv6Prefix, problems: &mut Problems) -> Vec<Mute> {
        let place = format!("mute of {:?}", [self.clients.clone(), self.anomalies.clone()].concat());
        problems.check(!(self.clients.is_empty() && self.anomalies.is_empty()), || {
            "a mute names neither clients nor anomalies: give one of them".to_owned()
        });
        let mut targets = Vec::new();
        for (texts, is_anomaly) in [(&self.clients, false), (&self.anomalies, true)] {
            for text in texts {
                match Target::parse(text, prefix) {
                    Ok(target) if matches!(target, Target::Anomaly(_)) == is_anomaly => targets.push(target),
                    Ok(_) if is_anomaly => {
                        problems.add(format!("{place}: {text:?} is no identifier of an anomaly"));
                    }
                    Ok(_) => problems.add(format!("{place}: {text:?} is an anomaly: name it in anomalies")),
                    Err(error) => problems.add(format!("{place}: {error}")),
                }
            }
        }
        let mut kinds: Vec<Option<AnomalyKind>> = Vec::new();
        for name in &self.kinds {
            let kind = AnomalyKind::named(name);
            problems.check(kind.is_some(), || format!("{place}: {name:?} is not a kind of anomalies"));
            kinds.push(kind);
        }
        if kinds.is_empty() {
            kinds.push(None);
        }
        let Some(remark) = remark(self.by, self.reason, &self.expires, &place, problems) else {
            return Vec::new();
        };
        let mute = |target: &Target, kind| Mute { target: target.clone(), kind, remark: remark.clone() };
        targets.iter().flat_map(|target| kinds.iter().map(move |kind| mute(target, *kind))).collect()
    }
}

impl AcknowledgementSettings {
    fn validate(self, problems: &mut Problems) -> Option<Acknowledgement> {
        let place = format!("acknowledgement of {:?}", self.anomaly);
        let remark = remark(self.by, self.reason, &self.expires, &place, problems)?;
        let target = Target::parse(&self.anomaly, Ipv6Prefix::default());
        let Ok(Target::Anomaly(anomaly)) = target else {
            problems.add(format!("{place}: that is no identifier of an anomaly, of 16 digits"));
            return None;
        };
        Some(Acknowledgement { anomaly, remark })
    }
}

/// What stands in the settings was said at no known time.
fn remark(
    by: Option<String>,
    reason: String,
    expires: &toml::value::Datetime,
    place: &str,
    problems: &mut Problems,
) -> Option<Remark> {
    problems.check(!reason.trim().is_empty(), || format!("{place} has no reason: give one"));
    let until = instant(expires, civil::Time::MAX, place, problems)?;
    let by = by.unwrap_or_else(|| "the settings".to_owned());
    Some(Remark { by, reason, at: Nanos::default(), until })
}

fn selectors(texts: &[String], prefix: Ipv6Prefix, place: &str, problems: &mut Problems) -> Vec<Selector> {
    problems.check(!texts.is_empty(), || format!("{place} names no clients: give addresses or networks"));
    let parsed = texts.iter().filter_map(|text| {
        Selector::parse(text, prefix).map_err(|error| problems.add(format!("{place}: {error}"))).ok()
    });
    parsed.collect()
}

/// The kinds that a word of `allows` stands for: a behaviour, or a kind itself.
fn kinds(word: &str, place: &str, problems: &mut Problems) -> Vec<AnomalyKind> {
    let word = word.replace('_', "-");
    if let Some((_, kinds)) = BEHAVIOURS.iter().find(|(name, _)| *name == word) {
        return kinds.to_vec();
    }
    let allowable = |kind: &&AnomalyKind| **kind != AnomalyKind::ContractExceeded;
    let mut all = AnomalyKind::ALL.iter().filter(allowable);
    let kind = all.find(|kind| kind.name().replace('_', "-") == word);
    problems.check(kind.is_some(), || {
        let names: Vec<&str> = BEHAVIOURS.iter().map(|(name, _)| *name).collect();
        format!("{place} allows {word:?}: allow {} or kinds of anomalies", names.join(", "))
    });
    kind.into_iter().copied().collect()
}

/// A date with or without a time; where there is none it is `time`, and where there is no offset it is UTC.
fn instant(
    at: &toml::value::Datetime,
    time: civil::Time,
    place: &str,
    problems: &mut Problems,
) -> Option<Nanos> {
    let text = at.to_string();
    let local = text.parse::<civil::DateTime>().ok().filter(|_| at.time.is_some());
    let local = local.or_else(|| text.parse::<civil::Date>().ok().map(|date| date.to_datetime(time)));
    let utc = || TimeZone::UTC.to_timestamp(local?).ok();
    let parsed = text.parse::<Timestamp>().ok().or_else(utc);
    let nanos = parsed.and_then(|at| u64::try_from(at.as_nanosecond()).ok());
    problems
        .check(nanos.is_some(), || format!("{place}: {text} is no date: write 2027-01-31, without quotes"));
    nanos.map(Nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(text: &str) -> Result<(Context, Vec<Release>), ConfigError> {
        let mut problems = Problems::default();
        let settings: ContextSettings = toml::from_str(text).unwrap();
        let context = settings.validate(Ipv6Prefix::default(), &mut problems);
        problems.none_or(context)
    }

    #[test]
    fn a_file_says_who_may_do_what_until_when() {
        let text = "[[contract]]\nname = \"Acme\"\nclients = [\"203.0.113.0/24\", \"2001:db8::42\"]\n\
                    tokens_per_day = 5e6\nallows = [\"batch\", \"logit_harvest\"]\nexpires = 2027-01-31\n\
                    [[infrastructure]]\nrole = \"health check\"\nclients = [\"10.0.0.9\"]\n\
                    [[release]]\nport = 8003\nat = 2026-11-20T09:00:00Z\n\
                    [[mute]]\nclients = [\"203.0.113.9\", \"198.51.100.0/24\"]\nanomalies = [\"c5e4488dbb0ba68b\"]\n\
                    kinds = [\"flood\", \"low-and-slow\"]\nreason = \"load test\"\nby = \"ann\"\nexpires = 2027-01-31\n\
                    [[acknowledgement]]\nanomaly = \"c5e4488dbb0ba68b\"\nreason = \"asked\"\nexpires = 2027-01-31\n";
        let (context, releases) = validate(text).unwrap();
        let contract = &context.contracts[0];
        assert_eq!((contract.name.as_str(), contract.clients.len()), ("Acme", 2));
        assert_eq!(contract.limits, Limits { tokens_per_day: Some(5e6), ..Limits::default() });
        let allowed = ["bulk_extraction", "low_and_slow", "template_sweep", "logit_harvest"];
        assert!(contract.allows.iter().map(|kind| kind.name()).eq(allowed));
        // It holds on its last day.
        let end = |text: &str| Nanos(text.parse::<Timestamp>().unwrap().as_nanosecond() as u64);
        let expires = contract.expires.unwrap();
        assert!(expires > end("2027-01-31T23:59:59Z") && expires < end("2027-02-01T00:00:00Z"));
        assert_eq!(context.infrastructure[0].role, "health check");
        let mutes = &context.mutes;
        assert_eq!((mutes.len(), mutes[1].kind), (6, Some(AnomalyKind::LowAndSlow)));
        assert_eq!(
            (mutes[5].target.to_string().as_str(), mutes[5].remark.until),
            ("c5e4488dbb0ba68b", expires)
        );
        let known = &context.acknowledgements[0];
        assert_eq!((known.remark.by.as_str(), known.remark.reason.as_str()), ("the settings", "asked"));
        assert_eq!(releases, [Release { port: 8003, at_s: 1_795_165_200.0 }]);
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let text = "[[contract]]\nname = \"A\"\nclients = [\"host\"]\nrequests_per_minute = -1.0\n\
                    allows = [\"mischief\"]\nexpires = 07:30:00\n\
                    [[contract]]\nname = \"A\"\nclients = []\nbytes_per_day = nan\n\
                    [[infrastructure]]\nrole = \"probe\"\nclients = [\"ja4:t13d1516h2_8daaf6152771_b186095e22b6\"]\n\
                    [[mute]]\nreason = \"\"\nexpires = 2027-01-31\n\
                    [[mute]]\nclients = [\"c5e4488dbb0ba68b\"]\nkinds = [\"noise\"]\nreason = \"x\"\nexpires = 07:30:00\n\
                    [[acknowledgement]]\nanomaly = \"203.0.113.7\"\nreason = \"x\"\nexpires = 2027-01-31\n";
        let said = validate(text).unwrap_err().to_string();
        for problem in [
            "contract \"A\": \"host\" is not a client",
            "requests_per_minute is -1",
            "allows \"mischief\": allow batch, load-test",
            "07:30:00 is no date",
            "names no clients",
            "bytes_per_day is NaN",
            "two contracts are named \"A\"",
            "infrastructure \"probe\": a JA4 fingerprint is no proof",
            "a mute names neither clients nor anomalies",
            "mute of [] has no reason",
            "\"c5e4488dbb0ba68b\" is an anomaly: name it in anomalies",
            "\"noise\" is not a kind",
            "acknowledgement of \"203.0.113.7\": that is no identifier",
        ] {
            assert!(said.contains(problem), "{problem}: {said}");
        }
    }
}
