//! What the process itself costs, by the names that every Prometheus client gives it.

use std::{fs, sync::atomic::AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use rustix::param::{clock_ticks_per_second, page_size};

/// CPU time and memory of this process; what /proc does not tell is left out.
pub(crate) fn registry() -> Registry {
    let mut registry = Registry::with_prefix("process");
    if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat)) {
        let cpu = Counter::<f64, AtomicU64>::default();
        cpu.inc_by(seconds);
        registry.register("cpu_seconds", "CPU time, user and system, seconds", cpu);
    }
    if let Some(bytes) = fs::read_to_string("/proc/self/statm").ok().and_then(|statm| resident_bytes(&statm))
    {
        let resident = Gauge::<f64, AtomicU64>::default();
        resident.set(bytes);
        registry.register("resident_memory_bytes", "Resident memory, bytes", resident);
    }
    registry
}

/// Fields 14 and 15 of proc_pid_stat(5); the name before them may hold blanks and brackets.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut times = behind_name.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(ticks as f64 / clock_ticks_per_second() as f64)
}

/// The second field of proc_pid_statm(5).
fn resident_bytes(statm: &str) -> Option<f64> {
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages as f64 * page_size() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b) R 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 99 1000 200";
        assert_eq!(cpu_seconds(stat), Some(300.0 / clock_ticks_per_second() as f64));
        assert_eq!(cpu_seconds("7 (a"), None);
        assert_eq!(resident_bytes("900 3 1 1 0 1 0"), Some(3.0 * page_size() as f64));
    }
}
