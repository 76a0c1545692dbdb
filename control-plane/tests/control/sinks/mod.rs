//! What a SOC can rely on that has what is stored sent to it.
#![allow(clippy::unnecessary_debug_formatting, reason = "a path in quotes is a string of TOML")]

mod delivery;
mod destinations;
mod findings;
mod http;
mod rsyslog;

use hydrometer_proto::v1::{
    Anomaly, GetControlPlaneStatusRequest, SinkStatus, operations_client::OperationsClient,
};

use crate::{
    agent::Agent,
    program::{LIMIT, Site, within},
};

/// Reports anomalies as `gpu-1`.
async fn report(site: &Site, anomalies: impl IntoIterator<Item = Anomaly>) {
    let mut agent = Agent::connect(site.channel().await, "gpu-1", "boot").await.unwrap();
    let mut sequence = agent.welcomed;
    for anomaly in anomalies {
        sequence += 1;
        agent.report(sequence, anomaly).await;
    }
    agent.settled(sequence).await;
}

/// How a sink fares.
async fn status(site: &Site, name: &str) -> SinkStatus {
    let mut client = OperationsClient::new(site.channel().await);
    let answer = within(client.get_control_plane_status(GetControlPlaneStatusRequest {})).await.unwrap();
    let sinks = answer.into_inner().sinks;
    sinks.into_iter().find(|sink| sink.name == name).expect("it is among the sinks")
}

/// Looks until it fares as hoped.
async fn until(site: &Site, name: &str, hoped: impl Fn(&SinkStatus) -> bool) -> SinkStatus {
    let start = std::time::Instant::now();
    loop {
        let status = status(site, name).await;
        if hoped(&status) {
            return status;
        }
        assert!(start.elapsed() < LIMIT, "waited in vain: {status:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
