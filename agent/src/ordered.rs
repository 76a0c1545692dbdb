//! Things that come nearly in order, put in order.
//!
//! Invariant: a bounded number of things wait; one that comes after more than [`WAITING`] later ones comes out late.

use std::{cmp::Ordering, collections::BinaryHeap};

use hydrometer_engine::Nanos;

/// Things that wait at most.
const WAITING: usize = 1 << 16;

/// Things by their time; those of the same time in the order in which they came.
#[derive(Debug)]
pub(crate) struct Ordered<T> {
    waiting: BinaryHeap<Timed<T>>,
    count: u64,
}

#[derive(Debug)]
struct Timed<T> {
    at: Nanos,
    number: u64,
    thing: T,
}

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self { waiting: BinaryHeap::new(), count: 0 }
    }
}

impl<T> Ordered<T> {
    /// Takes a thing; gives the earliest of all when too many wait.
    pub(crate) fn push(&mut self, at: Nanos, thing: T) -> Option<T> {
        self.count += 1;
        self.waiting.push(Timed { at, number: self.count, thing });
        if self.waiting.len() > WAITING { self.pop() } else { None }
    }

    /// The earliest of all.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.waiting.pop().map(|timed| timed.thing)
    }

    /// The earliest, if it is of that time or earlier.
    pub(crate) fn pop_until(&mut self, until: Nanos) -> Option<T> {
        if self.waiting.peek()?.at <= until { self.pop() } else { None }
    }
}

// The heap gives the greatest, which is to be the earliest.
impl<T> Ord for Timed<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<T> PartialOrd for Timed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Timed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Timed<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_of_order_leaves_in_order_while_no_more_than_the_limit_wait() {
        let mut ordered = Ordered::default();
        let mut out = Vec::new();
        for number in 0..3 * WAITING as u64 {
            // Each comes at most 8 places off its own.
            let at = number ^ 7;
            out.extend(ordered.push(Nanos(at), at));
        }
        assert_eq!(out.len(), 2 * WAITING);
        assert_eq!(ordered.pop_until(Nanos(2 * WAITING as u64 - 1)), None);
        assert_eq!(ordered.pop_until(Nanos(2 * WAITING as u64)), Some(2 * WAITING as u64));
        out.push(2 * WAITING as u64);
        out.extend(std::iter::from_fn(|| ordered.pop()));
        assert!(out.iter().copied().eq(0..3 * WAITING as u64));
    }
}
