//! What the kernel programs cost, in ns a packet, and as ratios to two yardsticks measured in the same run:
//! an empty program, and the floor, which is the plain design (`agent-ebpf/src/floor.rs`). Needs root. Fails when a
//! packet of an established flow costs more than [`CEILING`] says.
//!
//! Each figure is the best of several rounds, taken in turns, so that a disturbance of the machine meets
//! all of them alike.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use hydrometer_ebpf::abi::Counter;
use hydrometer_engine::Service;
use hydrometer_tests::{
    frames::{Tcp, flags, tls_record},
    programs::{Programs, bench},
};

const PORT: u16 = 8443;
const ROUNDS: u32 = 5;
/// Packets a round.
const PACKETS: u32 = 2_000_000;
/// The most that "ingress established" may cost, in floors.
const CEILING: f64 = 1.2;
/// Bytes of the segment that is measured, as in the design's table of costs.
const SEGMENT: usize = 504;

/// One line of the result.
struct Case {
    name: &'static str,
    program: &'static str,
    hook: Hook,
    frame: Vec<u8>,
    best: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hook {
    Xdp,
    Tc,
}

fn main() -> Result<()> {
    let services = [Service { address: None, port: PORT }];
    let mut programs = Programs::load(bench(), &services)?;
    // New flows push old ones out of the maps: they get maps of their own.
    let mut crowded = Programs::load(bench(), &services)?;
    let mut cases = cases();
    prepare(&mut programs)?;
    for _ in 0..ROUNDS {
        for case in &mut cases {
            let programs = if case.name.ends_with("new flow") { &mut crowded } else { &mut programs };
            let (_, took) = match case.hook {
                Hook::Xdp => programs.xdp(case.program, &case.frame, PACKETS)?,
                Hook::Tc => programs.tc(case.program, &case.frame, PACKETS)?,
            };
            case.best = case.best.min(took);
            case.go_on();
        }
    }
    check(&mut programs)?;
    print(&cases)?;
    let cost = best(&cases, "ingress established")? / best(&cases, "floor xdp")?;
    ensure!(
        cost <= CEILING,
        "an established flow's packet costs {cost:.2}x of the floor, more than {CEILING}x"
    );
    Ok(())
}

impl Case {
    /// The next round goes on where this one ended: else it would be of retransmissions.
    fn go_on(&mut self) {
        const SEQUENCE: std::ops::Range<usize> = 38..42;
        let payload = (self.frame.len() - 54) as u32;
        if let Ok(bytes) = <[u8; 4]>::try_from(&self.frame[SEQUENCE]) {
            let seq = u32::from_be_bytes(bytes).wrapping_add(payload.wrapping_mul(PACKETS));
            self.frame[SEQUENCE].copy_from_slice(&seq.to_be_bytes());
        }
    }
}

/// What was measured must have been what was meant: every byte of every segment counted.
fn check(programs: &mut Programs) -> Result<()> {
    let counters = programs.counters()?;
    for &loss in Counter::ALL.iter().filter(|counter| counter.is_loss()) {
        ensure!(counters[loss as usize] == 0, "the programs counted {}: {}", loss.name(), loss.meaning());
    }
    let bytes = u64::from(PACKETS) * u64::from(ROUNDS) * CONTENT as u64;
    for (client_port, asks) in [(ASKING, true), (FRAGS, true), (ANSWERED, false)] {
        programs.drain();
        programs.tc("egress_next", &segment(false, client_port, PORT, flags::FIN, Vec::new()), 1)?;
        let events = programs.drain();
        let [event] = events[..] else {
            bail!("{} exchanges of port {client_port} instead of one", events.len())
        };
        let counted = if asks { event.request_bytes } else { event.answer_bytes };
        ensure!(counted == bytes, "{counted} bytes were counted on port {client_port} instead of {bytes}");
    }
    Ok(())
}

/// A segment of the flow from `client_port`.
fn segment(asks: bool, client_port: u16, port: u16, flags: u8, payload: Vec<u8>) -> Vec<u8> {
    let client: (IpAddr, u16) = ([10, 0, 0, 9].into(), client_port);
    let server: (IpAddr, u16) = ([10, 0, 0, 1].into(), port);
    let (source, destination) = if asks { (client, server) } else { (server, client) };
    Tcp { source, destination, seq: 1000, flags, vlans: Vec::new(), payload }.frame()
}

/// Client ports of the flows that are measured: asking, the same in pieces, being answered.
const ASKING: u16 = 40_000;
const FRAGS: u16 = 40_001;
const ANSWERED: u16 = 40_002;
/// Application bytes of a segment: one record, so that each segment has a header to be found.
const CONTENT: usize = SEGMENT - 54 - 22;

fn cases() -> Vec<Case> {
    let record = tls_record(CONTENT);
    let data = |asks, client_port, port| segment(asks, client_port, port, flags::ACK, record.clone());
    let case = |name, program, hook, frame| Case { name, program, hook, frame, best: Duration::MAX };
    vec![
        case("empty xdp", "empty_xdp", Hook::Xdp, data(true, ASKING, PORT)),
        case("floor xdp", "floor_xdp", Hook::Xdp, data(true, ASKING, PORT)),
        case("ingress established", "ingress_next", Hook::Xdp, data(true, ASKING, PORT)),
        case("ingress established, frags", "frags_next", Hook::Xdp, data(true, FRAGS, PORT)),
        case("ingress new flow", "ingress_new", Hook::Xdp, segment(true, 1, PORT, flags::SYN, Vec::new())),
        case("ingress nobody", "ingress_next", Hook::Xdp, data(true, ASKING, 9)),
        case("empty tc", "empty_tc", Hook::Tc, data(true, ASKING, PORT)),
        case("floor tc", "floor_tc", Hook::Tc, data(true, ASKING, PORT)),
        case("egress established", "egress_next", Hook::Tc, data(false, ANSWERED, PORT)),
        case("egress new flow", "egress_new", Hook::Tc, data(false, 1, PORT)),
        case("egress nobody", "egress_next", Hook::Tc, data(false, ASKING, 9)),
    ]
}

/// Asks the question whose answer is measured.
fn prepare(programs: &mut Programs) -> Result<()> {
    programs.xdp("ingress_next", &segment(true, ANSWERED, PORT, flags::ACK, tls_record(100)), 1)?;
    Ok(())
}

fn print(cases: &[Case]) -> Result<()> {
    let (xdp, tc) = (best(cases, "floor xdp")?, best(cases, "floor tc")?);
    for case in cases {
        let took = case.best.as_nanos() as f64;
        let floor = if case.hook == Hook::Xdp { xdp } else { tc };
        println!("{:<32} {took:>5.0} ns  {:>5.2}x", case.name, took / floor);
    }
    Ok(())
}

/// The best time of the case with this name, ns.
fn best(cases: &[Case], name: &str) -> Result<f64> {
    let case = cases.iter().find(|case| case.name == name).with_context(|| format!("no case {name}"))?;
    Ok(case.best.as_nanos() as f64)
}
