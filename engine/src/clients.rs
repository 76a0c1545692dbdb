//! The clients, by who they are and by when they were last heard of.
//!
//! Each has a slot. A map finds the slot of a client, links between slots keep the order in which clients were
//! heard of, and a hand walks over the slots to visit everyone in turn: each costs the same however many there are.
//!
//! Invariant: the order of the map is never asked for, so nothing depends on how it hashes.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{ClientId, client::Client};

/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Clients {
    // The hash differs from process to process, so nobody can choose addresses that collide.
    #[serde(skip)]
    by_id: HashMap<ClientId, u32, foldhash::fast::RandomState>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Heard of longest ago, and last.
    oldest: u32,
    newest: u32,
    /// The slot to visit next.
    hand: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Slot {
    id: ClientId,
    // Boxed, so that a growing list moves pointers.
    client: Option<Box<Client>>,
    /// Whoever was heard of just before, and just after.
    older: u32,
    newer: u32,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            by_id: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
            hand: 0,
        }
    }
}

impl Clients {
    /// Finds everyone's slot again, after they were read back.
    pub(crate) fn index(&mut self) {
        let held = self.slots.iter().enumerate().filter(|(_, slot)| slot.client.is_some());
        self.by_id = held.map(|(number, slot)| (slot.id, number as u32)).collect();
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn get(&self, id: ClientId) -> Option<&Client> {
        self.slots[*self.by_id.get(&id)? as usize].client.as_deref()
    }

    pub(crate) fn get_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.slots[*self.by_id.get(&id)? as usize].client.as_deref_mut()
    }

    /// In ascending order.
    pub(crate) fn ids(&self) -> Vec<ClientId> {
        let mut ids: Vec<ClientId> = self.by_id.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The client, which was just heard of; a new one is made.
    pub(crate) fn hear(&mut self, id: ClientId, new: impl FnOnce() -> Client) -> &mut Client {
        let slot = match self.by_id.get(&id) {
            Some(slot) => {
                let slot = *slot;
                self.unlink(slot);
                slot
            }
            None => self.allot(id),
        };
        self.link_newest(slot);
        self.slots[slot as usize].client.get_or_insert_with(|| Box::new(new()))
    }

    /// Takes out the client that was not heard of for longest.
    pub(crate) fn forget_oldest(&mut self) -> Option<(ClientId, Box<Client>)> {
        let slot = self.oldest;
        let Slot { id, client, .. } = self.slots.get_mut(slot as usize)?;
        let (id, client) = (*id, client.take()?);
        self.unlink(slot);
        self.by_id.remove(&id);
        self.free.push(slot);
        Some((id, client))
    }

    /// The next `count` slots' clients, in a round that comes to everyone.
    pub(crate) fn visit(&mut self, count: usize) -> impl Iterator<Item = &mut Client> {
        if self.hand >= self.slots.len() {
            self.hand = 0;
        }
        let from = self.hand;
        self.hand = (from + count).min(self.slots.len());
        self.slots[from..self.hand].iter_mut().filter_map(|slot| slot.client.as_deref_mut())
    }

    fn allot(&mut self, id: ClientId) -> u32 {
        let empty = Slot { id, client: None, older: NONE, newer: NONE };
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = empty;
            slot
        } else {
            self.slots.push(empty);
            self.slots.len() as u32 - 1
        };
        self.by_id.insert(id, slot);
        slot
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { older, newer, .. } = self.slots[slot as usize];
        *self.newer_of(older) = newer;
        *self.older_of(newer) = older;
    }

    fn link_newest(&mut self, slot: u32) {
        let before = self.newest;
        self.slots[slot as usize].older = before;
        self.slots[slot as usize].newer = NONE;
        *self.newer_of(before) = slot;
        self.newest = slot;
    }

    /// What follows `slot`; the oldest follows nobody.
    fn newer_of(&mut self, slot: u32) -> &mut u32 {
        match self.slots.get_mut(slot as usize) {
            Some(slot) => &mut slot.newer,
            None => &mut self.oldest,
        }
    }

    fn older_of(&mut self, slot: u32) -> &mut u32 {
        match self.slots.get_mut(slot as usize) {
            Some(slot) => &mut slot.older,
            None => &mut self.newest,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::Nanos;

    fn id(n: u8) -> ClientId {
        ClientId::V4([10, 0, 0, n].into())
    }

    proptest! {
        /// Hears of a client, or forgets the oldest, as a plain list would.
        #[test]
        fn whoever_was_not_heard_of_for_longest_is_forgotten_first(heard in prop::collection::vec(prop::option::of(0..12_u8), 0..200)) {
            let (mut clients, mut list) = (Clients::default(), Vec::new());
            for heard in heard {
                if let Some(n) = heard {
                    clients.hear(id(n), || Client::new(Nanos(n.into())));
                    list.retain(|known| *known != id(n));
                    list.push(id(n));
                } else {
                    let forgotten = clients.forget_oldest().map(|(id, _)| id);
                    prop_assert_eq!(forgotten, (!list.is_empty()).then(|| list.remove(0)));
                }
                prop_assert_eq!(clients.len(), list.len());
                prop_assert_eq!(clients.ids(), list.iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_round_of_visits_comes_to_everyone_once() {
        let mut clients = Clients::default();
        for n in 0..10 {
            clients.hear(id(n), || Client::new(Nanos(n.into())));
        }
        clients.forget_oldest();
        let mut seen: Vec<Nanos> = (0..4)
            .flat_map(|_| clients.visit(3).map(|client| client.fingerprint.first_seen).collect::<Vec<_>>())
            .collect();
        seen.sort();
        assert_eq!(seen, (1..10).map(Nanos).collect::<Vec<_>>());
    }
}
