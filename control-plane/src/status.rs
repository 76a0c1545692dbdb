//! Shows how a running control plane fares, for a person.

use std::{fmt::Write as _, time::Duration};

use anyhow::anyhow;
use hydrometer_proto::v1::{
    GetControlPlaneStatusRequest, GetControlPlaneStatusResponse, SinkStatus,
    operations_client::OperationsClient,
};

use crate::{health, listen::Address};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Prints the status of the control plane at `address`, a unix socket or a loopback port without TLS.
pub async fn show(address: &Address) -> anyhow::Result<()> {
    let channel = health::connect(address, TIMEOUT).await?;
    let answer = OperationsClient::new(channel)
        .get_control_plane_status(GetControlPlaneStatusRequest {})
        .await
        .map_err(|status| anyhow!("{address} does not tell its status: {}", status.message()))?;
    print!("{}", text(&answer.into_inner()));
    Ok(())
}

/// A line for the store, for the feed and for each sink; what is wrong comes below it.
fn text(status: &GetControlPlaneStatusResponse) -> String {
    let (store, feed) = (status.store.unwrap_or_default(), status.feed.unwrap_or_default());
    let mut text = format!(
        "hydrometer-control {}, states {} to {} stored, {} bytes\nfeed: {} subscribers, {} cut off\n",
        status.version,
        store.oldest_position,
        store.newest_position,
        store.bytes,
        feed.subscribers,
        feed.cut_off
    );
    for sink in &status.sinks {
        let SinkStatus { name, kind, position, delivered, retries, dead_lettered, missed, error } = sink;
        let behind = store.newest_position.saturating_sub(*position);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "sink {name} ({kind}): {behind} behind, {delivered} delivered, {retries} retries, {dead_lettered} dead \
             letters, {missed} missed"
        );
        if !error.is_empty() {
            let _ = writeln!(text, "  {error}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use hydrometer_proto::v1::StoreStatus;

    use super::*;

    #[test]
    fn a_sink_that_hangs_says_how_far_it_is_behind_and_why() {
        let sink = SinkStatus {
            name: "siem".into(),
            kind: "syslog".into(),
            position: 7,
            delivered: 5,
            retries: 3,
            error: "cannot send to siem:6514: refused".into(),
            ..SinkStatus::default()
        };
        let status = GetControlPlaneStatusResponse {
            version: "0.1.0".into(),
            store: Some(StoreStatus { oldest_position: 1, newest_position: 9, bytes: 4096 }),
            sinks: vec![sink],
            ..GetControlPlaneStatusResponse::default()
        };
        let expected = "hydrometer-control 0.1.0, states 1 to 9 stored, 4096 bytes\n\
            feed: 0 subscribers, 0 cut off\n\
            sink siem (syslog): 2 behind, 5 delivered, 3 retries, 0 dead letters, 0 missed\n  \
            cannot send to siem:6514: refused\n";
        assert_eq!(text(&status), expected);
    }
}
