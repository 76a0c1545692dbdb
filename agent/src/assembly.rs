//! Bytes that come in pieces, in any order and more than once, put together from the begin.
//!
//! Invariant: what is known of a byte does not change, and never more than [`LIMIT`] bytes are held.

use hydrometer_ebpf::hello::MAX_HELLO;

/// Bytes held at most.
pub(crate) const LIMIT: usize = MAX_HELLO as usize;

/// A stream from its first byte on.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    bytes: Vec<u8>,
    known: Vec<bool>,
    /// Bytes known without a gap.
    whole: usize,
}

impl Assembly {
    /// Takes a piece; what lies beyond the limit is left out.
    pub(crate) fn add(&mut self, position: usize, piece: &[u8]) {
        let end = position.saturating_add(piece.len()).min(LIMIT);
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
            self.known.resize(end, false);
        }
        for (at, &byte) in (position..end).zip(piece) {
            if !self.known[at] {
                (self.bytes[at], self.known[at]) = (byte, true);
            }
        }
        while self.known.get(self.whole) == Some(&true) {
            self.whole += 1;
        }
    }

    /// The bytes up to the first gap.
    pub(crate) fn begin(&self) -> &[u8] {
        &self.bytes[..self.whole]
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn pieces_in_any_order_give_the_stream(
            stream in vec(any::<u8>(), 1..LIMIT),
            cuts in vec((any::<prop::sample::Index>(), 1_usize..700), 0..40),
            seed in any::<u64>(),
        ) {
            // Random pieces, overlapping and repeated, and then the whole in small ones, shuffled.
            let mut pieces: Vec<_> = cuts
                .iter()
                .map(|(start, len)| { let start = start.index(stream.len()); (start, (start + len).min(stream.len())) })
                .collect();
            pieces.extend((0..stream.len()).step_by(97).map(|start| (start, (start + 97).min(stream.len()))));
            pieces.sort_by_key(|&(start, end)| (start as u64 * 31 + end as u64).wrapping_mul(seed | 1));
            let mut assembly = Assembly::default();
            for (start, end) in pieces {
                assembly.add(start, &stream[start..end]);
                prop_assert!(stream.starts_with(assembly.begin()));
            }
            prop_assert_eq!(assembly.begin(), &stream[..]);
        }

        #[test]
        fn nothing_makes_it_hold_more_than_its_limit(
            pieces in vec((any::<usize>(), vec(any::<u8>(), 0..6000)), 0..20),
            near in vec((0..2 * LIMIT, vec(any::<u8>(), 0..6000)), 0..20),
        ) {
            let mut assembly = Assembly::default();
            for (position, piece) in pieces.iter().chain(&near) {
                assembly.add(*position, piece);
                prop_assert!(assembly.bytes.len() <= LIMIT && assembly.begin().len() <= LIMIT);
            }
        }
    }
}
