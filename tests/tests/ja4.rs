//! JA4 is what an independent implementation, ja4plus, makes of the same ClientHello: in captures of real
//! traffic, in conversations whose ClientHello is hard to put together, and live. The last needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hydrometer_tests::{
    agent::{self, Agent},
    binary,
    net::SERVER_INTERFACE,
    nginx::Security,
    openai::{Behaviour, KeepAlive},
    process::{Process, wait_for},
    python,
    stack::Stack,
};
use serde::Deserialize;

/// One connection, as ja4plus sees it.
#[derive(Deserialize)]
struct Told {
    client: String,
    ja4: String,
}

/// One exchange, as `hydrometer replay` prints it.
#[derive(Deserialize)]
struct Exchange {
    flow: u64,
    ja4: Option<String>,
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn lines<T: for<'de> Deserialize<'de>>(text: &str) -> Vec<T> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn replay(capture: &Path) -> Vec<Exchange> {
    let mut command = Command::new(binary::path("hydrometer").unwrap());
    command.arg("replay").arg(capture);
    lines(&output(command.args(["--service", "8443,8444,8445,9443", "--exchanges", "-o", "json"])))
}

/// How many connections have which fingerprint.
fn counted<'a>(fingerprints: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for fingerprint in fingerprints {
        *counts.entry(fingerprint).or_default() += 1;
    }
    counts
}

fn tls_captures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcaps");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut captures: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pcap"))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("tls1")))
        .collect();
    captures.sort();
    captures
}

#[test]
fn every_connection_of_the_captures_has_the_ja4_that_ja4plus_gives() {
    let captures = tls_captures();
    assert_eq!(captures.len(), 27);
    for capture in captures {
        let told =
            output(Command::new(python::interpreter().unwrap()).arg(python::script("ja4.py")).arg(&capture));
        let told: Vec<Told> = lines(&told);
        assert!(!told.is_empty(), "{}", capture.display());
        let exchanges = replay(&capture);
        assert!(exchanges.iter().all(|exchange| exchange.ja4.is_some()), "{}", capture.display());
        let flows: BTreeMap<u64, &str> =
            exchanges.iter().map(|exchange| (exchange.flow, exchange.ja4.as_deref().unwrap())).collect();
        let ours = counted(flows.into_values());
        assert_eq!(ours, counted(told.iter().map(|told| told.ja4.as_str())), "{}", capture.display());
    }
}

#[test]
fn hellos_are_put_together_whatever_way_they_come() {
    let folder = tempfile::tempdir().unwrap();
    output(
        Command::new(python::interpreter().unwrap())
            .arg(python::script("hello_captures.py"))
            .arg(folder.path()),
    );
    let expected = fs::read_to_string(folder.path().join("ja4.json")).unwrap();
    let expected: BTreeMap<String, String> = serde_json::from_str(&expected).unwrap();
    assert_eq!(expected.len(), 9);
    for (name, ja4) in expected {
        let exchanges = replay(&folder.path().join(format!("{name}.pcap")));
        let found: Vec<_> = exchanges.into_iter().map(|exchange| exchange.ja4).collect();
        assert_eq!(found.last(), Some(&Some(ja4)), "{name}: {found:?}");
        assert_eq!(found.len(), 2, "{name}");
    }
}

#[test]
fn a_live_client_shows_the_ja4_of_its_hellos() {
    for security in [Security::Tls13, Security::Tls12] {
        let stack = Stack::start(security, 8).unwrap();
        let server = stack.network.server();
        let agent = Agent::start(server, stack.folder(), agent::usual_arguments()).unwrap();
        let mut listen = server.command(python::interpreter().unwrap());
        listen.arg("-u").arg(python::script("ja4.py")).args(["--live", SERVER_INTERFACE]);
        let mut listener = Process::spawn("ja4", listen, stack.folder()).unwrap();
        let limit = Duration::from_mins(1);
        listener.ready(limit, |listener| listener.output().starts_with("listening").then_some(())).unwrap();
        // A connection for every request.
        let asks = Behaviour { requests: Some(6), keep_alive: KeepAlive::No, ..Behaviour::default() };
        let address = IpAddr::from(stack.network.add_client().unwrap().v4);
        stack.client(address, &asks).unwrap().finish(limit).unwrap();
        let told: Vec<Told> = wait_for("every connection to be heard of", limit, || {
            let output = listener.output();
            let told = output.lines().skip(1).map(|line| serde_json::from_str(line).unwrap());
            let told: Vec<Told> = told.filter(|told: &Told| told.client == address.to_string()).collect();
            Ok((told.len() == 6).then_some(told))
        })
        .unwrap();
        let told: BTreeSet<_> = told.into_iter().map(|told| told.ja4).collect();
        let seen = wait_for("the exchanges", limit, || {
            let client = agent.client_in_depth(address)?;
            Ok((client.exchanges.len() == 6).then_some(client))
        })
        .unwrap();
        let shown: BTreeSet<_> = seen.client.unwrap().ja4.into_iter().collect();
        assert_eq!(shown, told, "{security:?}");
    }
}
