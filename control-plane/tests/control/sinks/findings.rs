//! Anomalies of every form.

use hydrometer_proto::v1::{
    Anomaly, AnomalyKind, AnomalyState, CampaignMember, Evidence, FeatureEvidence, Series, Severity,
};
use prost_types::Timestamp;

/// One of each kind, state, severity, technique and form of client; the last is a campaign.
pub(crate) fn all() -> Vec<Anomaly> {
    let states = [AnomalyState::Open, AnomalyState::Updated, AnomalyState::Closed];
    let severities = [Severity::Low, Severity::Medium, Severity::High, Severity::Critical];
    let clients = ["203.0.113.7", "2001:db8::7", "fd77:0:0:3::/64", "key:4f1d2c", "10.0.0.0/24"];
    let techniques = [
        ("AML.T0024.002", "Extract AI Model"),
        ("AML.T0005.001", "Train Proxy via Replication"),
        ("AML.T0029", "Denial of AI Service"),
        ("AML.T0008.005", "AI Service Proxies"),
        ("AML.T0040", "AI Model Inference API Access"),
        ("AML.T9999", "Of a later release"),
        ("", ""),
    ];
    // Kinds up to one that this version does not know.
    let mut findings: Vec<Anomaly> = (0..=AnomalyKind::ContractExceeded as i32 + 1)
        .flat_map(|kind| states.map(|state| (kind, state)))
        .enumerate()
        .map(|(number, (kind, state))| {
            let (technique, name) = techniques[number % techniques.len()];
            Anomaly {
                kind,
                state: state.into(),
                severity: severities[number % severities.len()].into(),
                client: clients[number % clients.len()].into(),
                atlas_technique: technique.into(),
                atlas_technique_name: name.into(),
                revision: number as u32 + 1,
                ..finding(&format!("id-{kind}"))
            }
        })
        .collect();
    let member = |number| CampaignMember {
        client: format!("198.51.100.{number}"),
        reason: "the same stack, in step with the others".into(),
        anomalies: Vec::new(),
    };
    findings.push(Anomaly {
        kind: AnomalyKind::Hydra.into(),
        client: "198.51.100.1".into(),
        members: (1..=40).map(member).collect(),
        ..finding("campaign")
    });
    findings.push(Anomaly { id: "bare".into(), ..Anomaly::default() });
    findings
}

/// A finding with all its evidence.
pub(crate) fn finding(id: &str) -> Anomaly {
    let at = |seconds| Some(Timestamp { seconds, nanos: 250_000_000 });
    Anomaly {
        id: id.into(),
        kind: AnomalyKind::LogitHarvest.into(),
        state: AnomalyState::Open.into(),
        severity: Severity::High.into(),
        score: 0.934,
        atlas_technique: "AML.T0024.002".into(),
        atlas_technique_name: "Extract AI Model".into(),
        client: "203.0.113.7".into(),
        first_seen: at(1_795_525_000),
        last_seen: at(1_795_525_600),
        raised: at(1_795_525_300),
        evidence: Some(Evidence {
            summary: "22 of 22 streamed answers came in records of 1664 bytes, \"5.8 times\" what is usual"
                .into(),
            features: vec![FeatureEvidence {
                feature: "server_record_median".into(),
                value: 1664.0,
                baseline: 288.0,
                unit: "bytes".into(),
                compared_with: "service".into(),
                deviation: 95.6,
            }],
            series: vec![Series {
                feature: "request_rate".into(),
                unit: "1/s".into(),
                start: at(1_795_525_000),
                step_seconds: 10.0,
                values: vec![0.5, 0.25],
            }],
            exchanges: 22,
        }),
        node: "gpu-1".into(),
        revision: 1,
        benign_if: "the client has said what it needs log-probabilities for".into(),
        ..Anomaly::default()
    }
}
