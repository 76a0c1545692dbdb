//! Who is like whom, without asking everybody.
//!
//! Profiles lie in a grid by stack, request size and answer size, whose cells are as wide as clients of one campaign may
//! differ. Whoever is near a profile is in its cell or beside it. Invariant: each client is in one cell, that of
//! its last profile.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ClientId, Nanos};

use super::profile::Profile;

/// How far apart clients of one campaign may be, octaves: sizes within 15 %.
pub(crate) const RADIUS: f32 = 0.2;

type Cell = (u32, i16, i16);

/// A client and what it looks like.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) client: ClientId,
    pub(crate) profile: Profile,
    /// Its first exchange, and its last.
    pub(crate) first: Nanos,
    pub(crate) last: Nanos,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    cells: BTreeMap<Cell, Vec<Entry>>,
    of: BTreeMap<ClientId, Cell>,
}

impl Index {
    pub(crate) fn set(&mut self, entry: Entry) {
        self.remove(entry.client);
        let cell = cell(&entry.profile);
        // Most cells hold one client.
        self.cells.entry(cell).or_insert_with(|| Vec::with_capacity(1)).push(entry);
        self.of.insert(entry.client, cell);
    }

    /// What the client looks like.
    pub(crate) fn get(&self, client: ClientId) -> Option<&Entry> {
        let cell = self.of.get(&client)?;
        self.cells.get(cell)?.iter().find(|entry| entry.client == client)
    }

    pub(crate) fn remove(&mut self, client: ClientId) {
        let Some(cell) = self.of.remove(&client) else { return };
        if let Some(entries) = self.cells.get_mut(&cell) {
            entries.retain(|entry| entry.client != client);
            if entries.is_empty() {
                self.cells.remove(&cell);
            }
        }
    }

    /// Everyone within twice [`RADIUS`] of `profile`, with the distance, in a fixed order.
    pub(crate) fn near(&self, profile: &Profile) -> Vec<(Entry, f32)> {
        let (stack, request, answer) = cell(profile);
        let mut near = Vec::new();
        for column in request.saturating_sub(2)..=request.saturating_add(2) {
            let from = (stack, column, answer.saturating_sub(2));
            let to = (stack, column, answer.saturating_add(2));
            for entry in self.cells.range(from..=to).flat_map(|(_, entries)| entries) {
                let distance = entry.profile.distance(profile);
                if distance <= 2.0 * RADIUS {
                    near.push((*entry, distance));
                }
            }
        }
        near
    }
}

fn cell(profile: &Profile) -> Cell {
    let number = |value: f32| (value / RADIUS).floor() as i16;
    (profile.stack, number(profile.request), number(profile.answer))
}
