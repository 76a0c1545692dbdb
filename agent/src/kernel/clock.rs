//! From the kernel's monotonic clock to ours.

use hydrometer_engine::Nanos;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// What the monotonic clock's zero is on the wall clock, now. Asked anew for each batch of times, so
/// that corrections of the wall clock are followed.
pub(super) fn epoch() -> Nanos {
    let wall = nanos(clock_gettime(ClockId::Realtime));
    Nanos(wall.saturating_sub(monotonic()))
}

/// The monotonic clock, nanoseconds: the clock of `bpf_ktime_get_ns`.
pub(super) fn monotonic() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

fn nanos(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
