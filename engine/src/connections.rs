//! About how many connections there were, from the numbers of their flows.
//!
//! HyperLogLog (Flajolet et al. 2007) with 64 registers of a byte: 64 bytes, whatever goes in. The count is right within
//! 13 % (one standard deviation), and nearly exact below a few dozen. It knows nothing of order and repetition, so two
//! are merged by taking the greater of each register, and parts that were merged give the whole.

use serde::{Deserialize, Serialize};
use serde_big_array::BigArray;

/// Registers.
pub const REGISTERS: usize = 64;

const INDEX_BITS: u32 = REGISTERS.ilog2();

/// Corrects for the mean of 64 registers.
const ALPHA: f64 = 0.709;

/// Connections, counted without being kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections(#[serde(with = "BigArray")] [u8; REGISTERS]);

impl Default for Connections {
    fn default() -> Self {
        Self([0; REGISTERS])
    }
}

impl From<[u8; REGISTERS]> for Connections {
    fn from(registers: [u8; REGISTERS]) -> Self {
        Self(registers)
    }
}

impl Connections {
    /// The registers.
    pub fn registers(&self) -> [u8; REGISTERS] {
        self.0
    }

    /// How many there were, about.
    pub fn count(&self) -> f64 {
        let registers = REGISTERS as f64;
        let empty = self.0.iter().map(|rank| usize::from(*rank == 0)).sum::<usize>();
        let sum: f64 = self.0.iter().map(|rank| (-f64::from(*rank)).exp2()).sum();
        let estimate = ALPHA * registers * registers / sum;
        if empty > 0 && estimate <= 2.5 * registers {
            // Few: how many registers are still empty tells more.
            return registers * (registers / empty as f64).ln();
        }
        estimate
    }

    /// Adds those that another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (rank, more) in self.0.iter_mut().zip(other.0) {
            *rank = (*rank).max(more);
        }
    }

    pub(crate) fn add(&mut self, flow: u64) {
        let hash = mix(flow);
        let rank = (hash << INDEX_BITS | 1 << (INDEX_BITS - 1)).leading_zeros() as u8 + 1;
        let register = &mut self.0[(hash >> (u64::BITS - INDEX_BITS)) as usize];
        *register = (*register).max(rank);
    }
}

/// Spreads a number over all bits (SplitMix64).
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_right_within_its_error_and_repetition_adds_nothing() {
        assert!(Connections::default().count() < f64::EPSILON);
        for (count, error) in [(1_u64, 0.1), (10, 0.2), (100, 0.4), (10_000, 0.4), (1_000_000, 0.4)] {
            let mut connections = Connections::default();
            for flow in (0..count).chain(0..count.min(50)) {
                connections.add(flow);
            }
            let counted = connections.count() / count as f64;
            assert!((counted - 1.0).abs() <= error, "{count} counted as {}", connections.count());
        }
    }
}
