//! HTTP/2 end to end, live, over IPv4 and IPv6: exact in clear text, gRPC included; in TLS an estimate that is right or
//! says that it may not be. The truth is nginx's access log.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hydrometer_engine::ClientId;
use hydrometer_proto::v1::{Accuracy, Exchange};
use hydrometer_tests::{
    agent::{self, Agent},
    curl, grpc,
    net::{Network, SERVER_V4, SERVER_V6},
    nginx::{self, Nginx, PORT, Security, Summary},
    openai::{Behaviour, Stream},
    process::wait_for,
    stack::Stack,
};

/// Requests of each client: no more than the agent keeps exchanges of.
const REQUESTS: u32 = 48;
/// For a phase of requests.
const PATIENCE: Duration = Duration::from_mins(4);
/// For the agent to close what is in flight when the clients have ended.
const SETTLING: Duration = Duration::from_secs(20);

#[test]
fn http2_in_clear_text_and_grpc_are_counted_to_the_request_and_to_the_byte() {
    let run = Run::start(Security::Http2);
    run.ask();
    let _server = grpc::Server::start(run.stack.network.server(), run.stack.folder()).unwrap();
    let mut requests = 4 * REQUESTS;
    for server in [IpAddr::from(SERVER_V4), SERVER_V6.into()] {
        requests +=
            grpc::ask(run.stack.network.client(), SocketAddr::new(server, PORT), REQUESTS / 4).unwrap();
    }
    let compared = compare(&run.agent, &run.stack.nginx);
    assert_eq!(compared.iter().map(|(_, logged, ..)| logged.requests).sum::<u64>(), u64::from(requests));
    for (id, logged, counted, exchanges) in compared {
        assert_eq!(counted.requests, logged.requests, "{id}");
        assert!(off(counted.request_bytes, logged.request_bytes) <= 0.001, "{id}: {counted:?}, {logged:?}");
        assert!(off(counted.answer_bytes, logged.answer_bytes) <= 0.001, "{id}: {counted:?}, {logged:?}");
        assert!(exchanges.iter().all(|exchange| exchange.accuracy() == Accuracy::Exact), "{id}");
    }
}

#[test]
fn http2_in_tls_is_counted_within_3_percent_and_believed() {
    for security in [Security::Http2Tls12, Security::Http2Tls13] {
        let run = Run::start(security);
        run.ask();
        let compared = compare(&run.agent, &run.stack.nginx);
        assert_eq!(compared.len(), 4);
        for (id, logged, counted, exchanges) in compared {
            assert!(off(counted.requests, logged.requests) <= 0.03, "{id}: {counted:?}, {logged:?}");
            assert!(off(counted.answer_bytes, logged.answer_bytes) <= 0.01, "{id}: {counted:?}, {logged:?}");
            assert!(confidence(&exchanges) >= 0.5, "{id}: {}", confidence(&exchanges));
        }
    }
}

#[test]
fn a_client_that_ends_its_requests_in_another_way_is_not_believed() {
    let network = Network::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let nginx = Nginx::start_alone(network.server(), folder.path(), Security::Http2Tls13).unwrap();
    let agent = Agent::start(network.server(), folder.path(), agent::usual_arguments()).unwrap();
    let client = network.first_client();
    for address in [IpAddr::from(client.v4), client.v6.into()] {
        curl::ask(network.client(), &nginx, folder.path(), address, &[700; 5]).unwrap();
    }
    let compared = compare(&agent, &nginx);
    assert_eq!(compared.len(), 2);
    for (id, _, counted, exchanges) in compared {
        assert!(counted.requests > 0 && confidence(&exchanges) < 0.5, "{id}: {}", confidence(&exchanges));
    }
}

/// A served model that an agent watches.
struct Run {
    agent: Agent,
    stack: Stack,
}

impl Run {
    fn start(security: Security) -> Self {
        let stack = Stack::start(security, 8).unwrap();
        let agent = Agent::start(stack.network.server(), stack.folder(), agent::usual_arguments()).unwrap();
        Self { agent, stack }
    }

    /// Four clients, over IPv4 and IPv6: two that ask one thing after the other, two that ask sixteen at a time.
    fn ask(&self) {
        let usual = Behaviour { requests: Some(REQUESTS), max_tokens: 12, ..Behaviour::default() };
        let one = Behaviour { stream: Stream::Always, ..usual.clone() };
        let sixteen = Behaviour { stream: Stream::Mixed, concurrency: 16, ..usual };
        let mut clients = Vec::new();
        for behaviour in [one, sixteen] {
            let (v4, v6) =
                (self.stack.network.add_client().unwrap().v4, self.stack.network.add_client().unwrap().v6);
            for address in [IpAddr::from(v4), v6.into()] {
                clients.push(self.stack.client(address, &behaviour).unwrap());
            }
        }
        for client in &mut clients {
            assert_eq!(client.finish(PATIENCE).unwrap().len(), REQUESTS as usize);
        }
    }
}

/// Every client of the access log: what that says, what was counted, its exchanges.
fn compare(agent: &Agent, nginx: &Nginx) -> Vec<(ClientId, Summary, Summary, Vec<Exchange>)> {
    let log = nginx::summaries(&nginx.accesses().unwrap());
    let counted = |id: ClientId| {
        let counters = agent.counters(id)?;
        Ok::<_, anyhow::Error>((
            counters.exchanges,
            Summary {
                requests: counters.requests,
                request_bytes: counters.request_bytes,
                answer_bytes: counters.answer_bytes,
            },
        ))
    };
    // An estimate may settle elsewhere: the comparison tells.
    let settled = wait_for("the counters to settle", SETTLING, || {
        let settled = log
            .iter()
            .all(|(&id, summary)| counted(id).is_ok_and(|(exchanges, _)| exchanges >= summary.requests));
        Ok(settled.then_some(()))
    });
    if let Err(error) = settled {
        println!("{error:#}");
    }
    log.iter()
        .map(|(&id, &logged)| {
            let (_, counted) = counted(id).unwrap();
            let exchanges = agent.client_in_depth(id).unwrap().exchanges;
            println!("{id}: {logged:?} / {counted:?}, confidence {:.2}", confidence(&exchanges));
            (id, logged, counted, exchanges)
        })
        .collect()
}

/// The mean over exchanges; those that are exact count as certain.
fn confidence(exchanges: &[Exchange]) -> f32 {
    let sum: f32 = exchanges.iter().map(|exchange| exchange.confidence.unwrap_or(1.0)).sum();
    sum / exchanges.len() as f32
}

fn off(counted: u64, truth: u64) -> f64 {
    (counted as f64 - truth as f64).abs() / truth as f64
}
