//! OCSF 1.8: a Detection Finding (class 2004) for each state of an anomaly.
//!
//! In flows a [`Finding`], out flows one JSON object that the published schema accepts, with the
//! profile `security_control`. An opened anomaly is Create, a renewed one Update, an ended one Close;
//! `metadata.correlation_uid` and `finding_info.uid` stay the same, `metadata.uid` names the state.

use hydrometer_proto::v1::{Anomaly, AnomalyState, FeatureEvidence, Series, Severity};
use serde_json::{Map, Value, json};

use super::{
    atlas,
    finding::{Finding, Who, millis},
};

const OCSF_VERSION: &str = "1.8.0";
const CATEGORY_FINDINGS: u32 = 2;
const CLASS_DETECTION_FINDING: u32 = 2004;
/// Of a campaign's members, when there is little room.
const FEW_MEMBERS: usize = 10;

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// All.
    Full,
    /// Without series, and few of a campaign's members.
    Brief,
}

/// The event as JSON without line breaks; at most `max_bytes` long, told briefly where that is needed.
/// An error says how long the shortest form is.
pub(super) fn render(finding: Finding<'_>, max_bytes: usize) -> Result<String, usize> {
    let full = event(finding, Detail::Full).to_string();
    if full.len() <= max_bytes {
        return Ok(full);
    }
    let mut brief = event(finding, Detail::Brief);
    brief["metadata"]["is_truncated"] = true.into();
    brief["metadata"]["untruncated_size"] = full.len().into();
    let brief = brief.to_string();
    if brief.len() <= max_bytes { Ok(brief) } else { Err(brief.len()) }
}

/// The event.
pub(super) fn event(finding: Finding<'_>, detail: Detail) -> Value {
    let (activity_id, activity) = activity(finding.state());
    let (severity_id, severity) = severity(finding.severity());
    // "In Progress" would claim that somebody is at work on it.
    let (status_id, status) = match finding.state() {
        AnomalyState::Closed => (4, "Resolved"),
        _ => (1, "New"),
    };
    let anomaly = finding.anomaly();
    compact(json!({
        "activity_id": activity_id,
        "activity_name": activity,
        "category_uid": CATEGORY_FINDINGS,
        "category_name": "Findings",
        "class_uid": CLASS_DETECTION_FINDING,
        "class_name": "Detection Finding",
        "type_uid": CLASS_DETECTION_FINDING * 100 + activity_id,
        "type_name": format!("Detection Finding: {activity}"),
        "time": finding.time().div_euclid(1_000_000),
        "start_time": anomaly.first_seen.map(millis),
        "end_time": anomaly.last_seen.map(millis),
        "severity_id": severity_id,
        "severity": severity,
        "status_id": status_id,
        "status": status,
        "message": finding.summary(),
        "is_alert": true,
        "confidence_score": (anomaly.score.clamp(0.0, 1.0) * 100.0).round() as u32,
        // The control watches; it lets everything pass.
        "action_id": 3,
        "action": "Observed",
        "disposition_id": 15,
        "disposition": "Detected",
        "metadata": metadata(finding),
        "finding_info": finding_info(finding),
        "attacks": attacks(finding),
        "anomaly_analyses": analyses(finding),
        "evidences": evidences(anomaly, detail),
        "observables": observables(anomaly, detail),
        "device": { "hostname": anomaly.node, "type_id": 1, "type": "Server" },
        "unmapped": {
            "benign_if": anomaly.benign_if,
            "exchanges": anomaly.evidence.as_ref().map(|evidence| evidence.exchanges),
            "members": (!anomaly.members.is_empty()).then_some(anomaly.members.len()),
        },
    }))
}

fn activity(state: AnomalyState) -> (u32, &'static str) {
    match state {
        AnomalyState::Open => (1, "Create"),
        AnomalyState::Updated => (2, "Update"),
        AnomalyState::Closed => (3, "Close"),
        AnomalyState::Unspecified => (0, "Unknown"),
    }
}

fn severity(severity: Severity) -> (u32, &'static str) {
    match severity {
        Severity::Unspecified => (0, "Unknown"),
        Severity::Low => (2, "Low"),
        Severity::Medium => (3, "Medium"),
        Severity::High => (4, "High"),
        Severity::Critical => (5, "Critical"),
    }
}

fn metadata(finding: Finding<'_>) -> Value {
    json!({
        "version": OCSF_VERSION,
        "profiles": ["security_control"],
        "product": {
            "name": "Hydrometer",
            "vendor_name": "Hydrometer",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "uid": finding.uid(),
        "correlation_uid": finding.anomaly().id,
        "event_code": finding.kind(),
        "log_name": "anomalies",
        "log_provider": "hydrometer-control",
        "logged_time": finding.stored().div_euclid(1_000_000),
    })
}

fn finding_info(finding: Finding<'_>) -> Value {
    let anomaly = finding.anomaly();
    json!({
        "uid": anomaly.id,
        "title": finding.title(),
        "desc": finding.summary(),
        "types": [finding.kind()],
        "analytic": { "uid": finding.kind(), "name": finding.kind(), "type_id": 2, "type": "Behavioral" },
        "data_sources": ["network traffic"],
        "attacks": attacks(finding),
        "first_seen_time": anomaly.first_seen.map(millis),
        "last_seen_time": anomaly.last_seen.map(millis),
        "created_time": anomaly.raised.map(millis),
        "modified_time": finding.stored().div_euclid(1_000_000),
    })
}

fn attacks(finding: Finding<'_>) -> Value {
    let named = |(uid, name): (&str, &str)| json!({ "uid": uid, "name": name });
    let linked = |(uid, name): (&str, &str)| json!({ "uid": uid, "name": name, "src_url": atlas::url(uid) });
    let of = |attack: atlas::Attack<'_>| {
        json!([{
            "version": atlas::VERSION,
            "tactic": attack.tactic.map(named),
            "technique": linked(attack.technique),
            "sub_technique": attack.sub_technique.map(linked),
        }])
    };
    finding.attack().map_or(Value::Null, of)
}

/// What was unusual, and against what.
fn analyses(finding: Finding<'_>) -> Value {
    let Some(evidence) = &finding.anomaly().evidence else { return Value::Null };
    if evidence.features.is_empty() {
        return Value::Null;
    }
    let observed = |parameter: String, kind: &str, pattern: String, value: f64| {
        json!({
            "observation_parameter": parameter,
            "observation_type": kind,
            "observed_pattern": pattern,
            "observations": [{ "value": value.to_string() }],
        })
    };
    let parameter = |feature: &FeatureEvidence| format!("{} ({})", feature.feature, feature.unit);
    let anomaly = |feature: &FeatureEvidence| {
        let pattern = format!("{:+.1} robust standard deviations", feature.deviation);
        observed(parameter(feature), "value", pattern, feature.value)
    };
    let baseline = |feature: &FeatureEvidence| {
        observed(parameter(feature), "baseline", feature.compared_with.clone(), feature.baseline)
    };
    json!([{
        "analysis_targets": [{ "name": finding.anomaly().client, "type": "client" }],
        "anomalies": evidence.features.iter().map(anomaly).collect::<Vec<_>>(),
        "baselines": evidence.features.iter().map(baseline).collect::<Vec<_>>(),
    }])
}

/// The client (and a campaign's members) on one side, the node on the other.
fn evidences(anomaly: &Anomaly, detail: Detail) -> Value {
    let one = |client: &str, name: &str, data: Value| {
        json!({
            "name": name,
            "src_endpoint": endpoint(client),
            "dst_endpoint": { "hostname": anomaly.node, "type_id": 1, "type": "Server" },
            "connection_info": { "direction_id": 1, "direction": "Inbound" },
            "data": data,
        })
    };
    let series = match (&anomaly.evidence, detail) {
        (Some(evidence), Detail::Full) if !evidence.series.is_empty() => {
            json!({ "series": evidence.series.iter().map(series).collect::<Vec<_>>() })
        }
        _ => Value::Null,
    };
    let members = members(anomaly, detail).map(|(client, reason)| one(client, reason, Value::Null));
    std::iter::once(one(&anomaly.client, "client", series)).chain(members).collect()
}

fn endpoint(client: &str) -> Value {
    match Who::of(client) {
        Who::Address(address) => json!({ "ip": address.to_string() }),
        Who::Network(network) => json!({ "name": network, "type": "Network", "type_id": 99 }),
        Who::Name(name) => json!({ "uid": name }),
    }
}

fn series(series: &Series) -> Value {
    json!({
        "feature": series.feature,
        "unit": series.unit,
        "start": series.start.map(millis),
        "step_seconds": series.step_seconds,
        "values": series.values,
    })
}

/// What a SOC searches for.
fn observables(anomaly: &Anomaly, detail: Detail) -> Value {
    let client = |client: &str| match Who::of(client) {
        Who::Address(address) => json!({
            "name": "evidences[].src_endpoint.ip", "type_id": 2, "type": "IP Address", "value": address.to_string(),
        }),
        Who::Network(network) => json!({
            "name": "evidences[].src_endpoint.name", "type_id": 12, "type": "Subnet", "value": network,
        }),
        Who::Name(name) => json!({
            "name": "evidences[].src_endpoint.uid", "type_id": 48, "type": "Network Endpoint Object: uid",
            "value": name,
        }),
    };
    let node = json!({ "name": "device.hostname", "type_id": 1, "type": "Hostname", "value": anomaly.node });
    let members = members(anomaly, detail).map(|(member, _)| client(member));
    [node, client(&anomaly.client)].into_iter().chain(members).collect()
}

/// Members besides the one that is `client` already, and why each belongs.
fn members(anomaly: &Anomaly, detail: Detail) -> impl Iterator<Item = (&str, &str)> {
    let limit = match detail {
        Detail::Full => usize::MAX,
        Detail::Brief => FEW_MEMBERS,
    };
    let others = anomaly.members.iter().filter(|member| member.client != anomaly.client);
    others.take(limit).map(|member| (member.client.as_str(), member.reason.as_str()))
}

/// Without what is not known: absent, not null or empty.
fn compact(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (name, compact(value)));
            Value::Object(fields.filter(|(_, value)| says_something(value)).collect::<Map<_, _>>())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(compact).collect()),
        other => other,
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}
