//! From what the engine and the kernel know to the messages of the local API.
//!
//! Plain translation, one function a message; what a message says is decided elsewhere.

use std::time::Duration;

use hydrometer_engine::{
    Accuracy, ClientView, Ending, Exchange, Head, Identity, Impact, Nanos, Protocol, Service, WindowFeatures,
    anomaly::{self, Anomaly, AnomalyKind, Severity},
    fingerprint::Distribution,
};
use hydrometer_proto::v1;

use crate::{kernel, known::TableStatus, mutes::Standing};

mod fingerprint;

pub use fingerprint::{FingerprintError, distribution, fingerprint, read_fingerprint};

/// One client: features from the engine, exact counters from the kernel where it still has them.
pub fn client(
    view: ClientView,
    counters: Option<&kernel::ClientSnapshot>,
    open_anomalies: Vec<String>,
) -> v1::Client {
    let fingerprint = &view.fingerprint;
    // The kernel sees packets before an exchange ends; the engine may know the client from before the last start.
    let first_seen =
        counters.map_or(fingerprint.first_seen, |kernel| kernel.first_seen.min(fingerprint.first_seen));
    let last_seen = counters.map_or(fingerprint.last_seen, |kernel| kernel.last_seen);
    let histogram = |which: Distribution| Some(distribution(fingerprint, which));
    v1::Client {
        address: view.id.to_string(),
        first_seen: Some(timestamp(first_seen)),
        last_seen: Some(timestamp(last_seen)),
        counters: Some(self::counters(&view, counters)),
        windows: view.windows.iter().map(window).collect(),
        request_sizes: histogram(Distribution::RequestSizes),
        answer_sizes: histogram(Distribution::AnswerSizes),
        interarrival: histogram(Distribution::Intervals),
        services: fingerprint.services.iter().map(service).collect(),
        protocols: fingerprint.protocols.iter().map(|spoken| protocol(spoken).into()).collect(),
        accuracy: accuracy(fingerprint.accuracy).into(),
        open_anomalies,
        rate_series: view.rate_series.values,
        ja4: fingerprint.ja4.clone(),
        identity: identity(fingerprint.identity).into(),
    }
}

/// The kernel's counters; once it has evicted the client, what the engine counted since. The kernel knows nothing of
/// requests that a proxy has made for the client.
fn counters(view: &ClientView, kernel: Option<&kernel::ClientSnapshot>) -> v1::ClientCounters {
    let totals = &view.fingerprint.totals;
    match kernel.filter(|_| view.fingerprint.identity != Identity::Forwarded) {
        Some(kernel) => v1::ClientCounters {
            ingress_packets: kernel.ingress_packets,
            ingress_bytes: kernel.ingress_bytes,
            egress_packets: kernel.egress_packets,
            egress_bytes: kernel.egress_bytes,
            syns: kernel.syns,
            connections: kernel.connections,
            requests: kernel.requests,
            exchanges: kernel.exchanges,
            request_bytes: kernel.request_bytes,
            answer_bytes: kernel.answer_bytes,
        },
        None => v1::ClientCounters {
            requests: totals.requests,
            exchanges: totals.requests,
            request_bytes: totals.request_bytes,
            answer_bytes: totals.answer_bytes,
            ..v1::ClientCounters::default()
        },
    }
}

fn window(features: &WindowFeatures) -> v1::WindowFeatures {
    v1::WindowFeatures {
        window: Some(duration(features.window)),
        requests: features.requests,
        request_rate: features.request_rate,
        request_bytes_rate: features.request_bytes_rate,
        answer_bytes_rate: features.answer_bytes_rate,
        concurrency: features.concurrency,
        interarrival_cv: features.interarrival_cv,
        interarrival_median_s: features.interarrival_median_s,
        interarrival_mad_s: features.interarrival_mad_s,
        request_size_entropy_bits: features.request_size_entropy_bits,
        server_record_median_bytes: features.server_record_median_bytes,
        request_bytes_median: features.request_bytes_median,
        answer_bytes_median: features.answer_bytes_median,
    }
}

/// One live flow.
pub fn flow(flow: &kernel::FlowSnapshot) -> v1::Flow {
    v1::Flow {
        client_address: flow.client.to_canonical().to_string(),
        client_port: flow.client_port.into(),
        service: Some(service(&flow.service)),
        protocol: protocol(flow.protocol).into(),
        first_seen: Some(timestamp(flow.first_seen)),
        last_seen: Some(timestamp(flow.last_seen)),
        requests: flow.requests,
        request_bytes: flow.request_bytes,
        answer_bytes: flow.answer_bytes,
        in_progress: flow.in_progress,
        accuracy: accuracy(flow.accuracy).into(),
        confidence: flow.confidence,
    }
}

/// One finished exchange.
pub fn exchange(exchange: &Exchange) -> v1::Exchange {
    v1::Exchange {
        start: Some(timestamp(exchange.start)),
        client_address: exchange.client.to_string(),
        client_port: exchange.client_port.into(),
        service: Some(service(&exchange.service)),
        request_bytes: exchange.request_bytes,
        answer_bytes: exchange.answer_bytes,
        time_to_first_byte: exchange.time_to_first_byte.map(duration),
        time_to_first_token: exchange.time_to_first_token.map(duration),
        duration: Some(duration(exchange.duration)),
        records: exchange.records,
        record_median_bytes: exchange.record_median,
        protocol: protocol(exchange.protocol).into(),
        accuracy: accuracy(exchange.accuracy).into(),
        confidence: exchange.confidence,
        aborted: exchange.ending == Ending::Aborted,
        truncated: exchange.truncated,
        request_head: exchange.heads.request.map(head),
        answer_head: exchange.heads.answer.map(head),
        client_identity: identity(exchange.identity).into(),
        tcp_round_trip: exchange.round_trips.tcp.map(duration),
        tls_round_trip: exchange.round_trips.tls.map(duration),
    }
}

fn head(head: Head) -> v1::Head {
    v1::Head { bytes: head.bytes, accuracy: accuracy(head.accuracy).into() }
}

/// One anomaly in one state, raised on `node`.
pub fn anomaly(anomaly: Anomaly, node: &str) -> v1::Anomaly {
    let (technique, technique_name) = anomaly.kind.technique();
    v1::Anomaly {
        id: anomaly.id,
        kind: kind(anomaly.kind).into(),
        state: state(anomaly.state).into(),
        severity: severity(anomaly.severity).into(),
        score: anomaly.score,
        atlas_technique: technique.to_owned(),
        atlas_technique_name: technique_name.to_owned(),
        client: anomaly.client.to_string(),
        first_seen: Some(timestamp(anomaly.first_seen)),
        last_seen: Some(timestamp(anomaly.last_seen)),
        raised: Some(timestamp(anomaly.raised)),
        evidence: Some(evidence(anomaly.evidence)),
        node: node.to_owned(),
        revision: anomaly.revision,
        members: anomaly.members.into_iter().map(member).collect(),
        benign_if: anomaly.kind.benign_if().to_owned(),
        muted: anomaly.muted.map(remark),
        acknowledged: anomaly.acknowledged.map(remark),
        impact: Some(impact(anomaly.impact)),
        campaign_id: anomaly.campaign.unwrap_or_default(),
        split_from: anomaly.split_from.unwrap_or_default(),
        merged_into: anomaly.merged_into.unwrap_or_default(),
    }
}

fn impact(impact: Impact) -> v1::Impact {
    v1::Impact {
        request_tokens: impact.request_tokens,
        answer_tokens: impact.answer_tokens,
        cost: impact.cost,
        currency: impact.currency,
    }
}

fn remark(remark: anomaly::Remark) -> v1::Remark {
    v1::Remark {
        by: remark.by,
        reason: remark.reason,
        at: (remark.at > Nanos::default()).then(|| timestamp(remark.at)),
        until: Some(timestamp(remark.until)),
    }
}

/// One mute, and whether it stands in the settings.
pub fn mute(Standing { mute, is_set }: Standing) -> v1::Mute {
    v1::Mute {
        target: mute.target.to_string(),
        kind: mute.kind.map_or(v1::AnomalyKind::Unspecified, kind).into(),
        remark: Some(remark(mute.remark)),
        in_settings: is_set,
    }
}

fn member(member: anomaly::Member) -> v1::CampaignMember {
    v1::CampaignMember {
        client: member.client.to_string(),
        reason: member.reason,
        anomalies: member.anomalies,
    }
}

fn evidence(evidence: anomaly::Evidence) -> v1::Evidence {
    v1::Evidence {
        summary: evidence.summary,
        features: evidence.features.iter().map(feature).collect(),
        series: evidence.series.into_iter().map(series).collect(),
        exchanges: evidence.exchanges,
    }
}

fn feature(feature: &anomaly::FeatureEvidence) -> v1::FeatureEvidence {
    v1::FeatureEvidence {
        feature: feature.feature.to_owned(),
        value: feature.value,
        baseline: feature.baseline,
        unit: feature.unit.to_owned(),
        compared_with: feature.compared_with.name().to_owned(),
        deviation: feature.deviation,
    }
}

fn series(series: anomaly::Series) -> v1::Series {
    v1::Series {
        feature: series.feature.to_owned(),
        unit: series.unit.to_owned(),
        start: Some(timestamp(series.start)),
        step_seconds: series.step.as_secs_f64(),
        values: series.values,
    }
}

/// One program on one interface.
pub fn attachment(attachment: &kernel::Attachment) -> v1::Attachment {
    v1::Attachment {
        interface: attachment.interface.clone(),
        direction: attachment.direction.to_string(),
        mode: attachment.mode.to_string(),
        note: attachment.note.clone(),
    }
}

/// Which interfaces are asked for, and what became of that.
pub fn interfaces(interfaces: kernel::InterfaceStatus) -> v1::Interfaces {
    let texts = |patterns: &[kernel::Pattern]| patterns.iter().map(ToString::to_string).collect();
    let unwatched = interfaces.unwatched.into_iter();
    v1::Interfaces {
        include: texts(&interfaces.selection.include),
        exclude: texts(&interfaces.selection.exclude),
        unwatched: unwatched
            .map(|unwatched| v1::UnwatchedInterface {
                interface: unwatched.interface,
                reason: unwatched.reason,
            })
            .collect(),
        appeared: interfaces.appeared,
        vanished: interfaces.vanished,
    }
}

/// One loaded program.
pub fn program(program: kernel::ProgramStatus) -> v1::ProgramStatus {
    v1::ProgramStatus {
        name: program.name,
        id: program.id,
        verified_instructions: program.verified_instructions,
        jited_bytes: program.jited_bytes,
    }
}

/// One kernel map.
pub fn map(map: kernel::MapStatus) -> v1::MapStatus {
    v1::MapStatus {
        name: map.name,
        entries: map.entries,
        capacity: map.capacity,
        memory_bytes: map.memory_bytes,
    }
}

/// One table of the agent's own.
pub fn table(table: &TableStatus) -> v1::TableStatus {
    v1::TableStatus {
        name: table.name.to_owned(),
        entries: table.entries,
        capacity: table.capacity,
        memory_bytes: table.memory_bytes,
    }
}

/// A local address and port.
pub fn service(service: &Service) -> v1::Service {
    v1::Service {
        address: service.address.map(|address| address.to_string()).unwrap_or_default(),
        port: service.port.into(),
    }
}

/// An instant.
pub fn timestamp(at: Nanos) -> prost_types::Timestamp {
    let since = duration(Duration::from_nanos(at.0));
    prost_types::Timestamp { seconds: since.seconds, nanos: since.nanos }
}

/// The instant of a message; before 1970 becomes 1970.
pub fn nanos(at: &prost_types::Timestamp) -> Nanos {
    let seconds = u64::try_from(at.seconds).unwrap_or_default();
    let nanos = u64::try_from(at.nanos).unwrap_or_default();
    Nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        // Less than a second of nanoseconds fits.
        nanos: span.subsec_nanos().cast_signed(),
    }
}

fn kind(kind: AnomalyKind) -> v1::AnomalyKind {
    match kind {
        AnomalyKind::BulkExtraction => v1::AnomalyKind::BulkExtraction,
        AnomalyKind::LowAndSlow => v1::AnomalyKind::LowAndSlow,
        AnomalyKind::TemplateSweep => v1::AnomalyKind::TemplateSweep,
        AnomalyKind::LogitHarvest => v1::AnomalyKind::LogitHarvest,
        AnomalyKind::DenialOfWallet => v1::AnomalyKind::DenialOfWallet,
        AnomalyKind::Flood => v1::AnomalyKind::Flood,
        AnomalyKind::SlowDrip => v1::AnomalyKind::SlowDrip,
        AnomalyKind::Hydra => v1::AnomalyKind::Hydra,
        AnomalyKind::ProxyRotation => v1::AnomalyKind::ProxyRotation,
        AnomalyKind::Pivot => v1::AnomalyKind::Pivot,
        AnomalyKind::ContractExceeded => v1::AnomalyKind::ContractExceeded,
    }
}

/// The kind that a message means; none where it is unspecified or unknown.
pub fn kind_of(kind: v1::AnomalyKind) -> Option<AnomalyKind> {
    AnomalyKind::ALL.into_iter().find(|known| self::kind(*known) == kind)
}

pub(crate) fn severity(severity: Severity) -> v1::Severity {
    match severity {
        Severity::Low => v1::Severity::Low,
        Severity::Medium => v1::Severity::Medium,
        Severity::High => v1::Severity::High,
        Severity::Critical => v1::Severity::Critical,
    }
}

fn state(state: anomaly::State) -> v1::AnomalyState {
    match state {
        anomaly::State::Open => v1::AnomalyState::Open,
        anomaly::State::Updated => v1::AnomalyState::Updated,
        anomaly::State::Closed => v1::AnomalyState::Closed,
    }
}

fn protocol(protocol: Protocol) -> v1::Protocol {
    match protocol {
        Protocol::Other => v1::Protocol::Other,
        Protocol::Http1 => v1::Protocol::Http1,
        Protocol::Tls => v1::Protocol::Tls,
        Protocol::Http2 => v1::Protocol::Http2,
        Protocol::TlsHttp2 => v1::Protocol::TlsHttp2,
        Protocol::Quic => v1::Protocol::Quic,
    }
}

fn identity(identity: Identity) -> v1::ClientIdentity {
    match identity {
        Identity::Direct => v1::ClientIdentity::Direct,
        Identity::Proxy => v1::ClientIdentity::Proxy,
        Identity::Forwarded => v1::ClientIdentity::Forwarded,
    }
}

fn accuracy(accuracy: Accuracy) -> v1::Accuracy {
    match accuracy {
        Accuracy::Exact => v1::Accuracy::Exact,
        Accuracy::Derived => v1::Accuracy::Derived,
        Accuracy::Estimated => v1::Accuracy::Estimated,
    }
}
