//! OTLP logs over gRPC: a log record for each state of an anomaly, as OpenTelemetry collectors take them.

use std::path::PathBuf;

use hydrometer_proto::v1::{AnomalyState, Severity};
use opentelemetry_proto::tonic::{
    collector::logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};
use serde::Deserialize;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{Failure, finding::Finding, secret::Secret, tls::TlsOptions};
use crate::store::Row;

/// Settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpOptions {
    /// Where the collector is, such as https://collector.example:4317.
    pub url: String,
    /// File with the value of the `authorization` header; none means that none is sent.
    pub authorization_file: Option<PathBuf>,
    /// TLS.
    #[serde(default)]
    pub tls: TlsOptions,
}

/// A collector.
#[derive(Debug)]
pub(super) struct Otlp {
    client: LogsServiceClient<Channel>,
    authorization: Option<Secret>,
}

const SCOPE: &str = "hydrometer.anomalies";
const EVENT: &str = "hydrometer.anomaly";

impl Otlp {
    /// Connects at the first use; must be called within the runtime.
    pub(super) fn new(options: OtlpOptions) -> Result<Self, String> {
        let refuse = |error: tonic::transport::Error| {
            format!("cannot use `{}`: {}", options.url, crate::config::innermost(&error))
        };
        let mut endpoint = Endpoint::from_shared(options.url.clone()).map_err(refuse)?;
        match endpoint.uri().scheme_str() {
            Some("https") => endpoint = endpoint.tls_config(tls(&options.tls)?).map_err(refuse)?,
            Some("http") if options.authorization_file.is_none() => {}
            Some("http") => return Err("will not send a secret in clear text; use https".to_owned()),
            _ => {
                return Err(format!("`{}` is not a URL such as https://collector.example:4317", options.url));
            }
        }
        let authorization = options.authorization_file.map(Secret::open).transpose()?;
        Ok(Self { client: LogsServiceClient::new(endpoint.connect_lazy()), authorization })
    }

    pub(super) async fn send(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let mut request = Request::new(export(rows));
        if let Some(secret) = &self.authorization {
            let mut value = MetadataValue::try_from(secret.read()?)
                .map_err(|_| Failure::Unavailable("the secret has characters no header takes".to_owned()))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        let answer = self.client.export(request).await.map_err(|status| verdict(&status))?.into_inner();
        match answer.partial_success {
            Some(partial) if partial.rejected_log_records > 0 => Err(Failure::Refused(partial.error_message)),
            _ => Ok(()),
        }
    }
}

fn verdict(status: &Status) -> Failure {
    let told = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => Failure::Refused(told),
        _ => Failure::Unavailable(told),
    }
}

fn tls(options: &TlsOptions) -> Result<ClientTlsConfig, String> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    // Says what is wrong with the files; tonic reads them anew.
    super::tls::client(options)?;
    let config = match &options.ca {
        Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    Ok(match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => config.identity(Identity::from_pem(read(cert)?, read(key)?)),
        _ => config,
    })
}

/// States grouped by nothing: the node is an attribute, since the resource is the control plane.
fn export(rows: &[Row]) -> ExportLogsServiceRequest {
    let attributes =
        vec![text("service.name", "hydrometer-control"), text("service.version", env!("CARGO_PKG_VERSION"))];
    let scope = InstrumentationScope {
        name: SCOPE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let log_records = rows.iter().map(Finding::of).map(record).collect();
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_logs: vec![ScopeLogs { scope: Some(scope), log_records, ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        }],
    }
}

fn record(finding: Finding<'_>) -> LogRecord {
    let anomaly = finding.anomaly();
    let mut attributes = vec![
        text("hydrometer.anomaly.id", &anomaly.id),
        text("hydrometer.anomaly.uid", &finding.uid()),
        text("hydrometer.anomaly.kind", &finding.kind()),
        text("hydrometer.anomaly.state", state(finding.state())),
        integer("hydrometer.anomaly.revision", u64::from(anomaly.revision)),
        attribute("hydrometer.anomaly.score", Value::DoubleValue(anomaly.score)),
        text("hydrometer.anomaly.benign_if", &anomaly.benign_if),
        integer("hydrometer.anomaly.members", anomaly.members.len() as u64),
        text("client.address", &anomaly.client),
        text("host.name", &anomaly.node),
    ];
    if let Some(evidence) = &anomaly.evidence {
        attributes.push(integer("hydrometer.anomaly.exchanges", evidence.exchanges));
        attributes.extend(evidence.features.iter().flat_map(|feature| {
            let named = |what: &str| format!("hydrometer.feature.{}.{what}", feature.feature);
            [
                attribute(&named("value"), Value::DoubleValue(feature.value)),
                attribute(&named("baseline"), Value::DoubleValue(feature.baseline)),
            ]
        }));
    }
    if let Some(attack) = finding.attack() {
        let (id, name) = attack.sub_technique.unwrap_or(attack.technique);
        attributes.extend([text("threat.technique.id", id), text("threat.technique.name", name)]);
        attributes.extend(attack.tactic.map(|(id, _)| text("threat.tactic.id", id)));
    }
    let (severity, severity_text) = severity(finding.severity());
    LogRecord {
        time_unix_nano: finding.time().max(0) as u64,
        observed_time_unix_nano: finding.stored().max(0) as u64,
        severity_number: severity.into(),
        severity_text: severity_text.to_owned(),
        event_name: EVENT.to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(finding.summary().to_owned())) }),
        attributes,
        ..LogRecord::default()
    }
}

fn state(state: AnomalyState) -> &'static str {
    match state {
        AnomalyState::Unspecified => "unknown",
        AnomalyState::Open => "open",
        AnomalyState::Updated => "updated",
        AnomalyState::Closed => "closed",
    }
}

fn severity(severity: Severity) -> (SeverityNumber, &'static str) {
    match severity {
        Severity::Unspecified => (SeverityNumber::Unspecified, ""),
        Severity::Low => (SeverityNumber::Info, "low"),
        Severity::Medium => (SeverityNumber::Warn, "medium"),
        Severity::High => (SeverityNumber::Error, "high"),
        Severity::Critical => (SeverityNumber::Fatal, "critical"),
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn integer(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
