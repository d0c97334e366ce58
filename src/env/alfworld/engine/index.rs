//! Finding numbered things by what they are.

use std::hash::Hasher;

use rustc_hash::FxHasher;

/// A hash table of numbers from 0 on; the things that they stand for lie elsewhere.
///
/// Open addressing, at most half full: a slot is a number plus 1, or 0.
pub(crate) struct Index {
    slots: Vec<u32>,
    len: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self::with_capacity(8)
    }
}

impl Index {
    /// An empty table with room for so many numbers.
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self { slots: vec![0; (2 * count).next_power_of_two().max(2)], len: 0 }
    }

    /// The number with this hash for which `is` holds, or the slot where it would stand.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            match self.slots[slot].checked_sub(1) {
                None => return Err(slot),
                Some(number) if is(number) => return Ok(number),
                Some(_) => slot = (slot + 1) & mask,
            }
        }
    }

    /// Puts `number` into the slot that [`Index::find`] gave; `hash` tells the hash of each number so far.
    #[inline]
    pub(crate) fn insert(&mut self, slot: usize, number: u32, hash: impl Fn(u32) -> u64) {
        self.slots[slot] = number + 1;
        self.len += 1;
        if 2 * self.len > self.slots.len() {
            self.grow(hash);
        }
    }

    #[cold]
    fn grow(&mut self, hash: impl Fn(u32) -> u64) {
        let larger = vec![0; 2 * self.slots.len()];
        for slot in std::mem::replace(&mut self.slots, larger).into_iter().filter(|&slot| slot > 0)
        {
            if let Err(free) = self.find(hash(slot - 1), |_| false) {
                self.slots[free] = slot;
            }
        }
    }
}

/// The hash of a text.
pub(crate) fn hash_text(text: &str) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// A number and a few objects as one number: 16 bits for each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(u128);

impl Key {
    /// A number and at most seven objects. The first is not 0, so that no two lists of different lengths are the
    /// same.
    #[inline]
    pub(crate) fn new(first: u16, objects: impl Iterator<Item = u16>) -> Self {
        Self(objects.fold(u128::from(first) + 1, |key, object| key << 16 | u128::from(object)))
    }

    /// The hash of the key.
    #[inline]
    pub(crate) fn hash(self) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write_u64(self.0 as u64);
        hasher.write_u64((self.0 >> 64) as u64);
        hasher.finish()
    }
}
