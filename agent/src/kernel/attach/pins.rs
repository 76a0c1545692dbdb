//! Pins: links that outlive the process.
//!
//! They are named by network namespace and number of the interface, since names are given again, and in
//! other namespaces as well.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::programs::links::{FdLink, PinnedLink};

use super::super::{Direction, Interface, KernelError};

/// Where links are pinned.
const PINS: &str = "/sys/fs/bpf/hydrometer";

/// Pins `link` of `interface`.
pub(super) fn pin(link: FdLink, interface: u32, direction: Direction) -> Result<PinnedLink, KernelError> {
    fs::create_dir_all(PINS).map_err(|error| failed(&error))?;
    link.pin(path(interface, direction)).map_err(|error| failed(&error))
}

/// Removes what an earlier agent has left for `interface`; how many pins that were.
pub(in super::super) fn remove(interface: u32) -> usize {
    let removed = [Direction::Ingress, Direction::Egress].map(|direction| path(interface, direction));
    // Nothing pinned is the usual case.
    removed.iter().filter(|path| fs::remove_file(path).is_ok()).count()
}

/// Removes the pins of interfaces that are no longer there.
pub(in super::super) fn sweep(interfaces: &[Interface]) {
    let Ok(entries) = fs::read_dir(PINS) else { return };
    let prefix = format!("{}-", namespace());
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let index = name.strip_prefix(&prefix).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if index.is_some_and(|index| interfaces.iter().all(|interface| interface.index != index)) {
            // Another agent may be sweeping as well.
            let _ = fs::remove_file(Path::new(PINS).join(name));
        }
    }
}

/// Why a pin could not be made.
pub(super) fn failed(why: &impl ToString) -> KernelError {
    KernelError::Pin { path: PathBuf::from(PINS), why: why.to_string() }
}

fn path(interface: u32, direction: Direction) -> PathBuf {
    let direction = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    Path::new(PINS).join(format!("{}-{interface}-{direction}", namespace()))
}

/// Number of this process's network namespace.
fn namespace() -> u64 {
    fs::metadata("/proc/self/ns/net").as_ref().map_or(0, MetadataExt::ino)
}
