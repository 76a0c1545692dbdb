//! What a million flows of a million clients take in memory: kernel maps, and what the agent keeps beside them. The
//! agent's own kernel side runs here as it is, and reads what its programs make of a million handshakes and questions.
//! The engine, which has a budget of its own (`engine.rs`), is left out. Needs root.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, loaded_programs};
use hydrometer_agent::{
    kernel::{AttachOptions, FlowWalk, Kernel, KernelOptions, Progress, Selection, map_memory},
    status::process_bytes,
    traffic::Traffic,
};
use hydrometer_engine::{ClientId, Exchange, RoundTrips, Service};
use hydrometer_tests::frames::{Tcp, flags, tls_record};

use super::tables::{MILLION, PLACES, PORT, RING, STREAMS};

/// The most that a million flows and clients may take, bytes.
const CEILING: u64 = 640 << 20;
/// Different ClientHellos.
const STACKS: u32 = 1 << 14;
/// The first of their cipher suites: behind those that have names. A few among them are GREASE and count for nothing.
const FIRST_SUITE: u16 = 0x4000;
/// Flows whose begins the ring buffer holds for sure.
const AT_ONCE: u32 = 1_000;
/// Sweeps until all flows have been seen, at the latest.
const SWEEPS: u32 = 64;

/// Measures, prints and judges.
pub(crate) fn run() -> Result<()> {
    let resident = || process_bytes().context("cannot read this process's memory");
    let before = (map_memory()?, resident()?);
    let mut host = Host::load()?;
    let mut seen = Seen::default();
    for first in (0..MILLION).step_by(AT_ONCE as usize) {
        for client in first..(first + AT_ONCE).min(MILLION) {
            host.converse(client)?;
        }
        host.kernel.drain(|exchange| seen.take(&exchange));
    }
    for _ in 0..SWEEPS {
        host.kernel.sweep(Duration::ZERO, |exchange| seen.take(&exchange));
        host.kernel.sweep_clients(|_| false);
    }
    let (walk_took, found) = host.flows_of(MILLION / 2)?;
    let status = host.kernel.status()?;
    let (maps, agent) = (map_memory()? - before.0, resident()? - before.1);
    let line = |bytes: u64, what: &str| println!("{:>10.1} MiB {what}", bytes as f64 / f64::from(1 << 20));
    println!("a million flows and clients take");
    line(maps, "in all maps");
    line(agent, &format!("in the agent without its engine: {} bytes a flow", agent / u64::from(MILLION)));
    for table in &status.tables {
        line(table.memory_bytes, &format!("of them for {} {}", table.entries, table.name));
    }
    line(maps + agent, "in all");
    println!("finding a client's flows among them takes {walk_took:.0?}");
    for loss in status.losses.iter().filter(|loss| loss.count > 0) {
        println!("{}: {}", loss.stage, loss.count);
    }
    ensure!(found == 1, "a client has {found} flows");
    let all = Seen { exchanges: u64::from(MILLION), whole: u64::from(MILLION) };
    ensure!(seen == all, "of a million exchanges {seen:?}");
    ensure!(maps + agent <= CEILING, "maps and agent take {} bytes, more than {CEILING}", maps + agent);
    Ok(())
}

/// What came out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    exchanges: u64,
    /// Of those, how many with JA4 and both round trips.
    whole: u64,
}

impl Seen {
    fn take(&mut self, exchange: &Exchange) {
        self.exchanges += 1;
        let RoundTrips { tcp, tls } = exchange.round_trips;
        self.whole += u64::from(exchange.ja4.is_some() && tcp.is_some() && tls.is_some());
    }
}

/// The agent's kernel side, and two of its programs.
struct Host {
    kernel: Kernel,
    ingress: SchedClassifier,
    egress: SchedClassifier,
}

impl Host {
    fn load() -> Result<Self> {
        let kernel = Kernel::load(&KernelOptions {
            services: vec![Service { address: None, port: PORT }],
            max_flows: PLACES,
            max_clients: PLACES,
            // With the engine's.
            known_clients: 1,
            max_streams: STREAMS,
            traffic: Traffic::default(),
            ring_bytes: RING,
            log_level: None,
            interfaces: Selection::default(),
            attach: AttachOptions::default(),
            pin: false,
        })?;
        let programs = kernel.status()?.programs;
        let program = |name: &'static str| -> Result<SchedClassifier> {
            let ours = programs.iter().find(|program| program.name == name);
            let id = ours.with_context(|| format!("there is no program {name}"))?.id;
            let is_ours = |info: &ProgramInfo| info.id() == id;
            let info = loaded_programs().filter_map(Result::ok).find(is_ours);
            let info = info.with_context(|| format!("the kernel does not show {name}"))?;
            Ok(SchedClassifier::from_program_info(info, name.into())?)
        };
        let (ingress, egress) = (program("hyd_tc_ingress")?, program("hyd_egress")?);
        Ok(Self { kernel, ingress, egress })
    }

    /// How long it takes to find the flows of a client, and how many there are.
    fn flows_of(&self, client: u32) -> Result<(Duration, usize)> {
        let began = Instant::now();
        let id = ClientId::V4(address(client));
        let mut walk = FlowWalk::new(&id, 2).context("the kernel knows no such clients")?;
        while self.kernel.walk_flows(&mut walk)? == Progress::More {}
        Ok((began.elapsed(), walk.found().len()))
    }

    /// A TLS handshake of a client, a question, and its answer.
    fn converse(&mut self, client: u32) -> Result<()> {
        let asked = [tls_record(36), tls_record(900)].concat();
        let answered = [tls_record(300), tls_record(2000)].concat();
        let mut next = Next { client: 1000, server: 2000 };
        for (from, flags, payload) in [
            (Side::Client, flags::SYN, Vec::new()),
            (Side::Server, flags::SYN | flags::ACK, Vec::new()),
            (Side::Client, flags::ACK, Vec::new()),
            (Side::Client, flags::ACK | flags::PSH, client_hello(client % STACKS)),
            (Side::Server, flags::ACK | flags::PSH, server_hello()),
            (Side::Client, flags::ACK | flags::PSH, asked),
            (Side::Server, flags::ACK | flags::PSH, answered),
        ] {
            let frame = next.segment(from, client, flags, payload);
            let options = TestRunOptions { data_in: Some(&frame), repeat: 1, ..TestRunOptions::new() };
            let program = match from {
                Side::Client => &self.ingress,
                Side::Server => &self.egress,
            };
            program.test_run(options)?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

/// Sequence numbers of what each side sends next.
struct Next {
    client: u32,
    server: u32,
}

impl Next {
    /// What `from` sends next on the connection of this client.
    fn segment(&mut self, from: Side, client: u32, flags: u8, payload: Vec<u8>) -> Vec<u8> {
        let client: (IpAddr, u16) = (address(client).into(), 40_000);
        let server: (IpAddr, u16) = ([10, 0, 0, 1].into(), PORT);
        let len = payload.len() as u32 + u32::from(flags & flags::SYN != 0);
        let (source, destination, seq, ack) = match from {
            Side::Client => (client, server, &mut self.client, self.server),
            Side::Server => (server, client, &mut self.server, self.client),
        };
        let segment = Tcp { source, destination, seq: *seq, flags, vlans: Vec::new(), payload };
        *seq += len;
        segment.acknowledging(ack)
    }
}

fn address(client: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0b00_0000 + client)
}

/// A ClientHello of TLS 1.2 that offers this cipher suite, in a record of its own. What the length of a list is
/// stands before it (RFC 5246 section 7.4.1.2).
fn client_hello(suite: u32) -> Vec<u8> {
    let suite = (suite as u16 + FIRST_SUITE).to_be_bytes();
    handshake(1, &[&[3, 3][..], &[7; 32], &[0, 0, 2], &suite, &[1, 0]].concat())
}

/// A ServerHello of TLS 1.2 in a record of its own.
fn server_hello() -> Vec<u8> {
    handshake(2, &[&[3, 3][..], &[7; 32], &[0, 0xc0, 0x2f, 0]].concat())
}

/// A message of the TLS handshake (RFC 5246 section 7.4).
fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let message = [&[kind, 0, 0, body.len() as u8][..], body].concat();
    [&[22, 3, 3, 0, message.len() as u8][..], &message].concat()
}
