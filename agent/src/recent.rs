//! A map of what was used recently, that holds a limited number of entries.
//!
//! Two generations: what is entered or used is in the young one; once that is half full, it becomes the
//! old one, and what was in the old one is dropped. So nothing used within the last `limit / 2` entries
//! is ever lost, and keeping order costs nothing.

use std::collections::HashMap;

#[derive(Debug)]
pub(crate) struct Recent<V> {
    young: HashMap<u64, V>,
    old: HashMap<u64, V>,
    limit: usize,
    /// Entries dropped to make room.
    dropped: u64,
}

impl<V> Recent<V> {
    /// Holds at most `limit` entries.
    pub(crate) fn new(limit: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), limit, dropped: 0 }
    }

    /// The entry, which counts as used.
    pub(crate) fn get(&mut self, key: u64) -> Option<&mut V> {
        if let Some(value) = self.old.remove(&key) {
            self.insert(key, value);
        }
        self.young.get_mut(&key)
    }

    /// The entry, which counts as used; an empty one where there was none.
    pub(crate) fn get_or_default(&mut self, key: u64) -> &mut V
    where
        V: Default,
    {
        let value = self.old.remove(&key);
        self.make_room(key);
        self.young.entry(key).or_insert_with(|| value.unwrap_or_default())
    }

    pub(crate) fn insert(&mut self, key: u64, value: V) {
        self.old.remove(&key);
        self.make_room(key);
        self.young.insert(key, value);
    }

    /// Makes room for this entry.
    fn make_room(&mut self, key: u64) {
        if self.young.len() >= self.limit / 2 && !self.young.contains_key(&key) {
            let young = HashMap::with_capacity(self.young.len());
            self.dropped += self.old.len() as u64;
            self.old = std::mem::replace(&mut self.young, young);
        }
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<V> {
        self.young.remove(&key).or_else(|| self.old.remove(&key))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    /// The values, in no order.
    pub(crate) fn into_values(self) -> impl Iterator<Item = V> {
        self.old.into_values().chain(self.young.into_values())
    }

    /// Entries held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Entries dropped to make room so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn what_was_used_recently_is_there_and_the_limit_holds(keys in vec(0_u64..100, 1..400), limit in 2_usize..40) {
            let mut recent = Recent::new(limit);
            for (turn, &key) in keys.iter().enumerate() {
                recent.insert(key, turn);
                prop_assert!(recent.len() <= limit);
                let since = turn.saturating_sub(limit / 2 - 1);
                for (turn, key) in keys.iter().enumerate().take(turn + 1).skip(since) {
                    let value = recent.young.get(key).or(recent.old.get(key));
                    prop_assert!(value.is_some_and(|&value| value >= turn));
                }
            }
        }
    }
}
