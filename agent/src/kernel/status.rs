//! What the kernel says about the programs and maps.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya::Ebpf;
use hydrometer_ebpf::abi::Counter;

use super::{Kernel, Loss, MapStatus, ProgramStatus};
use crate::known::TableStatus;

/// The programs that are loaded.
pub(super) fn programs(ebpf: &Ebpf) -> Vec<ProgramStatus> {
    ebpf.programs()
        .filter_map(|(name, program)| {
            let info = program.info().ok()?;
            Some(ProgramStatus {
                name: name.to_owned(),
                id: info.id(),
                verified_instructions: info.verified_instruction_count().unwrap_or(0),
                jited_bytes: info.size_jitted(),
            })
        })
        .collect()
}

/// The maps that grow with the traffic, and the ring buffer.
pub(super) fn maps(kernel: &Kernel) -> Vec<MapStatus> {
    let [flows, streams, estimates] = kernel.flows.maps();
    [
        map("flows", flows.as_fd(), Some(kernel.flows.entries())),
        map("streams", streams.as_fd(), None),
        map("estimates", estimates.as_fd(), None),
        map("clients", kernel.clients.fd().as_fd(), Some(kernel.clients.entries())),
        map("exchanges", kernel.ring.as_fd(), None),
    ]
    .into()
}

/// Kernel memory of all maps that this process holds, bytes.
pub fn map_memory() -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // The descriptor of the listing itself is gone by now.
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        if info.contains("map_type:") {
            total += field(&info, "memlock");
        }
    }
    Ok(total)
}

/// What the agent itself keeps of flows.
pub(super) fn tables(kernel: &Kernel) -> Vec<TableStatus> {
    kernel.known.tables().into_iter().chain([kernel.identities.table()]).collect()
}

/// Losses of the programs, and of all that reads them, every stage; `total` reads the programs' counters.
pub(super) fn losses(kernel: &Kernel, total: impl Fn(Counter) -> u64) -> Vec<Loss> {
    let losses = Counter::ALL.iter().filter(|counter| counter.is_loss());
    let mut losses: Vec<_> = losses
        .map(|&counter| Loss { stage: counter.name(), count: total(counter), meaning: counter.meaning() })
        .collect();
    losses.push(Loss {
        stage: "flow_evicted",
        count: kernel.flows.evicted(),
        meaning: "The kernel dropped a flow for a newer one: it is followed no longer, or anew; raise \
                  max_flows.",
    });
    losses.push(Loss {
        stage: "client_evicted",
        count: kernel.clients.evicted(),
        meaning: "The kernel dropped a client for a newer one: its counters begin at 0 when it comes \
                  back; raise max_clients.",
    });
    losses.push(Loss {
        stage: "sweep",
        count: kernel.sweep_failures,
        meaning: "A kernel map could not be read; quiet exchanges are reported late.",
    });
    losses.push(Loss {
        stage: "answer_resumed",
        count: kernel.flows.resumed(),
        meaning: "An answer paused for longer than `quiet` and went on: its exchange was reported \
                  without the rest; raise quiet.",
    });
    losses.push(Loss {
        stage: "hello_unread",
        count: kernel.hellos.lost(),
        meaning: "A ClientHello could not be read, or a part of it never came: that connection's exchanges \
                  have no JA4.",
    });
    losses.push(Loss {
        stage: "flow_forgotten",
        count: kernel.known.forgotten() + kernel.identities.forgotten(),
        meaning: "What was known of a flow (JA4, round trips, what its proxy said) had to go for a newer one; \
                  raise max_flows.",
    });
    losses.push(Loss {
        stage: "ja4_full",
        count: kernel.known.unkept(),
        meaning: "There were more different JA4s on live connections than are kept: that connection's exchanges \
                  have none.",
    });
    losses.push(Loss {
        stage: "identity_unread",
        count: kernel.identities.lost(),
        meaning: "What a trusted proxy said could not be read, a part of it never came, or it was forgotten \
                  before the request was answered: that request is shown as the proxy's own.",
    });
    losses.push(Loss {
        stage: "pipelined",
        count: kernel.pipelines.lost(),
        meaning: "A connection with requests that waited for their answers was forgotten for others: they have no \
                  exchanges.",
    });
    losses.push(Loss {
        stage: "attach",
        count: kernel.vantages.account().failures,
        meaning: "An interface that is asked for could not be attached to; the status says why.",
    });
    losses
}

/// What the kernel tells of a map through its descriptor (Documentation/filesystems/proc.rst).
fn map(name: &str, map: BorrowedFd<'_>, entries: Option<u64>) -> MapStatus {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).unwrap_or_default();
    MapStatus {
        name: name.to_owned(),
        entries,
        capacity: field(&info, "max_entries"),
        memory_bytes: field(&info, "memlock"),
    }
}

fn field(info: &str, name: &str) -> u64 {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
