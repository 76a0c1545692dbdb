//! From the gRPC messages to the JSON schema, one impl a type, in the order of the schema.

use hydrometer_proto::v1;

use super::{
    Anomaly, Attachment, Client, ClientInDepth, Clients, ControlPlane, Counters, Exchange, Feature, Flow,
    Histogram, Impact, Interfaces, Map, Member, Memory, Mute, Packets, Program, Remark, Series, Service,
    State, Status, Table, UnwatchedInterface, Window,
};
use crate::cli::words;

fn all<'a, T: 'a, U: From<&'a T>>(values: &'a [T]) -> Vec<U> {
    values.iter().map(U::from).collect()
}

/// An identifier, where there is one.
fn named(id: &str) -> Option<String> {
    Some(id.to_owned()).filter(|id| !id.is_empty())
}

fn milliseconds(value: Option<&prost_types::Duration>) -> Option<f64> {
    words::duration(value).map(|span| span.as_secs_f64() * 1e3)
}

impl From<&v1::ListClientsResponse> for Clients {
    fn from(list: &v1::ListClientsResponse) -> Self {
        Self { time: words::instant(list.time.as_ref()), total: list.total, clients: all(&list.clients) }
    }
}

impl From<&v1::Client> for Client {
    fn from(client: &v1::Client) -> Self {
        Self {
            address: client.address.clone(),
            client_identity: words::identity(client.identity),
            first_seen: words::instant(client.first_seen.as_ref()),
            last_seen: words::instant(client.last_seen.as_ref()),
            accuracy: words::accuracy(client.accuracy),
            protocols: client.protocols.iter().map(|&protocol| words::protocol(protocol)).collect(),
            services: all(&client.services),
            ja4: client.ja4.clone(),
            open_anomalies: client.open_anomalies.clone(),
            counters: client.counters.as_ref().map(Counters::from),
            windows: all(&client.windows),
            request_sizes: client.request_sizes.as_ref().map(Histogram::from),
            answer_sizes: client.answer_sizes.as_ref().map(Histogram::from),
            interarrival: client.interarrival.as_ref().map(Histogram::from),
            rate_series_per_s: client.rate_series.clone(),
        }
    }
}

impl From<&v1::Service> for Service {
    fn from(service: &v1::Service) -> Self {
        Self { address: service.address.clone(), port: service.port }
    }
}

impl From<&v1::ClientCounters> for Counters {
    fn from(counters: &v1::ClientCounters) -> Self {
        Self {
            ingress_packets: counters.ingress_packets,
            ingress_ip_bytes: counters.ingress_bytes,
            egress_packets: counters.egress_packets,
            egress_ip_bytes: counters.egress_bytes,
            syns: counters.syns,
            connections: counters.connections,
            requests: counters.requests,
            exchanges: counters.exchanges,
            request_bytes: counters.request_bytes,
            answer_bytes: counters.answer_bytes,
        }
    }
}

impl From<&v1::WindowFeatures> for Window {
    fn from(window: &v1::WindowFeatures) -> Self {
        Self {
            window_s: words::duration(window.window.as_ref()).unwrap_or_default().as_secs_f64(),
            requests: window.requests,
            requests_per_s: window.request_rate,
            request_bytes_per_s: window.request_bytes_rate,
            answer_bytes_per_s: window.answer_bytes_rate,
            concurrency: window.concurrency,
            interarrival_cv: window.interarrival_cv,
            interarrival_median_s: window.interarrival_median_s,
            interarrival_mad_s: window.interarrival_mad_s,
            request_size_entropy_bits: window.request_size_entropy_bits,
            request_median_bytes: window.request_bytes_median,
            answer_median_bytes: window.answer_bytes_median,
            server_record_median_bytes: window.server_record_median_bytes,
        }
    }
}

impl From<&v1::Histogram> for Histogram {
    fn from(histogram: &v1::Histogram) -> Self {
        Self {
            unit: histogram.unit.clone(),
            lower_bound: histogram.lower_bound,
            counts: histogram.counts.clone(),
        }
    }
}

impl From<&v1::GetClientResponse> for ClientInDepth {
    fn from(response: &v1::GetClientResponse) -> Self {
        Self {
            client: response.client.as_ref().map(Client::from),
            flows: all(&response.flows),
            exchanges: all(&response.exchanges),
            anomalies: all(&response.anomalies),
            fingerprint: None,
            compared: None,
        }
    }
}

impl From<&v1::Flow> for Flow {
    fn from(flow: &v1::Flow) -> Self {
        Self {
            client_port: flow.client_port,
            service: flow.service.as_ref().map(Service::from),
            protocol: words::protocol(flow.protocol),
            accuracy: words::accuracy(flow.accuracy),
            confidence: flow.confidence,
            first_seen: words::instant(flow.first_seen.as_ref()),
            last_seen: words::instant(flow.last_seen.as_ref()),
            requests: flow.requests,
            request_bytes: flow.request_bytes,
            answer_bytes: flow.answer_bytes,
            in_progress: flow.in_progress,
        }
    }
}

impl From<&v1::Exchange> for Exchange {
    fn from(exchange: &v1::Exchange) -> Self {
        Self {
            start: words::instant(exchange.start.as_ref()),
            client_identity: words::identity(exchange.client_identity),
            client_port: exchange.client_port,
            service: exchange.service.as_ref().map(Service::from),
            request_bytes: exchange.request_bytes,
            answer_bytes: exchange.answer_bytes,
            request_head_bytes: exchange.request_head.map(|head| head.bytes),
            request_head_accuracy: exchange.request_head.map(|head| words::accuracy(head.accuracy)),
            answer_head_bytes: exchange.answer_head.map(|head| head.bytes),
            answer_head_accuracy: exchange.answer_head.map(|head| words::accuracy(head.accuracy)),
            ttfb_ms: milliseconds(exchange.time_to_first_byte.as_ref()),
            ttft_ms: milliseconds(exchange.time_to_first_token.as_ref()),
            duration_ms: milliseconds(exchange.duration.as_ref()),
            records: exchange.records,
            record_median_bytes: exchange.record_median_bytes,
            protocol: words::protocol(exchange.protocol),
            accuracy: words::accuracy(exchange.accuracy),
            confidence: exchange.confidence,
            aborted: exchange.aborted,
            truncated: exchange.truncated,
            tcp_rtt_ms: milliseconds(exchange.tcp_round_trip.as_ref()),
            tls_rtt_ms: milliseconds(exchange.tls_round_trip.as_ref()),
        }
    }
}

impl From<&v1::CampaignMember> for Member {
    fn from(member: &v1::CampaignMember) -> Self {
        Self {
            client: member.client.clone(),
            reason: member.reason.clone(),
            anomalies: member.anomalies.clone(),
        }
    }
}

impl From<&v1::Anomaly> for Anomaly {
    fn from(anomaly: &v1::Anomaly) -> Self {
        let evidence = anomaly.evidence.clone().unwrap_or_default();
        Self {
            id: anomaly.id.clone(),
            revision: anomaly.revision,
            state: words::state(anomaly.state),
            kind: words::kind(anomaly.kind),
            severity: words::severity(anomaly.severity),
            score: anomaly.score,
            atlas_technique: anomaly.atlas_technique.clone(),
            atlas_technique_name: anomaly.atlas_technique_name.clone(),
            client: anomaly.client.clone(),
            members: all(&anomaly.members),
            node: anomaly.node.clone(),
            first_seen: words::instant(anomaly.first_seen.as_ref()),
            last_seen: words::instant(anomaly.last_seen.as_ref()),
            raised: words::instant(anomaly.raised.as_ref()),
            exchanges: evidence.exchanges,
            features: all(&evidence.features),
            series: all(&evidence.series),
            summary: evidence.summary,
            benign_if: anomaly.benign_if.clone(),
            muted: anomaly.muted.as_ref().map(Remark::from),
            acknowledged: anomaly.acknowledged.as_ref().map(Remark::from),
            impact: anomaly.impact.as_ref().map(Impact::from),
            campaign_id: named(&anomaly.campaign_id),
            split_from: named(&anomaly.split_from),
            merged_into: named(&anomaly.merged_into),
        }
    }
}

impl From<&v1::Impact> for Impact {
    fn from(impact: &v1::Impact) -> Self {
        Self {
            request_tokens: impact.request_tokens,
            answer_tokens: impact.answer_tokens,
            cost: impact.cost,
            currency: impact.currency.clone(),
        }
    }
}

impl From<&v1::Remark> for Remark {
    fn from(remark: &v1::Remark) -> Self {
        Self {
            by: remark.by.clone(),
            reason: remark.reason.clone(),
            at: words::instant(remark.at.as_ref()),
            until: words::instant(remark.until.as_ref()),
        }
    }
}

impl From<&v1::Mute> for Mute {
    fn from(mute: &v1::Mute) -> Self {
        let is_of_every = mute.kind() == v1::AnomalyKind::Unspecified;
        Self {
            target: mute.target.clone(),
            kind: (!is_of_every).then(|| words::kind(mute.kind)),
            remark: mute.remark.as_ref().map(Remark::from),
            in_settings: mute.in_settings,
        }
    }
}

impl From<&v1::FeatureEvidence> for Feature {
    fn from(feature: &v1::FeatureEvidence) -> Self {
        Self {
            feature: feature.feature.clone(),
            value: feature.value,
            baseline: feature.baseline,
            unit: feature.unit.clone(),
            compared_with: feature.compared_with.clone(),
            deviation: feature.deviation,
        }
    }
}

impl From<&v1::Series> for Series {
    fn from(series: &v1::Series) -> Self {
        Self {
            feature: series.feature.clone(),
            unit: series.unit.clone(),
            start: words::instant(series.start.as_ref()),
            step_s: series.step_seconds,
            values: series.values.clone(),
        }
    }
}

impl From<&v1::GetStatusResponse> for Status {
    fn from(status: &v1::GetStatusResponse) -> Self {
        Self {
            node: status.node.clone(),
            version: status.version.clone(),
            kernel: status.kernel.clone(),
            started: words::instant(status.started.as_ref()),
            losses: status.losses.iter().map(|loss| (loss.stage.clone(), loss.count)).collect(),
            attachments: all(&status.attachments),
            interfaces: status.interfaces.as_ref().map(Interfaces::from),
            programs: all(&status.programs),
            maps: all(&status.maps),
            memory: status.memory.as_ref().map(Memory::from),
            services: all(&status.services),
            packets: status.packets.as_ref().map(Packets::from),
            control_plane: status.control_plane.as_ref().map(ControlPlane::from),
            state: status.state.as_ref().map(State::from),
            clients: status.clients,
            open_anomalies: status.open_anomalies,
            muted_anomalies: status.muted_anomalies,
            exchanges: status.exchanges,
        }
    }
}

impl From<&v1::Attachment> for Attachment {
    fn from(attachment: &v1::Attachment) -> Self {
        Self {
            interface: attachment.interface.clone(),
            direction: attachment.direction.clone(),
            mode: attachment.mode.clone(),
            note: attachment.note.clone(),
        }
    }
}

impl From<&v1::Interfaces> for Interfaces {
    fn from(interfaces: &v1::Interfaces) -> Self {
        Self {
            include: interfaces.include.clone(),
            exclude: interfaces.exclude.clone(),
            unwatched: all(&interfaces.unwatched),
            appeared: interfaces.appeared,
            vanished: interfaces.vanished,
        }
    }
}

impl From<&v1::UnwatchedInterface> for UnwatchedInterface {
    fn from(unwatched: &v1::UnwatchedInterface) -> Self {
        Self { interface: unwatched.interface.clone(), reason: unwatched.reason.clone() }
    }
}

impl From<&v1::ProgramStatus> for Program {
    fn from(program: &v1::ProgramStatus) -> Self {
        Self {
            name: program.name.clone(),
            id: program.id,
            verified_instructions: program.verified_instructions,
            jited_bytes: program.jited_bytes,
        }
    }
}

impl From<&v1::MapStatus> for Map {
    fn from(map: &v1::MapStatus) -> Self {
        Self {
            name: map.name.clone(),
            entries: map.entries,
            capacity: map.capacity,
            memory_bytes: map.memory_bytes,
        }
    }
}

impl From<&v1::Memory> for Memory {
    fn from(memory: &v1::Memory) -> Self {
        Self {
            maps_bytes: memory.maps_bytes,
            process_bytes: memory.process_bytes,
            tables: all(&memory.tables),
        }
    }
}

impl From<&v1::TableStatus> for Table {
    fn from(table: &v1::TableStatus) -> Self {
        Self {
            name: table.name.clone(),
            entries: table.entries,
            capacity: table.capacity,
            memory_bytes: table.memory_bytes,
        }
    }
}

impl From<&v1::PacketCounters> for Packets {
    fn from(packets: &v1::PacketCounters) -> Self {
        Self {
            ingress_watched: packets.ingress_watched,
            egress_watched: packets.egress_watched,
            syns: packets.syns,
        }
    }
}

impl From<&v1::StateStatus> for State {
    fn from(state: &v1::StateStatus) -> Self {
        Self {
            path: state.path.clone(),
            saved: words::instant(state.saved.as_ref()),
            length_bytes: state.bytes,
            resumed: state.resumed,
        }
    }
}

impl From<&v1::ControlPlaneLink> for ControlPlane {
    fn from(link: &v1::ControlPlaneLink) -> Self {
        Self {
            address: link.address.clone(),
            connected: link.connected,
            last_error: link.last_error.clone(),
            last_sequence: link.last_sequence,
            acked_sequence: link.acked_sequence,
            pending: link.pending,
            connects: link.connects,
        }
    }
}
