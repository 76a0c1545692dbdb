//! What Prometheus and probes are told of the control plane: its status in figures.

use std::sync::Arc;

use hydrometer_monitor::{Labels, Page, Unwell, Watched, labels};
use hydrometer_proto::v1::{GetControlPlaneStatusResponse, SinkStatus};

use crate::operations::Operations;

/// The control plane under watch.
pub struct Watch(pub Arc<Operations>);

impl Watched for Watch {
    async fn figures(&self) -> Result<Page, Unwell> {
        self.0.status().await.map(|status| page(&status)).map_err(|error| Unwell(error.to_string()))
    }

    async fn live(&self) -> Result<(), Unwell> {
        // It ends by itself when it cannot write; that it answers is all there is to ask.
        Ok(())
    }

    async fn ready(&self) -> Result<(), Unwell> {
        self.0.status().await.map(drop).map_err(|error| Unwell(error.to_string()))
    }
}

fn page(status: &GetControlPlaneStatusResponse) -> Page {
    let (store, feed) = (status.store.unwrap_or_default(), status.feed.unwrap_or_default());
    let mut page = Page::new();
    let build = labels([("version", &status.version)]);
    page.gauge("control_build_info", "1; its label tells what runs", [(build, 1.0)]);
    let started = status.started.unwrap_or_default();
    let started = started.seconds as f64 + f64::from(started.nanos) / 1e9;
    let help = "When the control plane started, seconds since the epoch";
    page.gauge("control_start_time_seconds", help, [(bare(), started)]);
    let help = "States of anomalies that were ever stored here";
    page.counter("control_states", help, [(bare(), store.newest_position)]);
    let kept = match store.oldest_position {
        0 => 0,
        oldest => store.newest_position - oldest + 1,
    };
    page.gauge("control_states_kept", "States of anomalies in the store", [(bare(), kept as f64)]);
    page.gauge("control_store_bytes", "Bytes of those states", [(bare(), store.bytes as f64)]);
    page.gauge("control_subscribers", "Open streams of the feed", [(bare(), feed.subscribers as f64)]);
    let help = "Subscribers that were cut off, since they took nothing";
    page.counter("control_subscribers_cut_off", help, [(bare(), feed.cut_off)]);
    sinks(&mut page, &status.sinks, store.newest_position);
    page
}

/// A counter of a sink: its name, what it means, its value.
type SinkCounter = (&'static str, &'static str, fn(&SinkStatus) -> u64);

fn sinks(page: &mut Page, sinks: &[SinkStatus], newest: u64) {
    let of = |sink: &SinkStatus| labels([("sink", &sink.name), ("kind", &sink.kind)]);
    let counters: [SinkCounter; 4] = [
        ("sink_delivered", "States that a sink's destination has taken", |sink| sink.delivered),
        ("sink_retries", "Attempts that failed and are made again", |sink| sink.retries),
        ("sink_dead_lettered", "States in a sink's dead-letter file", |sink| sink.dead_lettered),
        ("sink_missed", "States that were removed before they were delivered", |sink| sink.missed),
    ];
    for (name, help, value) in counters {
        page.counter(name, help, sinks.iter().map(|sink| (of(sink), value(sink))));
    }
    let behind = sinks.iter().map(|sink| (of(sink), newest.saturating_sub(sink.position) as f64));
    page.gauge("sink_behind", "States that a sink has not come to yet", behind);
    let failing = sinks.iter().map(|sink| (of(sink), f64::from(u8::from(!sink.error.is_empty()))));
    page.gauge("sink_failing", "1 while a sink does not get on", failing);
}

fn bare() -> Labels {
    Labels::new()
}

#[cfg(test)]
mod tests {
    use hydrometer_proto::v1::StoreStatus;

    use super::*;

    #[test]
    fn a_sink_that_hangs_shows_in_figures() {
        let sink = SinkStatus {
            name: "siem".into(),
            kind: "syslog".into(),
            position: 7,
            retries: 3,
            error: "refused".into(),
            ..SinkStatus::default()
        };
        let status = GetControlPlaneStatusResponse {
            store: Some(StoreStatus { oldest_position: 3, newest_position: 9, bytes: 4096 }),
            sinks: vec![sink],
            ..GetControlPlaneStatusResponse::default()
        };
        let text = page(&status).text();
        let of = "{sink=\"siem\",kind=\"syslog\"}";
        for line in [
            format!("hydrometer_sink_behind{of} 2.0\n"),
            format!("hydrometer_sink_failing{of} 1.0\n"),
            format!("hydrometer_sink_retries_total{of} 3\n"),
            "hydrometer_control_states_kept 7.0\n".to_owned(),
            "hydrometer_control_states_total 9\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}
