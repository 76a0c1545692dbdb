//! What a million flows of a million clients cost: kernel memory, and entering and finding one of them as against
//! one of a thousand. Needs root. Fails when the memory is more than it may be.

use std::{fs, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hydrometer_agent::traffic::Traffic;
use hydrometer_ebpf::abi::Counter;
use hydrometer_engine::Service;
use hydrometer_tests::{
    frames::{Tcp, flags, tls_record},
    programs::{Programs, bench},
};

const PORT: u16 = 8443;
const MILLION: u32 = 1_000_000;
const THOUSAND: u32 = 1_000;
/// As many flows as may begin before their clients have shown that they are there.
const AT_ONCE: u32 = 100_000;
/// The ring buffer's bytes, as by default.
const RING: u32 = 8 << 20;
/// The most that all maps may take, bytes.
const CEILING: u64 = 640 << 20;

/// Measures, prints and judges.
pub(crate) fn run() -> Result<()> {
    let services = [Service { address: None, port: PORT }];
    let before = memory()?;
    let mut programs = Programs::load_sized(bench(), &services, RING, &Traffic::default(), MILLION)?;
    let took = memory()? - before;
    println!("a million flows and clients       {:>6.1} MiB in all maps", took as f64 / f64::from(1 << 20));
    let entering = enter(&mut programs, MILLION)?;
    let finding = find(&mut programs, MILLION)?;
    let counters = programs.counters()?;
    let entered = counters[Counter::FlowEntered as usize];
    ensure!(entered == u64::from(MILLION), "{entered} flows were entered");
    ensure!(counters[Counter::NewcomerDisplaced as usize] == 0, "newcomers were displaced");
    let clients = counters[Counter::ClientEntered as usize];
    // Each core keeps some entries free, so a map that is full to the last has evicted a few, who come back.
    let twice = clients.saturating_sub(u64::from(MILLION));
    ensure!(twice < u64::from(MILLION / THOUSAND), "{clients} clients were entered");
    let mut few = Programs::load_sized(bench(), &services, RING, &Traffic::default(), MILLION)?;
    let entering_few = enter(&mut few, THOUSAND)?;
    let finding_few = find(&mut few, THOUSAND)?;
    for (what, many, few) in [("entering", entering, entering_few), ("finding", finding, finding_few)] {
        let (many, few) = (many.as_nanos(), few.as_nanos());
        println!(
            "{what:<10} one of a million {many:>6} ns  {:>5.2}x one of a thousand",
            many as f64 / few as f64
        );
    }
    ensure!(took <= CEILING, "the maps take {took} bytes, more than {CEILING}");
    Ok(())
}

/// Enters `count` flows, each of a client of its own: a question and the end of the server's answer. Returns what
/// one took, by the kernel's clock: preparing a run takes long.
fn enter(programs: &mut Programs, count: u32) -> Result<Duration> {
    let mut took = Duration::ZERO;
    for first in (0..count).step_by(AT_ONCE as usize) {
        let some = AT_ONCE.min(count - first);
        let asked = segment(true, first, flags::ACK, tls_record(100));
        let answered = segment(false, first, flags::FIN | flags::ACK, tls_record(100));
        let (_, asking) = programs.xdp("ingress_client", &asked, some)?;
        let (_, answering) = programs.tc("egress_client", &answered, some)?;
        took += (asking + answering) * some;
        programs.drain();
    }
    Ok(took / count)
}

/// Sends an acknowledgement of each of `count` flows. Returns what one took.
fn find(programs: &mut Programs, count: u32) -> Result<Duration> {
    let acknowledgement = segment(true, 0, flags::ACK, Vec::new());
    // The first after the proof tells the client's entry.
    programs.xdp("ingress_client", &acknowledgement, count)?;
    Ok(programs.xdp("ingress_client", &acknowledgement, count)?.1)
}

/// A segment of the flow of the client that comes after this one: the program goes on to it.
fn segment(asks: bool, client: u32, flags: u8, payload: Vec<u8>) -> Vec<u8> {
    let client: (IpAddr, u16) = (std::net::Ipv4Addr::from_bits(0x0b00_0000 + client).into(), 40_000);
    let server: (IpAddr, u16) = ([10, 0, 0, 1].into(), PORT);
    let (source, destination) = if asks { (client, server) } else { (server, client) };
    Tcp { source, destination, seq: 1000, flags, vlans: Vec::new(), payload }.frame()
}

/// Kernel memory of all maps that this process holds, bytes.
fn memory() -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir("/proc/self/fdinfo").context("cannot list descriptors")? {
        // The descriptor of the listing itself is gone by now.
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        if info.contains("map_type:") {
            let memory = info.lines().find_map(|line| line.strip_prefix("memlock:"));
            total += memory.and_then(|memory| memory.trim().parse().ok()).unwrap_or(0);
        }
    }
    Ok(total)
}
