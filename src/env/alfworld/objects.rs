//! The objects of a game and the names under which players know them.

use rustc_hash::FxHashMap;

use super::facts::ObjectId;
use super::types::TypeId;

/// The objects of a game; an object's number is the rank of its name.
#[derive(Default)]
pub(super) struct Objects {
    pub(super) ids: Vec<String>,
    pub(super) types: Vec<TypeId>,
    /// The names that players see.
    pub(super) names: Vec<String>,
}

/// The text between the parts of an object's name in the problem.
const BAR: &str = "_bar_";
/// Spelled-out characters in names.
const SPELLED: [(&str, &str); 4] = [("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ",")];

impl Objects {
    /// Names the objects for players, counting those of a kind. Those that occur in no fact (`used` says which
    /// do) are not counted and keep their names. The last in the order of names is number 1; with a `shuffle` seed the order
    /// is a random one.
    pub(super) fn name(&mut self, used: &[bool], shuffle: Option<u64>) {
        let mut order: Vec<usize> = (0..self.ids.len()).filter(|&id| used[id]).collect();
        if let Some(seed) = shuffle {
            shuffled(&mut order, seed);
        }
        let own_name = |(id, used): (&String, &bool)| if *used { String::new() } else { id.clone() };
        self.names = self.ids.iter().zip(used).map(own_name).collect();
        let kinds: Vec<Option<String>> = order.iter().map(|&id| kind(&self.ids[id])).collect();
        let mut counts: FxHashMap<&str, usize> = FxHashMap::default();
        for kind in kinds.iter().flatten() {
            *counts.entry(kind).or_default() += 1;
        }
        for (&id, kind) in order.iter().zip(&kinds) {
            self.names[id] = match kind {
                Some(kind) => {
                    let count = counts.entry(kind).or_default();
                    *count -= 1;
                    format!("{kind} {}", *count + 1)
                }
                None => format!("{} ", plain(&self.ids[id])),
            };
        }
    }

    /// The object called `id` in the problem.
    pub(super) fn find(&self, id: &str) -> Option<ObjectId> {
        self.ids.binary_search_by(|known| known.as_str().cmp(id)).ok().map(|rank| rank as ObjectId)
    }
}

/// What kind of thing an object is: the first part of its name; `None` for a name without parts.
fn kind(id: &str) -> Option<String> {
    let (first, _) = id.split_once(BAR)?;
    let kind = plain(first);
    Some(if id.contains("basin") { kind + "basin" } else { kind })
}

/// A name with its spelled-out characters put back.
fn plain(id: &str) -> String {
    match id.contains('_') {
        true => SPELLED.iter().fold(id.to_owned(), |name, (from, to)| name.replace(from, to)),
        false => id.to_owned(),
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
