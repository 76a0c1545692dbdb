//! A row of counts that takes a byte each for as long as all are small.
//!
//! Most clients ask so little that a byte holds each of their counts. Invariant: what is read does not depend on the width.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// `N` counts.
#[derive(Clone, Debug)]
pub(crate) enum Counts<const N: usize> {
    Bytes(Box<[u8; N]>),
    Words(Box<[u16; N]>),
    Full(Box<[u32; N]>),
}

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self::Bytes(Box::new([0; N]))
    }
}

impl<const N: usize> PartialEq for Counts<N> {
    fn eq(&self, other: &Self) -> bool {
        (0..N).all(|at| self.get(at) == other.get(at))
    }
}

impl<const N: usize> Counts<N> {
    pub(crate) fn get(&self, at: usize) -> u32 {
        match self {
            Self::Bytes(counts) => counts[at].into(),
            Self::Words(counts) => counts[at].into(),
            Self::Full(counts) => counts[at],
        }
    }

    pub(crate) fn set(&mut self, at: usize, count: u32) {
        match self {
            Self::Bytes(counts) => {
                if let Ok(count) = u8::try_from(count) {
                    counts[at] = count;
                    return;
                }
                *self = Self::Words(Box::new(counts.map(u16::from)));
            }
            Self::Words(counts) => {
                if let Ok(count) = u16::try_from(count) {
                    counts[at] = count;
                    return;
                }
                *self = Self::Full(Box::new(counts.map(u32::from)));
            }
            Self::Full(counts) => {
                counts[at] = count;
                return;
            }
        }
        self.set(at, count);
    }

    pub(crate) fn add(&mut self, at: usize, count: u32) {
        self.set(at, self.get(at).saturating_add(count));
    }
}

impl<const N: usize> Serialize for Counts<N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq((0..N).map(|at| self.get(at)))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Counts<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let read = Vec::<u32>::deserialize(from)?;
        if read.len() != N {
            return Err(D::Error::invalid_length(read.len(), &"as many counts as were written"));
        }
        let mut counts = Self::default();
        read.into_iter().enumerate().for_each(|(at, count)| counts.set(at, count));
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_are_those_of_a_plain_row(adds in prop::collection::vec((0..4_usize, any::<u8>(), 0..30_u32), 0..60)) {
            let (mut counts, mut plain) = (Counts::<4>::default(), [0_u32; 4]);
            for (at, count, shift) in adds {
                let count = u32::from(count).saturating_mul(1 << shift);
                counts.add(at, count);
                plain[at] = plain[at].saturating_add(count);
            }
            prop_assert_eq!([0, 1, 2, 3].map(|at| counts.get(at)), plain);
        }
    }
}
