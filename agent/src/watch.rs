//! What Prometheus and probes are told of the agent: the status in figures, and whether data flows.
//!
//! In flow scrapes and probes, out flow metrics of one moment. Invariant: the number of series does not grow with
//! clients, but for as many of the busiest as the settings say.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use hydrometer_monitor::{Labels, Page, Unwell, Watched, labels};
use hydrometer_proto::v1::{Anomaly, AnomalyKind, GetStatusResponse, Severity};

use crate::{
    api::Api,
    cli::words,
    pipeline::{Standing, Stopped},
};

/// The agent under watch.
#[derive(Clone, Debug)]
pub struct Watch {
    api: Api,
    /// The busiest that are named.
    clients: u32,
}

impl Watch {
    /// Watches the agent behind `api`, and names that many of its clients.
    pub fn new(api: Api, clients: u32) -> Self {
        Self { api, clients }
    }
}

impl Watched for Watch {
    async fn figures(&self) -> Result<Page, Unwell> {
        let status = self.api.status().await.map_err(stopping)?;
        let anomalies = self.api.pipeline().with(|pipeline| pipeline.standing_anomalies()).await;
        let (standing, raised) = anomalies.map_err(stopping)?;
        let mut page = Page::new();
        program(&mut page, &status);
        traffic(&mut page, &status);
        losses(&mut page, &status);
        memory(&mut page, &status);
        link(&mut page, &status);
        findings(&mut page, &standing, &raised);
        if self.clients > 0 {
            let clients = self.api.standings().await.map_err(stopping)?;
            busiest(&mut page, &clients, self.clients as usize, &standing);
        }
        Ok(page)
    }

    async fn live(&self) -> Result<(), Unwell> {
        self.api.pipeline().with(|_| ()).await.map_err(stopping)
    }

    async fn ready(&self) -> Result<(), Unwell> {
        flowing(&self.api.status().await.map_err(stopping)?)
    }
}

/// Whether the kernel's figures come in, from one interface at least.
fn flowing(status: &GetStatusResponse) -> Result<(), Unwell> {
    if status.packets.is_none() {
        return Err(Unwell("the kernel's maps cannot be read; the agent's log says why".to_owned()));
    }
    if status.attachments.is_empty() {
        return Err(Unwell("no interface is watched; `hydrometer status` says why".to_owned()));
    }
    Ok(())
}

fn stopping(stopped: Stopped) -> Unwell {
    Unwell(stopped.to_string())
}

fn program(page: &mut Page, status: &GetStatusResponse) {
    let build = labels([("version", &status.version), ("node", &status.node), ("kernel", &status.kernel)]);
    page.gauge("build_info", "1; its labels tell what runs where", [(build, 1.0)]);
    let started = status.started.unwrap_or_default();
    let started = started.seconds as f64 + f64::from(started.nanos) / 1e9;
    page.gauge("start_time_seconds", "When the agent started, seconds since the epoch", [(bare(), started)]);
    let attached = status.attachments.iter().map(|attachment| {
        let place = [
            ("interface", &*attachment.interface),
            ("direction", &*attachment.direction),
            ("mode", &*attachment.mode),
        ];
        (labels(place), 1.0)
    });
    page.gauge("attached", "1 for each program on an interface", attached);
    let unwatched = status.interfaces.as_ref().map_or(0, |interfaces| interfaces.unwatched.len());
    let help = "Interfaces that are asked for and not watched";
    page.gauge("interfaces_unwatched", help, [(bare(), unwatched as f64)]);
    let steps = status.programs.iter();
    let steps =
        steps.map(|program| (labels([("program", &program.name)]), f64::from(program.verified_instructions)));
    page.gauge("program_verified_instructions", "What the verifier took for a kernel program", steps);
}

fn traffic(page: &mut Page, status: &GetStatusResponse) {
    let packets = status.packets.unwrap_or_default();
    let watched = [("ingress", packets.ingress_watched), ("egress", packets.egress_watched)]
        .map(|(direction, count)| (labels([("direction", direction)]), count));
    page.counter("watched_packets", "Packets of watched services", watched);
    page.counter("syns", "TCP SYNs to watched services", [(bare(), packets.syns)]);
    page.counter("exchanges", "Requests whose answer has ended", [(bare(), status.exchanges)]);
    page.gauge("clients", "Clients known", [(bare(), status.clients as f64)]);
}

fn losses(page: &mut Page, status: &GetStatusResponse) {
    let losses = status.losses.iter().map(|loss| (labels([("stage", &loss.stage)]), loss.count));
    page.counter("losses", "What was not recorded, by stage", losses);
}

fn memory(page: &mut Page, status: &GetStatusResponse) {
    let of = |name: &str| labels([("map", name)]);
    let entries = status.maps.iter().filter_map(|map| Some((of(&map.name), map.entries? as f64)));
    page.gauge("map_entries", "Entries in a kernel map, where it can be told", entries);
    let capacity = status.maps.iter().map(|map| (of(&map.name), map.capacity as f64));
    page.gauge("map_capacity", "Entries that a kernel map can hold", capacity);
    let bytes = status.maps.iter().map(|map| (of(&map.name), map.memory_bytes as f64));
    page.gauge("map_memory_bytes", "Memory of a kernel map", bytes);
    let tables = status.memory.iter().flat_map(|memory| &memory.tables);
    let fill = tables.clone().map(|table| (labels([("table", &table.name)]), table.entries as f64));
    page.gauge("table_entries", "Entries in a table of the agent", fill);
    let room = tables.map(|table| (labels([("table", &table.name)]), table.capacity as f64));
    page.gauge("table_capacity", "Entries that a table of the agent can hold", room);
}

/// Nothing where anomalies are reported to nobody.
fn link(page: &mut Page, status: &GetStatusResponse) {
    let link = status.control_plane.as_ref();
    let connected = link.map(|link| (bare(), f64::from(u8::from(link.connected))));
    page.gauge("control_plane_connected", "1 while the stream to the control plane is up", connected);
    let pending = link.map(|link| (bare(), link.pending as f64));
    page.gauge("control_plane_pending", "States of anomalies that wait for the control plane", pending);
    let acknowledged = link.map(|link| (bare(), link.acked_sequence));
    let help = "States of anomalies that the control plane has stored, since the spool was made";
    page.counter("control_plane_acknowledged", help, acknowledged);
    let connects = link.map(|link| (bare(), link.connects));
    page.counter("control_plane_connects", "Times the stream was set up", connects);
}

/// Every kind and severity has its series from the start, so that an alert sees the first one rise.
fn findings(page: &mut Page, standing: &[Arc<Anomaly>], raised: &BTreeMap<i32, u64>) {
    let kinds = || (1..).map_while(|number| AnomalyKind::try_from(number).ok()).map(i32::from);
    let severities = || (1..).map_while(|number| Severity::try_from(number).ok()).map(i32::from);
    let mut open: BTreeMap<(i32, i32), f64> =
        kinds().flat_map(|kind| severities().map(move |severity| ((kind, severity), 0.0))).collect();
    let mut asked: BTreeMap<i32, [f64; 3]> = kinds().map(|kind| (kind, [0.0; 3])).collect();
    for anomaly in standing {
        *open.entry((anomaly.kind, anomaly.severity)).or_default() += 1.0;
        let sums = asked.entry(anomaly.kind).or_default();
        let impact = anomaly.impact.as_ref();
        sums[0] += impact.map_or(0.0, |impact| impact.request_tokens as f64);
        sums[1] += impact.map_or(0.0, |impact| impact.answer_tokens as f64);
        sums[2] += anomaly.members.len() as f64;
    }
    let open = open.into_iter().map(|((kind, severity), count)| {
        (labels([("kind", &words::kind(kind)), ("severity", &words::severity(severity))]), count)
    });
    page.gauge("anomalies_open", "Anomalies open and not muted", open);
    let raised = kinds().map(|kind| (of_kind(kind), raised.get(&kind).copied().unwrap_or(0)));
    page.counter("anomalies_raised", "Anomalies raised", raised);
    let tokens = asked.iter().flat_map(|(kind, [asked, answered, _])| {
        [("request", *asked), ("answer", *answered)]
            .map(|(part, tokens)| (labels([("kind", &words::kind(*kind)), ("part", part)]), tokens))
    });
    page.gauge("anomalies_open_tokens", "Estimated tokens taken by open anomalies since they began", tokens);
    let members = asked.iter().map(|(kind, [_, _, members])| (of_kind(*kind), *members));
    page.gauge("campaign_members", "Members of open campaigns", members);
}

/// The busiest clients of the last minute, and all others together.
fn busiest(page: &mut Page, clients: &[Standing], count: usize, standing: &[Arc<Anomaly>]) {
    let mut sorted: Vec<&Standing> = clients.iter().collect();
    sorted.sort_by(|a, b| by_rate(a, b));
    let (named, others) = sorted.split_at(count.min(sorted.len()));
    let of = |client: &str| labels([("client", client)]);
    let series = |value: fn(&Standing) -> f64| {
        let others = others.iter().map(|client| value(client)).fold(0.0, |sum, value| sum + value);
        let named = named.iter().map(|client| (of(&client.id.to_string()), value(client)));
        named.chain([(of("other"), others)]).collect::<Vec<_>>()
    };
    let help = "Requests per second of the last minute, of the busiest clients";
    page.gauge("client_request_rate", help, series(|client| client.rate));
    let help = "Answer bytes so far, of the busiest clients";
    page.gauge("client_answer_bytes", help, series(|client| client.answer_bytes as f64));
    let anomalies = named.iter().map(|client| {
        let name = client.id.to_string();
        let open = standing.iter().filter(|anomaly| anomaly.client == name).count();
        (of(&name), open as f64)
    });
    page.gauge("client_anomalies_open", "Open anomalies, of the busiest clients", anomalies);
}

fn by_rate(a: &Standing, b: &Standing) -> Ordering {
    b.rate.total_cmp(&a.rate).then(a.id.cmp(&b.id))
}

fn of_kind(kind: i32) -> Labels {
    labels([("kind", &words::kind(kind))])
}

fn bare() -> Labels {
    Labels::new()
}

#[cfg(test)]
mod tests {
    use hydrometer_engine::Nanos;
    use hydrometer_proto::v1::{Attachment, PacketCounters};

    use super::*;

    fn standing(client: &str, rate: f64) -> Standing {
        Standing {
            id: client.parse().unwrap(),
            rate,
            requests: 1,
            request_bytes: 1,
            answer_bytes: 10,
            last_seen: Nanos(1),
            cv: None,
        }
    }

    #[test]
    fn the_rest_of_the_clients_is_one_series_however_many_there_are() {
        let clients: Vec<_> =
            (0_u8..200).map(|n| standing(&format!("203.0.113.{n}"), f64::from(n))).collect();
        let mut page = Page::new();
        busiest(&mut page, &clients, 2, &[]);
        let text = page.text();
        let series: Vec<_> = text.lines().filter(|line| line.starts_with("hydrometer_client_")).collect();
        assert_eq!(series.len(), 8, "{text}");
        assert!(text.contains("hydrometer_client_request_rate{client=\"203.0.113.199\"} 199.0\n"), "{text}");
        assert!(text.contains("hydrometer_client_request_rate{client=\"other\"} 19503.0\n"), "{text}");
        assert!(text.contains("hydrometer_client_answer_bytes{client=\"other\"} 1980.0\n"), "{text}");
    }

    #[test]
    fn every_kind_of_anomaly_has_its_series_before_there_is_one() {
        let mut page = Page::new();
        let anomaly = Anomaly {
            kind: AnomalyKind::Flood.into(),
            severity: Severity::High.into(),
            ..Anomaly::default()
        };
        findings(&mut page, &[Arc::new(anomaly)], &BTreeMap::from([(AnomalyKind::Flood.into(), 3)]));
        let text = page.text();
        assert!(text.contains("hydrometer_anomalies_open{kind=\"flood\",severity=\"high\"} 1.0\n"), "{text}");
        assert!(text.contains("hydrometer_anomalies_open{kind=\"hydra\",severity=\"low\"} 0.0\n"), "{text}");
        assert!(text.contains("hydrometer_anomalies_raised_total{kind=\"flood\"} 3\n"), "{text}");
        assert!(!text.contains("unspecified") && !text.contains("unknown"), "{text}");
    }

    #[test]
    fn without_an_interface_or_the_kernels_figures_no_data_flows() {
        let mut status = GetStatusResponse::default();
        assert!(flowing(&status).unwrap_err().0.contains("maps cannot be read"));
        status.packets = Some(PacketCounters::default());
        assert!(flowing(&status).unwrap_err().0.contains("no interface is watched"));
        status.attachments.push(Attachment::default());
        assert_eq!(flowing(&status), Ok(()));
    }
}
