//! What a million flows of a million clients cost: kernel memory, and entering and finding one of them as against
//! one of a thousand. Needs root. Fails when the memory is more than it may be.

use std::{fs, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hydrometer_agent::{kernel::Sizes, traffic::Traffic};
use hydrometer_ebpf::abi::Counter;
use hydrometer_engine::Service;
use hydrometer_tests::{
    frames::{Tcp, flags, tls_record},
    programs::{Programs, bench, product},
};

const PORT: u16 = 8443;
const MILLION: u32 = 1_000_000;
const THOUSAND: u32 = 1_000;
/// As many flows as may begin before their clients have shown that they are there.
const AT_ONCE: u32 = 100_000;
/// Places for them. An LRU map hands each core a batch of its free places, and evicts as soon as there is no whole
/// batch left to hand out: so it evicts before it is full, and holds all of a million only with room for more.
const PLACES: u32 = MILLION + MILLION / 64;
/// As by default.
const STREAMS: u32 = 16_384;
const RING: u32 = 8 << 20;
/// The most that all maps may take, bytes.
const CEILING: u64 = 640 << 20;

/// Measures, prints and judges.
pub(crate) fn run() -> Result<()> {
    let before = memory()?;
    let loaded = load(product())?;
    let took = memory()? - before;
    drop(loaded);
    println!("a million flows and clients {:>12.1} MiB in all maps", took as f64 / f64::from(1 << 20));
    let (many, few) = (Costs::measure(MILLION)?, Costs::measure(THOUSAND)?);
    for (what, many, few) in
        [("entering", many.entering, few.entering), ("finding", many.finding, few.finding)]
    {
        let (many, few) = (many.as_nanos() as f64, few.as_nanos() as f64);
        println!("{what:<8} one of a million {many:>14.1} ns  {:>5.2}x one of a thousand", many / few);
    }
    ensure!(took <= CEILING, "the maps take {took} bytes, more than {CEILING}");
    Ok(())
}

fn load(object: &[u8]) -> Result<Programs> {
    let services = [Service { address: None, port: PORT }];
    let sizes = Sizes { flows: PLACES, clients: PLACES, streams: STREAMS, ring: RING };
    Programs::load_sized(object, &services, &Traffic::default(), sizes)
}

/// What one flow with its client costs.
struct Costs {
    entering: Duration,
    finding: Duration,
}

impl Costs {
    /// Of `count` of them. Every one must be there in the end.
    fn measure(count: u32) -> Result<Self> {
        let mut programs = load(bench())?;
        let costs = Self { entering: enter(&mut programs, count)?, finding: find(&mut programs, count)? };
        let counters = programs.counters()?;
        for (counter, expected) in
            [(Counter::FlowEntered, count), (Counter::ClientEntered, count), (Counter::NewcomerDisplaced, 0)]
        {
            let counted = counters[counter as usize];
            ensure!(counted == u64::from(expected), "{} is {counted} of {count}", counter.name());
        }
        Ok(costs)
    }
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
