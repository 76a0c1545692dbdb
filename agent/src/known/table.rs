//! A table by the numbers of flows, whose memory is fixed when it is made.
//!
//! Open addressing with linear probing, and the space of an eighth more slots than it may hold entries, all in one
//! allocation. When it is full, a hand goes round and makes room: whoever was used since it last came by stays
//! (the clock algorithm), unless everybody was. Invariant: every entry can be reached from its home slot without crossing an empty one.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;

use super::TableStatus;

/// Bits of a flow's number.
const FLOW_BITS: u32 = 48;
/// In a slot's head: somebody is there.
const TAKEN: u64 = 1;
/// In a slot's head: it was used since the hand last came by.
const USED: u64 = 1 << 1;
/// Where in a slot's head the walk stands in which the flow was last seen.
const WALK_SHIFT: u32 = 2;
/// As many walks are told apart.
const WALKS: u64 = 1 << (64 - FLOW_BITS - WALK_SHIFT);
/// Walks in which a flow was not seen, after which it is gone. One is not enough: what the kernel said of it last
/// may not have been read when the walk passed.
const GONE_AFTER: u64 = 2;

/// Something of each flow.
#[derive(Debug)]
pub(crate) struct Table<V> {
    slots: Box<[Slot<V>]>,
    // The hash differs from process to process, so nobody can choose ports that collide.
    hash: RandomState,
    len: usize,
    limit: usize,
    /// The walk that is under way, modulo [`WALKS`].
    walk: u64,
    /// Where the hand is.
    hand: usize,
    forgotten: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot<V> {
    head: Head,
    value: V,
}

/// The flow's number, then the walk, then [`USED`] and [`TAKEN`]; 0 where nobody is. Two halves of a word: a whole one
/// would make each slot a multiple of its size.
#[derive(Clone, Copy, Debug, Default)]
struct Head([u32; 2]);

impl Head {
    fn new(flow: u64, walk: u64) -> Self {
        Self::from(flow << (64 - FLOW_BITS) | walk << WALK_SHIFT | TAKEN)
    }

    fn has(self, flag: u64) -> bool {
        u64::from(self) & flag != 0
    }

    fn with(self, flag: u64) -> Self {
        Self::from(u64::from(self) | flag)
    }

    fn without(self, flag: u64) -> Self {
        Self::from(u64::from(self) & !flag)
    }

    fn flow(self) -> u64 {
        u64::from(self) >> (64 - FLOW_BITS)
    }

    fn walk(self) -> u64 {
        u64::from(self) >> WALK_SHIFT & (WALKS - 1)
    }
}

impl From<u64> for Head {
    fn from(word: u64) -> Self {
        Self([(word >> 32) as u32, word as u32])
    }
}

impl From<Head> for u64 {
    fn from(Head([high, low]): Head) -> Self {
        Self::from(high) << 32 | Self::from(low)
    }
}

impl<V: Copy + Default> Table<V> {
    /// Holds at most `limit` flows.
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self {
            slots: vec![Slot::default(); limit + limit / 8 + 1].into_boxed_slice(),
            hash: RandomState::default(),
            len: 0,
            limit,
            walk: 0,
            hand: 0,
            forgotten: 0,
        }
    }

    /// What is kept of `flow`, if anything is.
    pub(crate) fn get(&mut self, flow: u64) -> Option<&mut V> {
        let slot = self.find(flow).ok()?;
        self.touch(slot);
        Some(&mut self.slots[slot].value)
    }

    /// What is kept of `flow`, which begins as nothing.
    pub(crate) fn entry(&mut self, flow: u64) -> &mut V {
        let slot = match self.find(flow) {
            Ok(slot) => {
                self.touch(slot);
                slot
            }
            Err(slot) => self.enter(flow, slot),
        };
        &mut self.slots[slot].value
    }

    /// `flow` is there still, says the walk that is under way.
    pub(crate) fn see(&mut self, flow: u64) {
        if let Ok(slot) = self.find(flow) {
            self.touch(slot);
        }
    }

    /// Forgets `flow`.
    pub(crate) fn remove(&mut self, flow: u64) {
        if let Ok(slot) = self.find(flow) {
            self.empty(slot);
        }
    }

    /// A walk over all flows there are has ended: those that were not seen for long enough are gone.
    pub(crate) fn walked(&mut self) {
        self.walk = (self.walk + 1) % WALKS;
        let mut slot = 0;
        while self.len > 0 && slot < self.slots.len() {
            let head = self.slots[slot].head;
            let unseen = (self.walk + WALKS - head.walk()) % WALKS;
            if head.has(TAKEN) && unseen > GONE_AFTER {
                // Another may come to lie in its slot, which is looked at next.
                self.empty(slot);
            } else {
                slot += 1;
            }
        }
    }

    /// Everything that is kept, in no order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().filter(|slot| slot.head.has(TAKEN)).map(|slot| &slot.value)
    }

    /// How full it is, as the table `name`.
    pub(crate) fn status(&self, name: &'static str) -> TableStatus {
        TableStatus {
            name,
            entries: self.len as u64,
            capacity: self.limit as u64,
            memory_bytes: size_of_val(&*self.slots) as u64,
        }
    }

    /// Flows that were forgotten to make room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The slot of `flow`, or the empty one where it would be entered.
    fn find(&self, flow: u64) -> Result<usize, usize> {
        let mut slot = self.home(flow);
        loop {
            match self.slots[slot].head {
                head if !head.has(TAKEN) => return Err(slot),
                head if head.flow() == flow => return Ok(slot),
                _ => slot = self.after(slot),
            }
        }
    }

    fn enter(&mut self, flow: u64, mut slot: usize) -> usize {
        if self.len >= self.limit {
            self.make_room();
            // What is behind the one that has gone has moved up.
            slot = self.find(flow).unwrap_or_else(|slot| slot);
        }
        self.slots[slot] = Slot { head: Head::new(flow, self.walk), value: V::default() };
        self.len += 1;
        slot
    }

    /// Forgets one who was not used since the hand last came by.
    fn make_room(&mut self) {
        loop {
            let slot = self.hand;
            let head = &mut self.slots[slot].head;
            if head.has(USED) {
                *head = head.without(USED);
            } else if head.has(TAKEN) {
                self.empty(slot);
                self.forgotten += 1;
                break;
            }
            self.hand = self.after(slot);
        }
    }

    fn touch(&mut self, slot: usize) {
        let head = &mut self.slots[slot].head;
        *head = Head::new(head.flow(), self.walk).with(USED);
    }

    /// Empties a slot, and moves up those behind it that it parts from their home.
    fn empty(&mut self, slot: usize) {
        let (mut hole, mut next) = (slot, self.after(slot));
        while self.slots[next].head.has(TAKEN) {
            let home = self.home(self.slots[next].head.flow());
            if self.distance(home, next) >= self.distance(hole, next) {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = self.after(next);
        }
        self.slots[hole] = Slot::default();
        self.len -= 1;
    }

    /// Where `flow` is looked for first.
    fn home(&self, flow: u64) -> usize {
        ((u128::from(self.hash.hash_one(flow)) * self.slots.len() as u128) >> 64) as usize
    }

    fn after(&self, slot: usize) -> usize {
        if slot + 1 == self.slots.len() { 0 } else { slot + 1 }
    }

    /// Steps from one slot on to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.slots.len() - from }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Enter(u64, u32),
        Remove(u64),
        See(u64),
        Walked,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u64..40, any::<u32>()).prop_map(|(flow, value)| Step::Enter(flow, value)),
            1 => (0_u64..40).prop_map(Step::Remove),
            4 => (0_u64..40).prop_map(Step::See),
            1 => Just(Step::Walked),
        ]
    }

    proptest! {
        #[test]
        fn with_room_for_all_it_is_a_map_of_those_seen_in_the_last_walks(steps in vec(step(), 0..300)) {
            let mut table = Table::new(40);
            let (mut map, mut walk) = (HashMap::new(), 0);
            for step in steps {
                match step {
                    Step::Enter(flow, value) => {
                        *table.entry(flow) = value;
                        map.insert(flow, (value, walk));
                    }
                    Step::Remove(flow) => {
                        table.remove(flow);
                        map.remove(&flow);
                    }
                    Step::See(flow) => {
                        table.see(flow);
                        map.entry(flow).and_modify(|(_, seen)| *seen = walk);
                    }
                    Step::Walked => {
                        table.walked();
                        walk += 1;
                        map.retain(|_, (_, seen)| walk - *seen <= GONE_AFTER);
                    }
                }
                prop_assert_eq!(table.len, map.len());
                for flow in 0..40 {
                    let slot = table.find(flow).ok();
                    prop_assert_eq!(slot.map(|slot| table.slots[slot].value), map.get(&flow).map(|(value, _)| *value));
                }
            }
        }

        #[test]
        fn when_it_is_full_one_goes_who_was_not_just_used(flows in vec(0_u64..1 << 48, 1..300), limit in 2_usize..40) {
            let mut table = Table::new(limit);
            let mut entered = 0;
            for flow in flows {
                entered += u64::from(table.find(flow).is_err());
                *table.entry(flow) = flow;
                prop_assert!(table.len <= limit);
                prop_assert_eq!(table.get(flow).copied(), Some(flow));
                prop_assert!(table.values().all(|&flow| table.find(flow).is_ok()));
                prop_assert_eq!(table.forgotten() + table.len as u64, entered);
            }
        }
    }

    #[test]
    fn whoever_is_used_all_the_time_stays_however_many_come() {
        let mut table = Table::new(100);
        *table.entry(7) = 7;
        for flow in 1000..20_000 {
            *table.entry(flow) = flow;
            assert_eq!(table.get(7).copied(), Some(7));
        }
    }

    #[test]
    fn a_walk_that_comes_round_does_not_revive_the_dead() {
        let mut table = Table::<u8>::new(4);
        for _ in 0..2 * WALKS {
            table.entry(1);
            table.see(1);
            table.walked();
            assert_eq!(table.len, 1);
        }
    }
}
