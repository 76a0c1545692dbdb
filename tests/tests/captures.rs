//! `hydrometer replay` against captures of real traffic and what the servers' logs say about them.
//! Needs no root, but the captures.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use hydrometer_tests::binary;
use serde::Deserialize;

/// What a server's log says about a capture.
#[derive(Deserialize)]
struct Truth {
    protocol: String,
    requests: u64,
    records: Vec<Request>,
}

#[derive(Deserialize)]
struct Request {
    client: Option<String>,
    req_total_bytes: Option<u64>,
    resp_total_bytes: Option<u64>,
    req_body_bytes: Option<u64>,
    resp_body_bytes: Option<u64>,
    start: Option<f64>,
    ttfb: Option<String>,
    duration: Option<f64>,
    client_log: Option<ClientLog>,
}

/// What the client noted.
#[derive(Deserialize)]
struct ClientLog {
    /// When the first token came, seconds.
    tc: Option<f64>,
}

/// One line of `--exchanges -o json`.
#[derive(Deserialize)]
struct Exchange {
    start: f64,
    client: String,
    req_bytes: u64,
    resp_bytes: u64,
    req_head_bytes: Option<u64>,
    req_head_accuracy: Option<String>,
    resp_head_bytes: Option<u64>,
    resp_head_accuracy: Option<String>,
    ttfb_ms: Option<f64>,
    ttft_ms: Option<f64>,
    duration_ms: f64,
    accuracy: String,
    confidence: Option<f64>,
    truncated: Option<bool>,
}

/// What the wire does not tell, per capture, and why.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Everything can be told.
    Nothing,
    /// Under TLS, requests sent before the answer look like one.
    Pipelining,
    /// Under TLS, a body sent on after an early refusal looks like another request: one too many a
    /// connection. What the server did not read is not in its log.
    EarlyRefusal,
    /// The server's log leaves out bodies that it did not read.
    Unread,
    /// The log of the proxy has one request for a connection full of messages.
    Messages,
}

fn known(name: &str) -> Known {
    match name {
        "h1_tls13_pipelining4.pcap" => Known::Pipelining,
        "h1_tls13_auth401_splitbody.pcap" => Known::EarlyRefusal,
        "h1_plain_auth401_splitbody.pcap" | "h1_plain_errors.pcap" | "h1_tls13_errors.pcap" => Known::Unread,
        "ws_tls13.pcap" => Known::Messages,
        _ => Known::Nothing,
    }
}

fn truths() -> BTreeMap<String, Truth> {
    let path = folder().join("truth.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcaps")
}

fn replay(name: &str) -> Vec<Exchange> {
    let output = Command::new(binary::path("hydrometer").unwrap())
        .arg("replay")
        .arg(folder().join(name))
        .args(["--service", "8080,8443,8444,8445,9443", "--exchanges", "-o", "json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Sums of one side.
#[derive(Debug, Default, PartialEq)]
struct Sums {
    requests: u64,
    request_bytes: u64,
    answer_bytes: u64,
}

/// The log's sums per client. Where the log has no address (haproxy, Caddy), there is one client.
fn logged(truth: &Truth) -> BTreeMap<String, Sums> {
    let mut clients = BTreeMap::<String, Sums>::new();
    for request in &truth.records {
        let client = request.client.as_deref().and_then(|client| client.rsplit_once(':'));
        let sums = clients.entry(client.map_or("10.77.0.2", |(address, _)| address).to_owned()).or_default();
        sums.requests += 1;
        sums.request_bytes += request.req_total_bytes.unwrap_or(0);
        sums.answer_bytes += request.resp_total_bytes.unwrap_or(0);
    }
    clients
}

fn counted(exchanges: &[Exchange]) -> BTreeMap<String, Sums> {
    let mut clients = BTreeMap::<String, Sums>::new();
    for exchange in exchanges {
        let sums = clients.entry(exchange.client.clone()).or_default();
        sums.requests += 1;
        sums.request_bytes += exchange.req_bytes;
        sums.answer_bytes += exchange.resp_bytes;
    }
    clients
}

fn off(counted: u64, truth: u64) -> f64 {
    (counted as f64 - truth as f64).abs() / truth as f64
}

#[test]
fn clients_have_as_many_requests_and_bytes_as_the_servers_log_says() {
    let mut captures = 0;
    for (name, truth) in truths().iter().filter(|(_, truth)| truth.protocol != "h2") {
        let exchanges = replay(name);
        let (logged, counted) = (logged(truth), counted(&exchanges));
        assert_eq!(logged.keys().collect::<Vec<_>>(), counted.keys().collect::<Vec<_>>(), "{name}");
        captures += 1;
        for (client, sums) in &counted {
            let truth_sums = &logged[client];
            let requests = match known(name) {
                Known::Messages => truth.requests + truth.records.len() as u64,
                _ => truth_sums.requests,
            };
            match known(name) {
                Known::Pipelining => assert!(sums.requests < requests, "{name}: {sums:?}"),
                Known::EarlyRefusal => {
                    assert!((requests..=requests + 4).contains(&sums.requests), "{name}: {sums:?}");
                }
                _ => assert!(off(sums.requests, requests) <= 0.005, "{name}: {sums:?}, {requests} requests"),
            }
            if matches!(known(name), Known::Nothing | Known::Pipelining) && truth_sums.request_bytes > 0 {
                let bytes = off(sums.request_bytes, truth_sums.request_bytes);
                assert!(bytes <= 0.02, "{name}: {sums:?}, {truth_sums:?}");
            }
            if truth_sums.answer_bytes > 0 {
                assert!(
                    off(sums.answer_bytes, truth_sums.answer_bytes) <= 0.02,
                    "{name}: {sums:?}, {truth_sums:?}"
                );
            }
        }
    }
    assert_eq!(captures, 29);
}

#[test]
fn http2_under_tls_is_counted_within_3_percent_or_says_that_it_may_not_be() {
    let mut captures = 0;
    for (name, truth) in truths().iter().filter(|(_, truth)| truth.protocol == "h2") {
        let exchanges = replay(name);
        captures += 1;
        assert!(exchanges.iter().all(|exchange| exchange.accuracy == "estimated"), "{name}");
        let confidence = exchanges.iter().map(|exchange| exchange.confidence.unwrap());
        let confidence = confidence.sum::<f64>() / exchanges.len() as f64;
        // The real client behind nginx, whatever it multiplexes and aborts, against others that end requests or
        // answers in other ways.
        let fits = !name.contains("h2load") && !name.contains("haproxy");
        assert_eq!(fits, confidence >= 0.5, "{name}: {confidence}");
        assert!(off(exchanges.len() as u64, truth.requests) <= 0.03, "{name}: {}", exchanges.len());
        let (logged, counted) = (logged(truth), counted(&exchanges));
        for (client, sums) in &counted {
            // One of the proxies logs no bytes. Of requests what is beyond is window updates in their records.
            let truth = &logged[client];
            assert!(
                truth.answer_bytes == 0 || off(sums.answer_bytes, truth.answer_bytes) <= 0.011,
                "{name}: {sums:?}"
            );
            assert!(
                truth.request_bytes == 0 || off(sums.request_bytes, truth.request_bytes) <= 0.05,
                "{name}: {sums:?}"
            );
        }
    }
    assert_eq!(captures, 6);
}

/// The captures of HTTP/1.1 whose requests the wire tells apart, each request with its exchange.
fn told_apart() -> impl Iterator<Item = (String, Vec<(Request, Exchange)>)> {
    truths()
        .into_iter()
        .filter(|(name, truth)| truth.protocol == "http/1.1" && known(name) == Known::Nothing)
        .map(|(name, truth)| {
            let exchanges = replay(&name);
            (name, pairs(truth.records, exchanges))
        })
}

/// Each request that the proxy has logged with the exchange that is nearest: of its size, if there is one, and of
/// about its start.
fn pairs(requests: Vec<Request>, mut exchanges: Vec<Exchange>) -> Vec<(Request, Exchange)> {
    let mut pairs = Vec::new();
    for request in requests {
        let Some(start) = request.start else { continue };
        let distance = |exchange: &Exchange| {
            let sizes = [
                (exchange.req_bytes, request.req_total_bytes),
                (exchange.resp_bytes, request.resp_total_bytes),
            ];
            let others =
                sizes.iter().filter(|(counted, logged)| logged.is_some_and(|logged| logged != *counted));
            (others.count(), (exchange.start - start).abs())
        };
        let nearest = (0..exchanges.len())
            .min_by(|&a, &b| distance(&exchanges[a]).partial_cmp(&distance(&exchanges[b])).unwrap());
        pairs.push((request, exchanges.remove(nearest.unwrap())));
    }
    pairs
}

#[test]
fn each_request_has_the_sizes_that_the_proxy_logged() {
    let mut compared = 0;
    for (name, pairs) in told_apart() {
        let bound = if name.contains("loss") { 0.01 } else { 0.001 };
        for (request, exchange) in pairs {
            for (counted, logged) in [
                (exchange.req_bytes, request.req_total_bytes),
                (exchange.resp_bytes, request.resp_total_bytes),
            ] {
                let logged = logged.unwrap();
                assert!(off(counted, logged) <= bound, "{name}: {counted} bytes instead of {logged}");
                compared += 1;
            }
        }
    }
    assert!(compared > 600, "{compared}");
}

#[test]
fn heads_inside_tls_are_those_of_the_log_where_they_came_apart_from_bodies() {
    let (mut derived, mut estimated) = ([0, 0], 0);
    for (name, pairs) in told_apart().filter(|(name, _)| name.contains("_tls")) {
        for (request, exchange) in pairs {
            let heads = [
                (
                    exchange.req_head_bytes,
                    exchange.req_head_accuracy,
                    request.req_total_bytes,
                    request.req_body_bytes,
                ),
                (
                    exchange.resp_head_bytes,
                    exchange.resp_head_accuracy,
                    request.resp_total_bytes,
                    request.resp_body_bytes,
                ),
            ];
            for (side, (head, accuracy, total, body)) in heads.into_iter().enumerate() {
                let Some(head) = head else { continue };
                let truth = total.unwrap() - body.unwrap();
                if accuracy.as_deref() == Some("derived") {
                    assert_eq!(head, truth, "{name}");
                    derived[side] += 1;
                } else {
                    assert!(
                        accuracy.as_deref() == Some("estimated") && off(head, truth) <= 0.24,
                        "{name}: {head}"
                    );
                    estimated += 1;
                }
            }
        }
    }
    // Requests of the openai client, streamed answers; refusals beside streamed answers.
    assert!(derived[0] >= 150 && derived[1] >= 80 && estimated >= 5, "{derived:?} {estimated}");
}

#[test]
fn heads_in_clear_text_are_those_of_the_log() {
    let mut compared = 0;
    for (name, pairs) in told_apart().filter(|(name, _)| name.contains("_plain")) {
        for (request, exchange) in pairs {
            let heads = [
                (exchange.req_head_bytes, request.req_total_bytes, request.req_body_bytes),
                (exchange.resp_head_bytes, request.resp_total_bytes, request.resp_body_bytes),
            ];
            for (head, total, body) in heads {
                // Behind a gap a head is not known.
                assert!(head.is_some() || name.contains("loss"), "{name}");
                let truth = total.unwrap() - body.unwrap();
                assert!(head.is_none_or(|head| head == truth), "{name}: {head:?} instead of {truth}");
                compared += u32::from(head.is_some());
            }
        }
    }
    assert!(compared >= 200, "{compared}");
}

#[test]
fn what_is_sent_on_after_an_early_refusal_belongs_to_its_request() {
    let name = "h1_plain_auth401_splitbody.pcap";
    let requests = truths().remove(name).unwrap().records;
    let (mut sent, mut logged) = (Vec::new(), Vec::new());
    for exchange in replay(name) {
        sent.push((exchange.req_head_bytes, exchange.req_bytes, exchange.resp_bytes));
    }
    for request in requests {
        // Of what it did not read the proxy has logged the head alone.
        let (head, body) = (request.req_total_bytes.unwrap(), request.req_body_bytes.unwrap());
        logged.push((Some(head), head + body, request.resp_total_bytes.unwrap()));
    }
    sent.sort_unstable();
    logged.sort_unstable();
    assert_eq!(sent, logged);
}

#[test]
fn times_are_those_of_the_proxys_and_the_clients_logs() {
    let (mut first_bytes, mut durations, mut first_tokens) = (Vec::new(), Vec::new(), Vec::new());
    // What is lost and sent again is late at one end and not at the other, and for the proxy a request that did not
    // wait begins with the answer before it.
    for (_, pairs) in told_apart().filter(|(name, _)| !name.contains("loss") && !name.contains("pipelining"))
    {
        for (request, exchange) in pairs {
            let logged = request.ttfb.and_then(|seconds| seconds.parse::<f64>().ok());
            if let (Some(logged), Some(seen)) = (logged, exchange.ttfb_ms) {
                first_bytes.push((seen - logged * 1e3).abs());
            }
            durations.push((exchange.duration_ms - request.duration.unwrap() * 1e3).abs());
            if let (Some(logged), Some(seen)) = (request.client_log.and_then(|log| log.tc), exchange.ttft_ms)
            {
                first_tokens.push((exchange.start * 1e3 + seen - logged * 1e3).abs());
            }
        }
    }
    let times = [
        ("time to first byte", first_bytes, 5.0),
        ("duration", durations, 5.0),
        ("time to first token", first_tokens, 15.0),
    ];
    for (what, differences, bound) in times {
        assert!(differences.len() >= 50, "{what}: only {} differences", differences.len());
        let most = percentile_95(differences);
        assert!(most <= bound, "95 % of the differences of {what} are at most {most} ms");
    }
}

fn percentile_95(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() * 95 / 100]
}

#[test]
fn answers_that_a_cap_ended_are_told_from_those_that_ended_by_themselves() {
    let capped = replay("h1_tls13_maxtokens_sat64.pcap");
    // The proxy refused two of twelve, which cannot be compared with the others.
    let truncated = capped.iter().filter(|exchange| exchange.truncated == Some(true)).count();
    assert!(capped.len() == 12 && truncated >= 9, "{truncated} of {}", capped.len());
    assert!(
        capped
            .iter()
            .filter(|exchange| exchange.resp_bytes < 1000)
            .all(|refused| refused.truncated.is_none())
    );
    let natural = replay("h1_tls13_maxtokens_natural.pcap");
    assert!(natural.len() == 8 && natural.iter().all(|exchange| exchange.truncated == Some(false)));
}

#[test]
fn an_exchange_has_every_field_that_readers_rely_on() {
    let output = Command::new(binary::path("hydrometer").unwrap())
        .arg("replay")
        .arg(folder().join("h1_tls13_stream_c8.pcap"))
        .args(["--service", "8443", "--exchanges", "-o", "json"])
        .output()
        .unwrap();
    let first = String::from_utf8(output.stdout).unwrap();
    let line: serde_json::Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    let mut names: Vec<_> = line.as_object().unwrap().keys().cloned().collect();
    names.sort();
    let mut promised = [
        "start",
        "client",
        "client_identity",
        "port",
        "flow",
        "req_bytes",
        "resp_bytes",
        "req_head_bytes",
        "req_head_accuracy",
        "resp_head_bytes",
        "resp_head_accuracy",
        "ttfb_ms",
        "ttft_ms",
        "duration_ms",
        "records",
        "record_median",
        "protocol",
        "accuracy",
        "truncated",
        "ja4",
        "tcp_rtt_ms",
        "tls_rtt_ms",
    ];
    promised.sort_unstable();
    assert_eq!(names, promised);
    assert_eq!((line["client"].as_str(), line["port"].as_u64()), (Some("10.77.0.2"), Some(8443)));
    assert_eq!(line["ja4"], "t13i1811h1_85036bcba153_d41ae481755e");
}
