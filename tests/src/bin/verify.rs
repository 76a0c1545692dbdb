//! Whether the running kernel takes the product's programs, what its verifier and its compiler make of them, and
//! whether they find an exchange. Needs root.
//!
//! `cargo xtask kernels` runs this on the kernel of the machine, and as the only process of a guest with an older one:
//! there it is process 1, mounts what it needs, and switches the guest off when it has said its last line, which
//! begins with [`HELD`] or [`FAILED`].

use std::{process::ExitCode, thread};

use anyhow::{Context, Result, ensure};
use hydrometer_engine::Service;
use hydrometer_tests::{
    frames::{Tcp, flags, tls_record},
    programs::{Programs, product},
};
use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, reboot, uname},
};

/// How the last line begins when everything was right; `xtask/src/kernels.rs` looks for it.
const HELD: &str = "held";
/// How it begins otherwise.
const FAILED: &str = "failed";
/// The most instructions that the verifier may have to process for a program: it gives up at 1,000,000.
const BUDGET: u32 = 500_000;

const PORT: u16 = 8443;
/// Application bytes of the request and the answer that have to come out.
const ASKED: usize = 321;
const ANSWERED: usize = 400;

const XDP_PASS: u32 = 2;
const TC_ACT_UNSPEC: u32 = u32::MAX;

fn main() -> ExitCode {
    let guest = std::process::id() == 1;
    let kernel = uname().release().to_string_lossy().into_owned();
    let outcome = if guest { mounts().and_then(|()| verify(&kernel)) } else { verify(&kernel) };
    match &outcome {
        Ok(()) => println!("{HELD} on {kernel}"),
        Err(error) => println!("{FAILED} on {kernel}: {error:#}"),
    }
    if guest {
        // A guest whose first process ends is one that panics.
        if let Err(error) = reboot(RebootCommand::PowerOff) {
            println!("cannot switch the guest off: {error}");
        }
        thread::park();
    }
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The file systems that loading reads.
fn mounts() -> Result<()> {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("bpf", "/sys/fs/bpf")] {
        mount(kind, at, kind, MountFlags::empty(), None).with_context(|| format!("cannot mount {at}"))?;
    }
    Ok(())
}

/// Loads, verifies and runs every program.
fn verify(kernel: &str) -> Result<()> {
    let services = [Service { address: None, port: PORT }];
    let mut programs = Programs::load(product(), &services)?;
    let costs = programs.costs()?;
    for cost in &costs {
        println!(
            "{kernel:<28} {:<16} {:>9} instructions  {:>7} bytes",
            cost.program, cost.instructions, cost.machine_code
        );
    }
    for cost in costs {
        ensure!(
            cost.instructions <= BUDGET,
            "the verifier processes {} instructions of {}, more than {BUDGET}",
            cost.instructions,
            cost.program
        );
    }
    for (port, ingress) in ["hyd_ingress", "hyd_frags", "hyd_tc_ingress"].into_iter().enumerate() {
        exchange(&mut programs, ingress, 40_000 + port as u16).context(ingress)?;
    }
    Ok(())
}

/// A connection with one question and one answer, of which the ring buffer must tell.
fn exchange(programs: &mut Programs, ingress: &str, client_port: u16) -> Result<()> {
    let (request, answer) = (tls_record(ASKED), tls_record(ANSWERED));
    let segment = |asks, seq, flags, payload: &[u8]| {
        let (client, server) = (([10, 0, 0, 9].into(), client_port), ([10, 0, 0, 1].into(), PORT));
        let (source, destination) = if asks { (client, server) } else { (server, client) };
        Tcp { source, destination, seq, flags, vlans: Vec::new(), payload: payload.to_vec() }.frame()
    };
    let (asked, answered) = (1 + request.len() as u32, 1 + answer.len() as u32);
    let packets = [
        (true, segment(true, 0, flags::SYN, &[])),
        (false, segment(false, 0, flags::SYN | flags::ACK, &[])),
        (true, segment(true, 1, flags::ACK, &request)),
        (false, segment(false, 1, flags::ACK, &answer)),
        (true, segment(true, asked, flags::ACK | flags::FIN, &[])),
        (false, segment(false, answered, flags::ACK | flags::FIN, &[])),
    ];
    for (asks, frame) in packets {
        let program = if asks { ingress } else { "hyd_egress" };
        let ((verdict, _), pass) = if program.contains("_tc_") || !asks {
            (programs.tc(program, &frame, 1)?, TC_ACT_UNSPEC)
        } else {
            (programs.xdp(program, &frame, 1)?, XDP_PASS)
        };
        ensure!(verdict == pass, "the verdict of {program} was {verdict} instead of {pass}");
    }
    let events = programs.drain();
    let figures: Vec<_> = events.iter().map(|event| (event.request_bytes, event.answer_bytes)).collect();
    let expected = [(ASKED as u64, ANSWERED as u64)];
    ensure!(figures == expected, "the exchanges were {figures:?} bytes instead of {expected:?}");
    Ok(())
}
