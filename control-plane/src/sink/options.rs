//! Settings of sinks: a table `[[sink]]` each, with one destination.
//!
//! In flow [`SinkOptions`] as written, out flow sinks that can be started. Everything that is wrong is
//! told at once, and each message begins with the name of the sink.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use hydrometer_proto::v1::Severity;
use serde::Deserialize;

use super::{
    From, Sink, Target,
    elastic::{Elastic, ElasticOptions},
    file::Lines,
    otlp::{Otlp, OtlpOptions},
    splunk::{Splunk, SplunkOptions},
    syslog::{Syslog, SyslogOptions},
    webhook::{Webhook, WebhookOptions},
};

/// One table `[[sink]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkOptions {
    /// Its name, for good: under it the store keeps what has been delivered.
    pub name: String,
    /// Only this severity or worse.
    #[serde(default)]
    pub min_severity: MinSeverity,
    /// Where to begin the first time.
    #[serde(default)]
    pub from: From,
    /// Seconds for one attempt.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u64,
    /// So often is a state refused before it goes to the dead-letter file.
    #[serde(default = "default_refusals")]
    pub refusals: u32,
    /// Takes what the destination refuses; none means NAME.dead.jsonl beside the store.
    pub dead_letter: Option<PathBuf>,
    /// JSON lines in a file.
    pub file: Option<FileOptions>,
    /// Splunk.
    pub splunk: Option<SplunkOptions>,
    /// Elasticsearch or OpenSearch.
    pub elastic: Option<ElasticOptions>,
    /// Any HTTP receiver.
    pub webhook: Option<WebhookOptions>,
    /// A syslog receiver.
    pub syslog: Option<SyslogOptions>,
    /// An OpenTelemetry collector.
    pub otlp: Option<OtlpOptions>,
}

/// The least severity that a sink takes.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MinSeverity {
    /// Everything.
    #[default]
    Low,
    /// Medium, high and critical.
    Medium,
    /// High and critical.
    High,
    /// Critical only.
    Critical,
}

/// JSON lines in a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileOptions {
    /// The newest file; older ones get numbers behind their name.
    pub path: PathBuf,
    /// Size at which a new file is begun.
    #[serde(default = "default_max_bytes")]
    pub max_bytes: u64,
    /// Older files that are kept.
    #[serde(default = "default_keep")]
    pub keep: u32,
}

const fn default_timeout_s() -> u64 {
    30
}

const fn default_refusals() -> u32 {
    3
}

const fn default_max_bytes() -> u64 {
    100_000_000
}

const fn default_keep() -> u32 {
    10
}

/// Checks all sinks; `store` is the store's file.
pub fn validate(options: Vec<SinkOptions>, store: &Path) -> Result<Vec<Sink>, Vec<String>> {
    let (mut sinks, mut errors, mut names) = (Vec::new(), Vec::new(), HashSet::new());
    for sink in options {
        let name = sink.name.clone();
        if !names.insert(name.clone()) {
            errors.push(format!("sink `{name}`: there are two of this name"));
        }
        match sink.validate(store) {
            Ok(sink) => sinks.push(sink),
            Err(error) => errors.push(format!("sink `{name}`: {error}")),
        }
    }
    if errors.is_empty() { Ok(sinks) } else { Err(errors) }
}

impl SinkOptions {
    fn validate(self, store: &Path) -> Result<Sink, String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            return Err("a name is 1 to 64 of a-z, 0-9, - and _".to_owned());
        }
        if self.timeout_s == 0 || self.refusals == 0 {
            return Err("timeout_s and refusals are 1 at least".to_owned());
        }
        let targets = [
            self.file.map(FileOptions::validate),
            self.splunk.map(|options| Splunk::new(options).map(Target::Splunk)),
            self.elastic.map(|options| Elastic::new(options).map(Target::Elastic)),
            self.webhook.map(|options| Webhook::new(options).map(Target::Webhook)),
            self.syslog.map(|options| Syslog::new(options).map(Target::Syslog)),
            self.otlp.map(|options| Otlp::new(options).map(Target::Otlp)),
        ];
        let mut targets = targets.into_iter().flatten();
        let (Some(target), None) = (targets.next(), targets.next()) else {
            return Err("give exactly one of file, splunk, elastic, webhook, syslog and otlp".to_owned());
        };
        let dead_letter = store.with_file_name(format!("{}.dead.jsonl", self.name));
        Ok(Sink {
            target: target?,
            min_severity: self.min_severity.into(),
            from: self.from,
            timeout: Duration::from_secs(self.timeout_s),
            refusals: self.refusals,
            dead_letter: self.dead_letter.unwrap_or(dead_letter),
            name: self.name,
        })
    }
}

impl FileOptions {
    fn validate(self) -> Result<Target, String> {
        let Self { path, max_bytes, keep } = self;
        if max_bytes == 0 {
            return Err("file.max_bytes is 1 at least".to_owned());
        }
        Ok(Target::File(Lines { path, max_bytes, keep }))
    }
}

impl std::convert::From<MinSeverity> for Severity {
    fn from(severity: MinSeverity) -> Self {
        match severity {
            // What has no severity is not left out, either.
            MinSeverity::Low => Self::Unspecified,
            MinSeverity::Medium => Self::Medium,
            MinSeverity::High => Self::High,
            MinSeverity::Critical => Self::Critical,
        }
    }
}
