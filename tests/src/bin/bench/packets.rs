//! What the kernel programs cost, in ns a packet, and as ratios to yardsticks measured in the same run
//! (`agent-ebpf/src/floor.rs`): for what we watch the plain design, for what we do not watch a program that parses
//! to the port. Needs root. Fails when a packet costs more than its ceiling says.
//!
//! Each figure is the best of several rounds, taken in turns, so that a disturbance of the machine meets
//! all of them alike.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use hydrometer_ebpf::abi::Counter;
use hydrometer_engine::Service;
use hydrometer_tests::{
    frames::{Tcp, flags, tls_record},
    programs::{Programs, bench},
};

use super::paths::{self, Path};

/// The service's port.
pub(super) const PORT: u16 = 8443;
const ROUNDS: u32 = 12;
/// Packets of a round's long run, and of its short one. What a run takes beside its packets is then in both: at XDP the
/// kernel waits, before and after, for as long as ten milliseconds.
const PACKETS: u32 = 3_000_000;
const FEWER: u32 = 1_000_000;
/// When the segments of a server left its socket, monotonic nanoseconds.
const SENT_AT: u64 = 1_000_000_000;
/// Bytes of the segment that is measured, as in the design's table of costs.
pub(super) const SEGMENT: usize = 504;

/// One line of the result.
struct Case {
    name: &'static str,
    program: &'static str,
    hook: Hook,
    frame: Vec<u8>,
    /// The case that it is compared with.
    yardstick: &'static str,
    /// The most that it may cost, in yardsticks.
    ceiling: f64,
    /// The best long run.
    long: Duration,
    /// The best short one.
    short: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// Packets from the network.
    Xdp,
    /// Packets to it.
    Tc,
}

/// Measures, prints and judges.
pub(crate) fn run() -> Result<()> {
    let services = [Service { address: None, port: PORT }];
    let mut programs = Programs::load(bench(), &services)?;
    // New flows push old ones out of the maps: they get maps of their own.
    let mut crowded = Programs::load(bench(), &services)?;
    let mut cases = cases();
    prepare(&mut programs)?;
    for path in paths::all() {
        let frame = path.prepare(&mut programs)?;
        cases.push(Case::of(&path, frame));
    }
    for _ in 0..ROUNDS {
        for case in &mut cases {
            let programs = if case.name.ends_with("new flow") { &mut crowded } else { &mut programs };
            case.short = case.short.min(case.time(programs, FEWER)?);
            case.long = case.long.min(case.time(programs, PACKETS)?);
        }
    }
    check(&mut programs)?;
    print(&cases)
}

impl Case {
    /// The packet of a path, without a ceiling: it is compared with the plain design at the same hook.
    fn of(path: &Path, frame: Vec<u8>) -> Self {
        let (program, yardstick) = match path.hook() {
            Hook::Xdp => ("ingress_next", "floor xdp"),
            Hook::Tc => ("egress_next", "floor tc"),
        };
        let (name, hook) = (path.name, path.hook());
        Self {
            name,
            program,
            hook,
            frame,
            yardstick,
            ceiling: f64::INFINITY,
            long: Duration::MAX,
            short: Duration::MAX,
        }
    }

    /// How long this many packets take, by our own clock: the kernel's figure for a run is in whole nanoseconds.
    fn time(&mut self, programs: &mut Programs, packets: u32) -> Result<Duration> {
        let begun = Instant::now();
        match self.hook {
            Hook::Xdp => programs.xdp(self.program, &self.frame, packets)?,
            Hook::Tc => programs.tc_sent_at(self.program, &self.frame, packets, SENT_AT)?,
        };
        let took = begun.elapsed();
        self.go_on(packets);
        Ok(took)
    }

    /// The time of a packet, nanoseconds.
    fn cost(&self) -> f64 {
        self.long.saturating_sub(self.short).as_nanos() as f64 / f64::from(PACKETS - FEWER)
    }

    /// The next run goes on where this one of `packets` ended: else it would be of retransmissions.
    fn go_on(&mut self, packets: u32) {
        const SEQUENCE: std::ops::Range<usize> = 38..42;
        let payload = (self.frame.len() - 54) as u32;
        if let Ok(bytes) = <[u8; 4]>::try_from(&self.frame[SEQUENCE]) {
            let seq = u32::from_be_bytes(bytes).wrapping_add(payload.wrapping_mul(packets));
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
    let bytes = u64::from(PACKETS + FEWER) * u64::from(ROUNDS) * CONTENT as u64;
    let asking = [ASKING, FRAGS, ASKING_PUSH].map(|port| (port, true));
    let answered = [ANSWERED, ANSWERED_PUSH].map(|port| (port, false));
    for (client_port, asks) in asking.into_iter().chain(answered) {
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

/// Client ports of the flows that are measured: asking, the same in pieces, being answered; each also with
/// every segment the last of a write.
const ASKING: u16 = 40_000;
const FRAGS: u16 = 40_001;
const ANSWERED: u16 = 40_002;
const ASKING_PUSH: u16 = 40_003;
const ANSWERED_PUSH: u16 = 40_004;
/// Application bytes of a segment: one record, so that each segment has a header to be found.
const CONTENT: usize = SEGMENT - 54 - 22;

fn cases() -> Vec<Case> {
    const FREE: f64 = f64::INFINITY;
    let record = tls_record(CONTENT);
    let push = flags::ACK | flags::PSH;
    let data = |asks, client_port, port, flags| segment(asks, client_port, port, flags, record.clone());
    let ask = |client_port| data(true, client_port, PORT, flags::ACK);
    let answer = |client_port| data(false, client_port, PORT, flags::ACK);
    let syn = segment(true, 1, PORT, flags::SYN, Vec::new());
    let case = |hook, name, program, (yardstick, ceiling), frame| Case {
        name,
        program,
        hook,
        frame,
        yardstick,
        ceiling,
        long: Duration::MAX,
        short: Duration::MAX,
    };
    let xdp = |name, program, limit, frame| case(Hook::Xdp, name, program, limit, frame);
    let tc = |name, program, limit, frame| case(Hook::Tc, name, program, limit, frame);
    vec![
        xdp("empty xdp", "empty_xdp", ("floor xdp", FREE), ask(ASKING)),
        xdp("port xdp", "port_xdp", ("floor xdp", FREE), data(true, ASKING, 9, flags::ACK)),
        xdp("floor xdp", "floor_xdp", ("floor xdp", FREE), ask(ASKING)),
        xdp("ingress established", "ingress_next", ("floor xdp", 0.7), ask(ASKING)),
        xdp("ingress established, frags", "frags_next", ("floor xdp", 0.7), ask(FRAGS)),
        xdp(
            "ingress end of a write",
            "ingress_next",
            ("floor xdp", 1.0),
            data(true, ASKING_PUSH, PORT, push),
        ),
        xdp("ingress new flow", "ingress_new", ("floor xdp", FREE), syn),
        xdp("ingress nobody", "ingress_next", ("port xdp", 1.15), data(true, ASKING, 9, flags::ACK)),
        tc("empty tc", "empty_tc", ("floor tc", FREE), ask(ASKING)),
        tc("port tc", "port_tc", ("floor tc", FREE), data(false, ASKING, 9, flags::ACK)),
        tc("floor tc", "floor_tc", ("floor tc", FREE), ask(ASKING)),
        tc("egress established", "egress_next", ("floor tc", 0.9), answer(ANSWERED)),
        tc("egress end of a write", "egress_next", ("floor tc", 1.0), data(false, ANSWERED_PUSH, PORT, push)),
        tc("egress nobody", "egress_next", ("port tc", 1.15), data(false, ASKING, 9, flags::ACK)),
    ]
}

/// Asks the questions whose answers are measured. Where questions are measured, one before them is answered:
/// so the client is known to be there.
fn prepare(programs: &mut Programs) -> Result<()> {
    let data = |asks, client_port, record| segment(asks, client_port, PORT, flags::ACK, record);
    // It ends where the first segment that is measured begins.
    let before = (SEGMENT - 54) / 2 - 22;
    for client_port in [ASKING, FRAGS, ASKING_PUSH] {
        programs.xdp("ingress_next", &data(true, client_port, tls_record(before)), 1)?;
        programs.tc("egress_next", &data(false, client_port, tls_record(100)), 1)?;
    }
    for client_port in [ANSWERED, ANSWERED_PUSH] {
        programs.xdp("ingress_next", &data(true, client_port, tls_record(100)), 1)?;
    }
    Ok(())
}

fn print(cases: &[Case]) -> Result<()> {
    let mut dear = Vec::new();
    for case in cases {
        let ratio = case.cost() / cost(cases, case.yardstick)?;
        println!("{:<32} {:>5.1} ns  {ratio:>5.2}x {}", case.name, case.cost(), case.yardstick);
        if ratio > case.ceiling {
            dear.push(format!(
                "{} costs {ratio:.2}x of {}, more than {}x",
                case.name, case.yardstick, case.ceiling
            ));
        }
    }
    ensure!(dear.is_empty(), "{}", dear.join("; "));
    Ok(())
}

/// The time of a packet of the case with this name, nanoseconds.
fn cost(cases: &[Case], name: &str) -> Result<f64> {
    let case = cases.iter().find(|case| case.name == name).with_context(|| format!("no case {name}"))?;
    Ok(case.cost())
}
