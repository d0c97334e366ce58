//! The objects of a game and the names under which players know them.

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use crate::env::alfworld::pddl::atom::ObjectId;
use crate::env::alfworld::pddl::types::TypeId;

/// The objects of a game, sorted by the names that the game file gives them.
#[derive(Default)]
pub(crate) struct Objects {
    /// The names in the game file.
    pub(crate) ids: Vec<Box<str>>,
    pub(crate) types: Vec<TypeId>,
    /// The names that players see; empty until [`Objects::name`] is called.
    pub(crate) names: Vec<Box<str>>,
}

/// The separator between the parts of an object's name in the game file.
const BAR: &str = "_bar_";
/// How names in the game file spell characters that PDDL does not allow.
const SPELLED: [(&str, &str); 4] =
    [("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ",")];

impl Objects {
    /// Names the objects for players: a kind and a number, such as `mug 1`.
    ///
    /// As in ALFWorld, the last object of a kind in sorted order has number 1. Objects that no
    /// fact mentions (`used` is `false`) are not numbered and keep their names.
    pub(crate) fn name(&mut self, used: &[bool]) {
        let mut kinds: Vec<Option<Cow<str>>> = Vec::with_capacity(self.ids.len());
        for (id, &used) in self.ids.iter().zip(used) {
            kinds.push(if used { kind(id) } else { None });
        }
        let mut left: FxHashMap<&str, usize> = FxHashMap::default();
        for kind in kinds.iter().flatten() {
            *left.entry(kind).or_default() += 1;
        }
        let mut names = Vec::with_capacity(self.ids.len());
        for ((id, kind), &used) in self.ids.iter().zip(&kinds).zip(used) {
            let name = match kind {
                Some(kind) => {
                    let number = left.entry(kind).or_default();
                    let name = format!("{kind} {number}");
                    *number -= 1;
                    name
                }
                None if used => format!("{} ", plain(id)),
                None => id.to_string(),
            };
            names.push(name.into());
        }
        self.names = names;
    }

    /// Returns the object called `id` in the game file.
    pub(crate) fn find(&self, id: &str) -> Option<ObjectId> {
        let found = self.ids.binary_search_by(|known| (**known).cmp(id));
        found.ok().map(|object| object as ObjectId)
    }
}

/// The kind of an object: the first part of its name; `None` for a name without parts.
fn kind(id: &str) -> Option<Cow<'_, str>> {
    let (first, _) = id.split_once(BAR)?;
    let kind = plain(first);
    Some(if id.contains("basin") { kind + "basin" } else { kind })
}

/// Replaces spelled-out characters in a name.
fn plain(id: &str) -> Cow<'_, str> {
    if id.contains('_') {
        SPELLED.iter().fold(id.to_owned(), |name, (from, to)| name.replace(from, to)).into()
    } else {
        id.into()
    }
}
