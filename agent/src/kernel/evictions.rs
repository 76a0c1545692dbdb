//! What an LRU map evicts, which the kernel does not tell: what was entered, less what was removed and what
//! is there.
//!
//! Invariant: the count never decreases, and is never more than what was evicted. It falls behind by what is
//! entered during one walk over the map, and catches up.

use std::io;

use aya::maps::{MapData, PerCpuArray};
use hydrometer_ebpf::abi::{Counter, Counters};

/// What the programs have done to one map so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ledger {
    /// Entries that they entered.
    pub(super) entered: u64,
    /// Entries that they removed.
    pub(super) removed: u64,
}

impl Ledger {
    /// From the programs' own counters.
    pub(super) fn read(
        counters: &PerCpuArray<MapData, Counters>,
        entered: Counter,
        removed: Option<Counter>,
    ) -> io::Result<Self> {
        let cores = counters.get(&0, 0).map_err(io::Error::other)?;
        let total = |counter: Counter| cores.iter().map(|core| core[counter as usize]).sum();
        Ok(Self { entered: total(entered), removed: removed.map_or(0, total) })
    }
}

/// Entries of one map that the kernel evicted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evictions {
    /// Entered when the walk began that is under way.
    entered: Option<u64>,
    count: u64,
}

impl Evictions {
    /// A walk over the map begins, or goes on.
    pub(super) fn walk(&mut self, now: Ledger) {
        self.entered.get_or_insert(now.entered);
    }

    /// The walk has ended, and found `present` entries.
    pub(super) fn walked(&mut self, now: Ledger, present: u64) {
        let entered = self.entered.take().unwrap_or_default();
        self.count = self.count.max(entered.saturating_sub(now.removed + present));
    }

    /// How many.
    pub(super) fn count(self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_there_nor_removed_was_evicted() {
        let mut evictions = Evictions::default();
        // Entered when a walk begins and when it ends, removed, present; evicted so far.
        for (begin, end, removed, present, evicted) in [
            (1000, 1000, 100, 900, 0),
            (1500, 1500, 150, 1000, 350),
            // 500 came while the map was walked, and were seen.
            (1600, 2100, 150, 1500, 350),
            (2100, 2100, 150, 1500, 450),
        ] {
            evictions.walk(Ledger { entered: begin, removed });
            evictions.walk(Ledger { entered: end, removed });
            evictions.walked(Ledger { entered: end, removed }, present);
            assert_eq!(evictions.count(), evicted);
        }
    }
}
