//! Asks a running control plane whether it serves: a probe for a container that has no other way in.

use std::time::Duration;

use anyhow::{anyhow, bail};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{config::innermost, listen::Address};

/// For the whole question.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Succeeds when the control plane at `address`, a unix socket or a loopback port without TLS, serves.
pub async fn check(address: &Address) -> anyhow::Result<()> {
    let channel = connect(address, TIMEOUT).await?;
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .map_err(|status| anyhow!("{address} does not answer health checks: {}", status.message()))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => bail!("hydrometer-control on {address} is {}", other.as_str_name()),
    }
}

/// A connection to a control plane on this host; `timeout` is for connecting and for each call.
pub(crate) async fn connect(address: &Address, timeout: Duration) -> anyhow::Result<Channel> {
    let uri = match address {
        Address::Unix(path) => format!("unix://{}", path.display()),
        Address::Tcp(socket) => format!("http://{socket}"),
    };
    let endpoint = Endpoint::from_shared(uri)?.connect_timeout(timeout).timeout(timeout);
    let connected = endpoint.connect().await;
    connected.map_err(|error| anyhow!("no hydrometer-control answers on {address}: {}", innermost(&error)))
}
