//! QUIC: JA4 is what ja4plus tells, HTTP/3 requests are counted as their ends count them, and their figures are
//! close and called estimated. The kernel gives what the library gives. The last two tests need root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hydrometer_agent::replay::{Captured, Replay, pcap};
use hydrometer_ebpf::{
    abi::{Counter, ExchangeEvent},
    hello::HelloEvent,
    packet::{Direction, parse},
};
use hydrometer_engine::Service;
use hydrometer_tests::{
    agent::{self, Agent},
    binary, net,
    net::Network,
    nginx,
    process::{Process, wait_for},
    programs::{Programs, product},
    python,
};
use serde::Deserialize;
use tempfile::TempDir;

/// What the ends of a conversation know.
#[derive(Deserialize)]
struct Truth {
    ja4: String,
    requests: Vec<Request>,
}

#[derive(Deserialize)]
struct Request {
    asked: u64,
    answered: u64,
    /// Times in seconds: the request's last byte is there, the answer begins, it ends.
    end: f64,
    first: f64,
    last: f64,
}

/// One exchange, as `hydrometer replay` prints it.
#[derive(Debug, Deserialize)]
struct Exchange {
    req_bytes: u64,
    resp_bytes: u64,
    ttfb_ms: Option<f64>,
    duration_ms: f64,
    protocol: String,
    accuracy: String,
    ja4: Option<String>,
}

/// Heads, and what QUIC and HTTP/3 say beside, bytes.
const HEAD: u64 = 300;

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn replay(capture: &Path) -> Vec<Exchange> {
    let mut command = Command::new(binary::path("hydrometer").unwrap());
    command.arg("replay").arg(capture).args(["--service", "8443", "--exchanges", "-o", "json"]);
    run(&mut command).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Captures between two aioquic ends, and what those know.
fn conversations() -> (TempDir, BTreeMap<String, Truth>) {
    let folder = tempfile::tempdir().unwrap();
    let mut write = Command::new(python::interpreter().unwrap());
    run(write.arg(python::script("quic_captures.py")).arg(folder.path()));
    let truth = fs::read_to_string(folder.path().join("truth.json")).unwrap();
    (folder, serde_json::from_str(&truth).unwrap())
}

fn assert_close(what: &str, counted: u64, truth: u64) {
    let off = counted.abs_diff(truth);
    assert!(off <= HEAD + truth / 20, "{what}: {counted} instead of {truth}");
}

#[test]
fn requests_between_aioquic_ends_are_all_found_and_their_figures_are_close() {
    let (folder, truths) = conversations();
    assert_eq!(truths.len(), 7);
    for (name, truth) in truths {
        let exchanges = replay(&folder.path().join(format!("{name}.pcap")));
        assert_eq!(exchanges.len(), truth.requests.len(), "{name}: {exchanges:?}");
        for (exchange, request) in exchanges.iter().zip(&truth.requests) {
            assert_eq!(exchange.ja4.as_ref(), Some(&truth.ja4), "{name}");
            assert_eq!((&*exchange.protocol, &*exchange.accuracy), ("quic", "estimated"), "{name}");
            assert_close(&format!("{name}, asked"), exchange.req_bytes, request.asked);
            assert_close(&format!("{name}, answered"), exchange.resp_bytes, request.answered);
            // A head that the other end has in its table is too short to be seen: then the body shows.
            let first = (request.first - request.end) * 1e3;
            assert!((exchange.ttfb_ms.unwrap() - first).abs() <= 25.0, "{name}: {exchange:?}, {first} ms");
            let duration = (request.last - request.end) * 1e3;
            assert!((exchange.duration_ms - duration).abs() <= 25.0, "{name}: {exchange:?}, {duration} ms");
        }
    }
}

/// Caddy probes how long a datagram may be, after the handshake and while it answers; aioquic asks it eight times.
#[test]
fn probes_of_a_real_server_are_no_answers() {
    let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/http3_caddy.pcap");
    let exchanges = replay(&capture);
    let asked = [300, 5000, 800, 40_000, 200, 1500, 100, 60_000];
    assert_eq!(exchanges.len(), asked.len());
    for (exchange, asked) in exchanges.iter().zip(asked) {
        assert_close("asked", exchange.req_bytes, asked);
        assert_close("answered", exchange.resp_bytes, 4800);
        assert!((50.0..60.0).contains(&exchange.ttfb_ms.unwrap()), "{exchange:?}");
        assert_eq!(exchange.ja4.as_deref(), Some("q13d0307h3_55b375c5d22e_1cecd519fee8"));
    }
}

/// What is compared: everything but times.
type Account = (Vec<ExchangeEvent>, Vec<(HelloEvent, Vec<u8>)>, u64);

fn account(exchanges: Vec<ExchangeEvent>, hellos: Vec<(HelloEvent, Vec<u8>)>, watched: u64) -> Account {
    let timeless = |event: ExchangeEvent| ExchangeEvent {
        flow_start: 0,
        start: 0,
        request_end: 0,
        first: event.first.min(1),
        second: event.second.min(1),
        last: event.last.min(1),
        ..event
    };
    let undated = |(event, bytes)| (HelloEvent { flow_start: 0, ..event }, bytes);
    (exchanges.into_iter().map(timeless).collect(), hellos.into_iter().map(undated).collect(), watched)
}

#[test]
fn datagrams_give_the_same_in_the_kernel_and_natively() {
    let (folder, truths) = conversations();
    let paths: Vec<PathBuf> = truths.keys().map(|name| folder.path().join(format!("{name}.pcap"))).collect();
    for (path, program) in paths.iter().zip(["hyd_ingress", "hyd_frags"].iter().cycle()) {
        let services = [Service { address: None, port: 8443 }];
        let mut kernel = Programs::load(product(), &services).unwrap();
        let mut native = Replay::new(&services);
        pcap::read(path, |frame: &Captured<'_>| {
            let watched = |port: u16| port == 8443_u16.to_be();
            if parse(frame, Direction::Egress, watched).is_ok() {
                kernel.tc("hyd_egress", frame.bytes, 1).unwrap();
            } else {
                kernel.xdp(program, frame.bytes, 1).unwrap();
            }
            native.captured(frame);
        })
        .unwrap();
        let watched = Counter::IngressWatched as usize;
        let counted = kernel.counters().unwrap()[watched];
        let in_kernel = account(kernel.drain(), kernel.hellos(), counted);
        let natively = account(native.drain(), native.hellos(), native.counters()[watched]);
        assert_eq!(in_kernel, natively, "{}", path.display());
        assert!(!natively.0.is_empty() && !natively.1.is_empty(), "{}", path.display());
    }
}

#[test]
fn a_live_client_over_http3_has_its_requests_and_its_ja4() {
    let network = Network::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let limit = Duration::from_mins(1);
    // Nothing says that a QUIC connection is over.
    let quiet = ["--quiet".to_owned(), "1s".to_owned()];
    let agent =
        Agent::start(network.server(), folder.path(), [&agent::usual_arguments()[..], &quiet].concat())
            .unwrap();
    for address in [IpAddr::from(network.first_client().v4), network.first_client().v6.into()] {
        let server_address = net::server_for(address).to_string();
        let port = nginx::PORT.to_string();
        let mut serve = network.server().command(python::interpreter().unwrap());
        serve.arg(python::script("http3.py")).args(["serve", &server_address, &port]);
        let name = format!("server-{address}");
        let mut server = Process::spawn(&name, serve, folder.path()).unwrap();
        server.ready(limit, |server| server.output().contains("listening").then_some(())).unwrap();
        let mut ask = network.client().command(python::interpreter().unwrap());
        ask.arg(python::script("http3.py")).args(["ask", &server_address, &port]);
        ask.args([
            "400/2400/10",
            "9000/12000/1",
            "700/2400/10",
            "30000/900/3",
            "300/250/1",
            "1500/24000/100",
        ]);
        let mut client = Process::spawn(&format!("client-{address}"), ask, folder.path()).unwrap();
        client.succeed(limit).unwrap();
        let seen = wait_for("the exchanges", limit, || {
            let client = agent.client_in_depth(address)?;
            Ok((client.exchanges.len() >= 6).then_some(client))
        })
        .unwrap();
        assert_eq!(seen.exchanges.len(), 6);
        let (mut asked, mut answered) = (0, 0);
        for exchange in &seen.exchanges {
            asked += exchange.request_bytes;
            answered += exchange.answer_bytes;
        }
        assert_close("asked", asked, 41_900 + 6 * HEAD / 2);
        assert_close("answered", answered, 41_950);
        // By address, so without a name.
        let ja4 = seen.client.unwrap().ja4;
        assert!(ja4.len() == 1 && ja4[0].starts_with("q13i"), "{ja4:?}");
    }
}
