//! What Hydrometer counts and measures is what the proxy's access log says: a real llama.cpp server behind nginx, the
//! real `openai` client, pools of connections, streamed and not, over IPv4 and IPv6.
//!
//! With `HYDROMETER_FULL` set, ten times as many requests.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{collections::BTreeMap, env, net::IpAddr, time::Duration};

use hydrometer_engine::ClientId;
use hydrometer_proto::v1::Exchange;
use hydrometer_tests::{
    agent::{self, Agent},
    nginx::{self, Access, Security, Summary},
    openai::{Behaviour, KeepAlive, Stream},
    process::wait_for,
    stack::Stack,
};

/// How far requests may be off, relative.
const REQUEST_TOLERANCE: f64 = 0.005;
/// How far bytes may be off, relative.
const BYTE_TOLERANCE: f64 = 0.02;
/// How far times may be off at the median, milliseconds.
const TIME_TOLERANCE_MS: f64 = 5.0;
/// Exchanges of a client that the agent keeps.
const RECENT: u32 = 16;
/// For the agent to close what is in flight when the clients have ended.
const SETTLING: Duration = Duration::from_secs(20);
/// For a phase of requests.
const PATIENCE: Duration = Duration::from_mins(8);

#[test]
fn two_thousand_requests_over_tls_1_3_are_counted_as_the_access_log_counts_them() {
    let share = if env::var_os("HYDROMETER_FULL").is_some() { 10 } else { 1 };
    let run = Run::start(Security::Tls13);
    // One after the other, since 32 connections at a time keep the model server busy.
    for (requests, concurrency, streams) in [
        (200, 1, [Stream::Never, Stream::Always]),
        (320, 8, [Stream::Mixed, Stream::Mixed]),
        (500, 32, [Stream::Mixed, Stream::Always]),
    ] {
        run.ask(&streams.map(|stream| Behaviour {
            requests: Some(requests * share),
            concurrency,
            stream,
            max_tokens: 8,
            ..Behaviour::default()
        }));
    }
    let log = run.compare();
    let requests: u64 = log.values().map(|summary| summary.requests).sum();
    assert!(requests >= u64::from(2000 * share), "only {requests} requests were made");
    assert_eq!(log.len(), 6, "each of the clients is in the log: {log:?}");
}

#[test]
fn requests_in_clear_text_and_over_tls_1_2_are_counted_as_the_access_log_counts_them() {
    for security in [Security::Plain, Security::Tls12] {
        let run = Run::start(security);
        let pooled = Behaviour {
            requests: Some(RECENT),
            concurrency: 4,
            stream: Stream::Mixed,
            ..Behaviour::default()
        };
        let single = Behaviour { keep_alive: KeepAlive::No, ..pooled.clone() };
        run.ask(&[pooled, single]);
        run.compare();
        run.compare_exchanges();
    }
}

#[test]
fn times_are_those_of_the_proxy_at_the_median() {
    for concurrency in [1, 8, 32] {
        let run = Run::start(Security::Tls13);
        run.ask(&[Stream::Always, Stream::Never].map(|stream| Behaviour {
            requests: Some(RECENT),
            concurrency,
            stream,
            ..Behaviour::default()
        }));
        run.compare();
        run.compare_exchanges();
        run.compare_times(concurrency);
    }
}

/// A served model that an agent watches.
struct Run {
    agent: Agent,
    stack: Stack,
    security: Security,
}

impl Run {
    fn start(security: Security) -> Self {
        let stack = Stack::start(security, 8).unwrap();
        let agent = Agent::start(stack.network.server(), stack.folder(), agent::usual_arguments()).unwrap();
        Self { agent, stack, security }
    }

    /// Clients that behave like this, all at once, the first over IPv4, the second over IPv6, and so on; returns when
    /// each has all its answers.
    fn ask(&self, behaviours: &[Behaviour]) {
        let mut clients: Vec<_> = behaviours
            .iter()
            .enumerate()
            .map(|(n, behaviour)| {
                let address = self.stack.network.add_client().unwrap();
                let address: IpAddr = if n % 2 == 0 { address.v4.into() } else { address.v6.into() };
                let behaviour = Behaviour { seed: behaviour.seed + n as u64, ..behaviour.clone() };
                self.stack.client(address, &behaviour).unwrap()
            })
            .collect();
        for (client, behaviour) in clients.iter_mut().zip(behaviours) {
            let calls = client.finish(PATIENCE).unwrap();
            assert_eq!(calls.len(), behaviour.requests.unwrap() as usize);
        }
    }

    /// Holds every client's counters, the kernel's own, against the access log's.
    fn compare(&self) -> BTreeMap<ClientId, Summary> {
        self.settle();
        let log = nginx::summaries(&self.stack.nginx.accesses().unwrap());
        println!("{:?}: client, requests, request bytes, answer bytes (log / counted)", self.security);
        for (&id, summary) in &log {
            let counters = self.agent.counters(id).unwrap();
            let counted = Summary {
                requests: counters.requests,
                request_bytes: counters.request_bytes,
                answer_bytes: counters.answer_bytes,
            };
            assert_agree(id, *summary, counted);
            assert_off_by_at_most(REQUEST_TOLERANCE, "exchanges", id, summary.requests, counters.exchanges);
        }
        let requests = log.values().map(|summary| summary.requests).sum();
        let taken_in = self.agent.status().unwrap().exchanges;
        println!("  exchanges taken in: {requests} / {taken_in}");
        assert_off_by_at_most(REQUEST_TOLERANCE, "exchanges taken in", "everyone", requests, taken_in);
        log
    }

    /// Holds the sums of the exchanges of clients that have few against the access log's.
    fn compare_exchanges(&self) {
        let log = nginx::summaries(&self.stack.nginx.accesses().unwrap());
        for (&id, summary) in &log {
            assert!(summary.requests <= u64::from(RECENT), "not all of {} are kept", summary.requests);
            let exchanges = self.agent.client_in_depth(id).unwrap().exchanges;
            let sum = Summary {
                requests: exchanges.len() as u64,
                request_bytes: exchanges.iter().map(|exchange| exchange.request_bytes).sum(),
                answer_bytes: exchanges.iter().map(|exchange| exchange.answer_bytes).sum(),
            };
            assert_agree(id, *summary, sum);
        }
    }

    /// Holds the times of every exchange against those of its line in the access log.
    fn compare_times(&self, concurrency: u32) {
        let accesses = self.stack.nginx.accesses().unwrap();
        for id in nginx::summaries(&accesses).into_keys() {
            let exchanges = self.agent.client_in_depth(id).unwrap().exchanges;
            let pairs = pair(id, &accesses, &exchanges);
            let first_byte = Times::of(
                &pairs,
                |access| access.upstream_header_time.unwrap(),
                |exchange| seconds(exchange.time_to_first_byte),
            );
            let duration =
                Times::of(&pairs, |access| access.request_time, |exchange| seconds(exchange.duration));
            println!("{concurrency} at a time, {id}: first byte {first_byte}; duration {duration}");
            for times in [first_byte, duration] {
                assert!(times.apart <= TIME_TOLERANCE_MS, "{id}, {concurrency} at a time: {times}");
            }
        }
    }

    /// Waits until as many exchanges are counted as the log has lines, or no longer: the comparison tells.
    fn settle(&self) {
        let log = nginx::summaries(&self.stack.nginx.accesses().unwrap());
        let settled = wait_for("the counters to settle", SETTLING, || {
            let settled = log.iter().all(|(&id, summary)| {
                self.agent.counters(id).is_ok_and(|counters| counters.exchanges == summary.requests)
            });
            Ok(settled.then_some(()))
        });
        if let Err(error) = settled {
            println!("{error:#}");
        }
    }
}

/// The exchanges with their lines in the log: the same port, in the same order.
fn pair<'a>(
    id: ClientId,
    accesses: &'a [Access],
    exchanges: &'a [Exchange],
) -> Vec<(&'a Access, &'a Exchange)> {
    let mut accesses: Vec<_> = accesses.iter().filter(|access| ClientId::from(access.client) == id).collect();
    accesses.sort_by_key(|access| (access.client_port, access.connection_request));
    let mut exchanges: Vec<_> = exchanges.iter().collect();
    exchanges.sort_by_key(|exchange| {
        let start = exchange.start.unwrap();
        (exchange.client_port, start.seconds, start.nanos)
    });
    let ports = |ports: &mut dyn Iterator<Item = u32>| ports.collect::<Vec<_>>();
    assert_eq!(
        ports(&mut accesses.iter().map(|access| access.client_port.into())),
        ports(&mut exchanges.iter().map(|exchange| exchange.client_port)),
        "{id}: an exchange for every request of every connection"
    );
    accesses.into_iter().zip(exchanges).collect()
}

/// Medians of one time, milliseconds.
struct Times {
    proxy: f64,
    ours: f64,
    /// Of what the two differ by, exchange by exchange, either way.
    apart: f64,
}

impl Times {
    fn of(
        pairs: &[(&Access, &Exchange)],
        proxy: impl Fn(&Access) -> f64,
        ours: impl Fn(&Exchange) -> f64,
    ) -> Self {
        let in_ms = |of: &dyn Fn(&Access, &Exchange) -> f64| {
            median(pairs.iter().map(|(access, exchange)| of(access, exchange) * 1000.0).collect())
        };
        Self {
            proxy: in_ms(&|access, _| proxy(access)),
            ours: in_ms(&|_, exchange| ours(exchange)),
            apart: in_ms(&|access, exchange| (proxy(access) - ours(exchange)).abs()),
        }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { proxy, ours, apart } = self;
        write!(f, "proxy {proxy:.1} ms, ours {ours:.1} ms, apart {apart:.2} ms")
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn seconds<T>(time: Option<T>) -> f64
where
    Duration: TryFrom<T>,
{
    let time = time.and_then(|time| Duration::try_from(time).ok());
    time.expect("a finished exchange has its times").as_secs_f64()
}

fn assert_agree(id: ClientId, log: Summary, counted: Summary) {
    println!(
        "  {id}: {} / {}, {} / {} ({:+.2} %), {} / {} ({:+.2} %)",
        log.requests,
        counted.requests,
        log.request_bytes,
        counted.request_bytes,
        100.0 * difference(log.request_bytes, counted.request_bytes),
        log.answer_bytes,
        counted.answer_bytes,
        100.0 * difference(log.answer_bytes, counted.answer_bytes),
    );
    assert_off_by_at_most(REQUEST_TOLERANCE, "requests", id, log.requests, counted.requests);
    assert_off_by_at_most(BYTE_TOLERANCE, "request bytes", id, log.request_bytes, counted.request_bytes);
    assert_off_by_at_most(BYTE_TOLERANCE, "answer bytes", id, log.answer_bytes, counted.answer_bytes);
}

fn assert_off_by_at_most(tolerance: f64, what: &str, whose: impl std::fmt::Display, log: u64, counted: u64) {
    assert!(
        difference(log, counted).abs() <= tolerance,
        "{what} of {whose}: the log has {log}, counted were {counted}"
    );
}

fn difference(truth: u64, counted: u64) -> f64 {
    (counted as f64 - truth as f64) / truth as f64
}
