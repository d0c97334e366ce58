//! The objects of a game and the names under which players know them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Write;

use crate::env::alfworld::engine::facts::ObjectId;
use crate::env::alfworld::engine::index::{hash_text, Index};
use crate::env::alfworld::grammar::texts::Texts;
use crate::env::alfworld::pddl::types::TypeId;

/// The objects of a game; an object's number is the rank of its name.
#[derive(Default)]
pub(crate) struct Objects {
    pub(crate) ids: Texts,
    pub(crate) types: Vec<TypeId>,
    /// The names that players see.
    pub(crate) names: Texts,
}

/// The text between the parts of an object's name in the problem.
const BAR: &str = "_bar_";
/// Spelled-out characters in names.
const SPELLED: [(&str, &str); 4] =
    [("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ",")];

impl Objects {
    /// Names the objects for players, counting those of a kind. Those that occur in no fact (`used` says which
    /// do) are not counted and keep their names. The last in the order of names is number 1; with a `shuffle` seed the order
    /// is a random one.
    pub(crate) fn name(&mut self, used: &[bool], shuffle: Option<u64>) {
        let mut order: Vec<usize> = (0..self.ids.len()).filter(|&id| used[id]).collect();
        if let Some(seed) = shuffle {
            shuffled(&mut order, seed);
        }
        let mut kinds = Kinds::default();
        let kind_of = |id: usize| used[id].then(|| kind(self.ids.get(id))).flatten();
        let kind_of: Vec<Option<usize>> =
            (0..self.ids.len()).map(|id| kind_of(id).map(|kind| kinds.count(&kind))).collect();
        let mut numbers = vec![0; self.ids.len()];
        for (id, kind) in order.into_iter().filter_map(|id| Some((id, kind_of[id]?))) {
            numbers[id] = kinds.counts[kind];
            kinds.counts[kind] -= 1;
        }
        let mut name = String::new();
        for (id, number) in numbers.into_iter().enumerate() {
            name.clear();
            let written = match kind_of[id] {
                Some(kind) => write!(name, "{} {number}", kinds.texts.get(kind)),
                None if used[id] => write!(name, "{} ", plain(self.ids.get(id))),
                None => write!(name, "{}", self.ids.get(id)),
            };
            debug_assert!(written.is_ok(), "a String takes every text");
            self.names.push(&name);
        }
        self.names.shrink();
    }

    /// The object called `id` in the problem.
    pub(crate) fn find(&self, id: &str) -> Option<ObjectId> {
        let (mut from, mut to) = (0, self.ids.len());
        while from < to {
            let middle = from.midpoint(to);
            match self.ids.get(middle).cmp(id) {
                Ordering::Less => from = middle + 1,
                Ordering::Equal => return Some(middle as ObjectId),
                Ordering::Greater => to = middle,
            }
        }
        None
    }
}

/// Kinds of things, and how many there are of each.
#[derive(Default)]
struct Kinds {
    texts: Texts,
    counts: Vec<usize>,
    by_text: Index,
}

impl Kinds {
    /// Counts one more of a kind; gives the kind's number.
    fn count(&mut self, kind: &str) -> usize {
        let known =
            self.by_text.find(hash_text(kind), |known| self.texts.get(known as usize) == kind);
        let number = known.map_or(self.counts.len(), |known| known as usize);
        if let Err(slot) = known {
            self.texts.push(kind);
            self.counts.push(0);
            self.by_text
                .insert(slot, number as u32, |known| hash_text(self.texts.get(known as usize)));
        }
        self.counts[number] += 1;
        number
    }
}

/// What kind of thing an object is: the first part of its name; `None` for a name without parts.
fn kind(id: &str) -> Option<Cow<'_, str>> {
    let (first, _) = id.split_once(BAR)?;
    let kind = plain(first);
    Some(if id.contains("basin") { kind + "basin" } else { kind })
}

/// A name with its spelled-out characters put back.
fn plain(id: &str) -> Cow<'_, str> {
    if id.contains('_') {
        SPELLED.iter().fold(id.to_owned(), |name, (from, to)| name.replace(from, to)).into()
    } else {
        id.into()
    }
}

/// Puts `order` into a random order (Fisher–Yates, SplitMix64).
fn shuffled(order: &mut [usize], seed: u64) {
    let mut state = seed;
    for i in (1..order.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let random = mixed ^ (mixed >> 31);
        // The high half of the product is below `i + 1`; its bias is below 2⁻⁴⁸ here.
        order.swap(i, ((u128::from(random) * (i as u128 + 1)) >> 64) as usize);
    }
}
