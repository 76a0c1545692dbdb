//! A whole number in two bytes: exact up to 2,047, and right within a two-thousandth beyond.
//!
//! Five bits say by how much the other eleven are shifted. Order is kept.

use serde::{Deserialize, Serialize};

const BITS: u32 = 11;
const MOST_SHIFT: u32 = 30;

/// A number up to 2,047 x 2^30, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Short(u16);

impl Short {
    pub(crate) const NONE: Self = Self(u16::MAX);

    /// The nearest; numbers that are too large become the largest.
    pub(crate) fn new(number: u64) -> Self {
        let shift = (u64::BITS - number.leading_zeros()).saturating_sub(BITS);
        let half = if shift > 0 { 1 << (shift - 1) } else { 0 };
        let rounded = number.saturating_add(half) >> shift;
        // Rounded up to the next power of two.
        let (shift, rounded) = if rounded >> BITS > 0 { (shift + 1, rounded >> 1) } else { (shift, rounded) };
        if shift > MOST_SHIFT {
            return Self((MOST_SHIFT << BITS) as u16 | ((1 << BITS) - 1));
        }
        Self((shift << BITS) as u16 | rounded as u16)
    }

    /// The number; `None` for [`Short::NONE`].
    pub(crate) fn get(self) -> Option<u64> {
        (self != Self::NONE).then_some(u64::from(self.0 & ((1 << BITS) - 1)) << (self.0 >> BITS))
    }
}

impl From<Option<u64>> for Short {
    fn from(number: Option<u64>) -> Self {
        number.map_or(Self::NONE, Self::new)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_comes_back_as_near_as_is_said(bits in 0..63_u32, low: u64) {
            let number = (1 << bits) | low & ((1 << bits) - 1);
            let back = Short::new(number).get().unwrap();
            let expected = number.min(2047 << MOST_SHIFT);
            prop_assert!(back.abs_diff(expected) <= expected / 2048, "{number} came back as {back}");
            prop_assert!(number > 2047 || back == number);
            prop_assert!(Short::new(number) <= Short::new(number.saturating_add(number / 1000)));
        }
    }
}
