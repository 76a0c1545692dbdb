//! JA4 fingerprints, each kept once: a flow remembers a number of two bytes instead of 36 characters. Thousands of
//! clients have the same few.

use std::{collections::HashMap, num::NonZeroU16};

use crate::hello::Ja4;

/// Different ones that are kept at a time.
pub(super) const LIMIT: usize = 1 << 14;

/// The number of a fingerprint.
pub(super) type Number = NonZeroU16;

#[derive(Debug, Default)]
pub(super) struct Ja4s {
    /// By their number less 1; some may be free.
    kept: Vec<Ja4>,
    numbers: HashMap<Ja4, Number, foldhash::fast::RandomState>,
    free: Vec<Number>,
}

impl Ja4s {
    /// The fingerprint with this number.
    pub(super) fn get(&self, number: Number) -> Option<&Ja4> {
        self.kept.get(usize::from(number.get()) - 1)
    }

    /// The number of a fingerprint; `None` when there is no room for another.
    pub(super) fn number(&mut self, ja4: Ja4) -> Option<Number> {
        if let Some(number) = self.numbers.get(&ja4) {
            return Some(*number);
        }
        let number = match self.free.pop() {
            Some(number) => {
                self.kept[usize::from(number.get()) - 1] = ja4;
                number
            }
            None if self.kept.len() < LIMIT => {
                self.kept.push(ja4);
                Number::new(u16::try_from(self.kept.len()).ok()?)?
            }
            None => return None,
        };
        self.numbers.insert(ja4, number);
        Some(number)
    }

    /// Gives up those that are not `used`.
    pub(super) fn keep(&mut self, used: impl Iterator<Item = Number>) {
        let mut is_used = vec![false; self.kept.len()];
        for number in used {
            is_used[usize::from(number.get()) - 1] = true;
        }
        let free = &mut self.free;
        self.numbers.retain(|_, number| {
            let is_used = is_used[usize::from(number.get()) - 1];
            if !is_used {
                free.push(*number);
            }
            is_used
        });
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Bytes they take.
    pub(super) fn bytes(&self) -> usize {
        // A byte of the map's own and a seventh of its slots beside each entry.
        let entry = size_of::<(Ja4, Number)>() + 1;
        self.kept.capacity() * size_of::<Ja4>()
            + self.free.capacity() * size_of::<Number>()
            + self.numbers.capacity() * entry * 8 / 7
    }
}
