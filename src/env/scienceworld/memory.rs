//! What the simulator has answered before, so that it need not be asked again.
//!
//! An episode's answers depend on its calls alone (`docs/SCIENCEWORLD.md`), so they make a tree: a place in it is a
//! history of calls, and a call leads from one place to the next. The members of a group, the episodes of an
//! evaluation and later steps begin in the same way, and a load costs as much as ten actions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::env::scienceworld::calls::{Answer, Op};

/// What a call takes beside its texts: its key, its place and the table's.
const OVERHEAD: usize = 256;

/// A history of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place(u32);

impl Place {
    /// Before an episode's first call.
    pub(crate) const START: Self = Self(0);
}

/// The answers to all calls so far, shared by the environments of a pool.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    tree: Mutex<Tree>,
}

#[derive(Debug, Default)]
struct Tree {
    bytes: usize,
    answers: HashMap<(Place, Op), (Place, Arc<Answer>)>,
}

impl Memory {
    /// A memory that takes nothing more once it holds `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, tree: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to `op` after the calls of `place`, and where it leads.
    pub(crate) fn recall(&self, place: Place, op: &Op) -> Option<(Place, Arc<Answer>)> {
        self.lock().answers.get(&(place, op.clone())).cloned()
    }

    /// Keeps an answer and says where it leads; `None` where it is full.
    pub(crate) fn keep(&self, place: Place, op: &Op, answer: &Arc<Answer>) -> Option<Place> {
        let mut tree = self.lock();
        if let Some((next, _)) = tree.answers.get(&(place, op.clone())) {
            return Some(*next);
        }
        let bytes = tree.bytes + OVERHEAD + op.name().len() + answer.size();
        if bytes > self.limit {
            return None;
        }
        tree.bytes = bytes;
        let next = Place(u32::try_from(tree.answers.len() + 1).ok()?);
        tree.answers.insert((place, op.clone()), (next, answer.clone()));
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(text: &str) -> Op {
        Op::Act(text.to_owned())
    }

    fn answer(text: &str) -> Arc<Answer> {
        Arc::new(Answer { text: text.to_owned(), ..Answer::default() })
    }

    #[test]
    fn the_same_call_after_other_calls_is_another() {
        let memory = Memory::new(10_000);
        let left = memory.keep(Place::START, &act("left"), &answer("a wall")).unwrap();
        let right = memory.keep(Place::START, &act("right"), &answer("a door")).unwrap();
        let opened = memory.keep(right, &act("open"), &answer("it opens")).unwrap();
        assert_eq!(memory.keep(right, &act("open"), &answer("it opens")), Some(opened));
        assert_eq!(memory.recall(right, &act("open")), Some((opened, answer("it opens"))));
        assert_eq!(memory.recall(left, &act("open")), None);
        assert_eq!(memory.recall(opened, &act("open")), None);
        assert_eq!(memory.recall(right, &Op::Ask), None);
    }

    #[test]
    fn a_full_memory_takes_nothing_more_and_forgets_nothing() {
        let memory = Memory::new(OVERHEAD + 10);
        let place = memory.keep(Place::START, &act("one"), &answer("two")).unwrap();
        assert_eq!(memory.keep(place, &act("three"), &answer("four")), None);
        assert_eq!(memory.recall(Place::START, &act("one")), Some((place, answer("two"))));
        assert_eq!(Memory::new(0).keep(Place::START, &act("one"), &answer("two")), None);
    }
}
