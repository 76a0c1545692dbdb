//! A map in the place of one of the kernel's LRU maps.
//!
//! Two generations: what is entered or used is in the young one; once that is full, it becomes the old one, and
//! what was in the old one is handed out and freed. Invariant: values are boxed, and freed only by
//! [`Table::settle`], so references stay valid while the packet at hand is handled.
#![expect(unsafe_code, reason = "the promises of the trait `Tables` are kept here")]

use std::{cell::RefCell, collections::hash_map::Entry, hash::Hash};

use foldhash::HashMap;

/// Entries of a generation.
const GENERATION: usize = 1 << 17;

#[derive(Debug)]
pub(super) struct Table<K, V> {
    young: RefCell<HashMap<K, Box<V>>>,
    old: RefCell<HashMap<K, Box<V>>>,
    removed: RefCell<Vec<Box<V>>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { young: RefCell::default(), old: RefCell::default(), removed: RefCell::default() }
    }
}

impl<K: Copy + Eq + Hash, V: Default> Table<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let mut young = self.young.borrow_mut();
        let value: *const V = if let Some(value) = young.get(key) {
            &raw const **value
        } else {
            let value = self.old.borrow_mut().remove(key)?;
            &raw const **young.entry(*key).or_insert(value)
        };
        // SAFETY: the box is not freed before the packet has been handled, and its value is only reached by
        // shared references.
        Some(unsafe { &*value })
    }

    pub(super) fn insert(&self, key: K) -> &V {
        let value: *const V = match self.young.borrow_mut().entry(key) {
            Entry::Occupied(entry) => &raw const **entry.into_mut(),
            Entry::Vacant(entry) => {
                &raw const **entry.insert(self.old.borrow_mut().remove(&key).unwrap_or_default())
            }
        };
        // SAFETY: as in `get`.
        unsafe { &*value }
    }

    pub(super) fn remove(&self, key: &K) {
        let value = self.young.borrow_mut().remove(key).or_else(|| self.old.borrow_mut().remove(key));
        self.removed.borrow_mut().extend(value);
    }

    /// Between two packets: frees what was removed and, when there is no room for more, what has not been used for
    /// longest, after handing it to `dropped`.
    pub(super) fn settle(&mut self, mut dropped: impl FnMut(&K, &V)) {
        self.removed.get_mut().clear();
        if self.young.get_mut().len() >= GENERATION {
            let young = self.young.take();
            for (key, value) in &self.old.replace(young) {
                dropped(key, value);
            }
        }
    }

    pub(super) fn each(&self, mut each: impl FnMut(&K, &V)) {
        for (key, value) in self.young.borrow().iter().chain(&*self.old.borrow()) {
            each(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_is_used_stays_and_what_is_not_is_handed_out_when_it_is_full() {
        let mut table = Table::<usize, Cell<usize>>::default();
        let mut dropped = Vec::new();
        let many = 3 * GENERATION;
        for key in 0..many {
            table.insert(key).set(key);
            assert_eq!(table.get(&0).map(Cell::get), Some(0));
            table.settle(|key, value| dropped.push((*key, value.get())));
            assert!(table.young.get_mut().len() + table.old.get_mut().len() <= 2 * GENERATION);
        }
        let mut left = Vec::new();
        table.each(|&key, _| left.push(key));
        assert!(left.contains(&0) && left.len() + dropped.len() == many);
        assert!(dropped.iter().all(|&(key, value)| key == value && key != 0 && table.get(&key).is_none()));
    }
}
