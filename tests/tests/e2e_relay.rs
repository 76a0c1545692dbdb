//! A relay near the service shows: the TCP handshake ends at it, the TLS handshake goes on to the client behind it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hydrometer_proto::v1::Exchange;
use hydrometer_tests::{
    agent::{Agent, usual_arguments},
    curl,
    net::{Network, SERVER_V4},
    nginx::{Nginx, PORT, Security},
    process::wait_for,
    relay,
};

/// For the exchanges to be handed out.
const PATIENCE: Duration = Duration::from_secs(30);
/// How late the relay hands on what it gets, each way.
const DELAY: Duration = Duration::from_millis(40);
/// Connections of each client: of what they take the least is the way, the rest is a busy machine.
const CONNECTIONS: usize = 5;

#[test]
fn a_client_behind_a_relay_answers_tls_later_than_tcp_and_one_that_connects_itself_does_not() {
    for security in [Security::Tls13, Security::Tls12] {
        let network = Network::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let nginx = Nginx::start_alone(network.server(), folder.path(), security).unwrap();
        let agent = Agent::start(network.server(), folder.path(), usual_arguments()).unwrap();
        let [near, far, place] = [(); 3].map(|()| IpAddr::from(network.add_client().unwrap().v4));
        let server = SocketAddr::from((SERVER_V4, PORT));
        let relay = relay::start(network.client(), place, server, DELAY).unwrap();
        for _ in 0..CONNECTIONS {
            for (client, relay) in [(near, None), (far, Some(relay))] {
                curl::ask_through(network.client(), &nginx, folder.path(), client, &[0], relay).unwrap();
            }
        }
        // The relay connects from the address that the namespace had first.
        let relayed = least_gap(&agent, network.first_client().v4.into());
        let direct = least_gap(&agent, near);
        assert!(relayed >= 2 * DELAY, "{security:?}: {relayed:?}");
        assert!(direct < DELAY, "{security:?}: {direct:?}");
    }
}

/// By how much a client's answers in the TLS handshake come later than in the TCP handshake, at least.
fn least_gap(agent: &Agent, client: IpAddr) -> Duration {
    let exchanges = wait_for("all exchanges", PATIENCE, || {
        let exchanges = agent.client_in_depth(client)?.exchanges;
        Ok((exchanges.len() == CONNECTIONS).then_some(exchanges))
    })
    .unwrap();
    let gap = |exchange: Exchange| {
        let tls = Duration::try_from(exchange.tls_round_trip.unwrap()).unwrap();
        tls.saturating_sub(Duration::try_from(exchange.tcp_round_trip.unwrap()).unwrap())
    };
    exchanges.into_iter().map(gap).min().unwrap()
}
