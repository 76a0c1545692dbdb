//! How many packets a second `hydrometer replay` reads from a file: established TLS flows that take turns packet by
//! packet, which is the worst for caches. The yardstick is reading the same file without looking at the frames.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hydrometer_agent::replay::pcap::{self, Contents};
use hydrometer_tests::{
    binary,
    capture::{self, Order, link},
    frames::{Tcp, flags, tls_record},
};
use serde::Deserialize;

const PORT: u16 = 8443;
const FLOWS: u16 = 1000;
/// Questions of each flow.
const TURNS: u32 = 40;
/// Records, a segment each, of an answer; the client acknowledges every other.
const RECORDS: u32 = 32;
const QUESTION: usize = 900;
/// Of a record: with it a segment has 504 bytes, as in the bench of the programs.
const CONTENT: usize = 504 - 54 - 22;
const SNAPLEN: usize = 1 << 18;
const ROUNDS: u32 = 3;
/// Packets a second on one core that have to be reached.
const LEAST: f64 = 1.5e6;

/// Measures, prints and judges.
pub(crate) fn run() -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let path = folder.path().join("flows.pcap");
    let packets = generate(&path)?;
    let program = binary::path("hydrometer")?;
    let (mut reading, mut replaying) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let contents = pcap::read(&path, |_| ())?;
        reading = reading.min(begun.elapsed());
        ensure!(contents == Contents { frames: packets, ..Contents::default() }, "{contents:?}");
        let begun = Instant::now();
        let clients = replay(&program, &path)?;
        replaying = replaying.min(begun.elapsed());
        check(&clients)?;
    }
    let rate = packets as f64 / replaying.as_secs_f64();
    let ratio = replaying.as_secs_f64() / reading.as_secs_f64();
    println!("replay of TLS flows {:>17.2} M packets/s {ratio:>5.2}x reading the file", rate / 1e6);
    ensure!(rate >= LEAST, "replay reads {rate:.0} packets a second, fewer than {LEAST:.0}");
    Ok(())
}

/// A client, as `hydrometer replay -o json` prints it.
#[derive(Debug, Deserialize)]
struct Client {
    requests: u32,
    req_bytes: usize,
    resp_bytes: usize,
    accuracy: String,
}

fn replay(program: &Path, capture: &Path) -> Result<Vec<Client>> {
    let mut command = Command::new(program);
    command.arg("replay").arg(capture).args(["--service", &PORT.to_string(), "-o", "json"]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run hydrometer replay")?;
    ensure!(output.status.success(), "hydrometer replay failed");
    serde_json::from_slice(&output.stdout).context("cannot read what hydrometer replay prints")
}

/// What was measured must have been what was meant: every question and every byte.
fn check(clients: &[Client]) -> Result<()> {
    ensure!(clients.len() == usize::from(FLOWS), "{} clients", clients.len());
    for client in clients {
        let right = client.requests == TURNS
            && client.req_bytes == TURNS as usize * QUESTION
            && client.resp_bytes == (TURNS * RECORDS) as usize * CONTENT
            && client.accuracy == "derived";
        ensure!(right, "{client:?}");
    }
    Ok(())
}

/// Writes the capture; returns how many packets it has.
fn generate(path: &Path) -> Result<u64> {
    let mut file =
        BufWriter::new(File::create(path).with_context(|| format!("cannot create {}", path.display()))?);
    file.write_all(&capture::pcap(Order::Little, true, link::ETHERNET, SNAPLEN, &[]))?;
    let (question, record) = (tls_record(QUESTION), tls_record(CONTENT));
    let mut seqs = [1_000_u32, 5_000];
    let mut time = 1_700_000_000_000_000_000_u64;
    let mut packets = 0;
    let mut all = |asks: bool, payload: &[u8]| -> Result<()> {
        for flow in 0..FLOWS {
            let client: (IpAddr, u16) = (Ipv4Addr::from_bits(0x0a01_0000 + u32::from(flow)).into(), 40_000);
            let server = ([10, 0, 0, 1].into(), PORT);
            let (source, destination) = if asks { (client, server) } else { (server, client) };
            let flags = if payload.is_empty() { flags::ACK } else { flags::ACK | flags::PSH };
            let tcp = Tcp {
                source,
                destination,
                seq: seqs[usize::from(asks)],
                flags,
                vlans: Vec::new(),
                payload: payload.to_vec(),
            };
            time += 1_000;
            packets += 1;
            file.write_all(&capture::record(Order::Little, 1_000_000_000, time, SNAPLEN, &tcp.frame()))?;
        }
        seqs[usize::from(asks)] += payload.len() as u32;
        Ok(())
    };
    for _ in 0..TURNS {
        all(true, &question)?;
        for number in 0..RECORDS {
            all(false, &record)?;
            if number % 2 == 1 {
                all(true, &[])?;
            }
        }
    }
    file.flush()?;
    Ok(packets)
}
