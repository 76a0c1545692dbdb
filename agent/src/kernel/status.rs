//! What the kernel says about the programs and maps.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya::Ebpf;

use super::{Kernel, MapStatus, ProgramStatus};

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

/// What the kernel tells of a map through its descriptor (Documentation/filesystems/proc.rst).
fn map(name: &str, map: BorrowedFd<'_>, entries: Option<u64>) -> MapStatus {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).unwrap_or_default();
    let field = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    MapStatus {
        name: name.to_owned(),
        entries,
        capacity: field("max_entries"),
        memory_bytes: field("memlock"),
    }
}
