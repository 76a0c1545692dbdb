//! What a million flows of a million clients cost: memory (`memory.rs`), and entering and finding one of them as against
//! one of a thousand. Needs root.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use hydrometer_agent::{kernel::Sizes, traffic::Traffic};
use hydrometer_ebpf::abi::Counter;
use hydrometer_engine::Service;
use hydrometer_tests::{
    frames::{Tcp, flags, tls_record},
    programs::{Programs, bench},
};

use super::memory;

/// Of the service.
pub(crate) const PORT: u16 = 8443;
pub(crate) const MILLION: u32 = 1_000_000;
const THOUSAND: u32 = 1_000;
/// As many flows as may begin before their clients have shown that they are there.
const AT_ONCE: u32 = 100_000;
/// Places for them. An LRU map hands each core a batch of its free places, and evicts as soon as there is no whole
/// batch left to hand out: so it evicts before it is full, and holds all of a million only with room for more.
pub(crate) const PLACES: u32 = MILLION + MILLION / 64;
/// As by default.
pub(crate) const STREAMS: u32 = 16_384;
pub(crate) const RING: u32 = 8 << 20;

/// Measures, prints and judges.
pub(crate) fn run() -> Result<()> {
    memory::run()?;
    let (many, few) = (Costs::measure(MILLION)?, Costs::measure(THOUSAND)?);
    for (what, many, few) in
        [("entering", many.entering, few.entering), ("finding", many.finding, few.finding)]
    {
        let (many, few) = (many.as_nanos() as f64, few.as_nanos() as f64);
        println!("{what:<8} one of a million {many:>14.1} ns  {:>5.2}x one of a thousand", many / few);
    }
    Ok(())
}

fn load() -> Result<Programs> {
    let services = [Service { address: None, port: PORT }];
    let sizes = Sizes { flows: PLACES, clients: PLACES, streams: STREAMS, ring: RING };
    Programs::load_sized(bench(), &services, &Traffic::default(), sizes)
}

/// What one flow with its client costs.
struct Costs {
    entering: Duration,
    finding: Duration,
}

impl Costs {
    /// Of `count` of them. Every one must be there in the end.
    fn measure(count: u32) -> Result<Self> {
        let mut programs = load()?;
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
