//! A cache of the simulator's responses.
//!
//! Responses depend on nothing but the calls of the episode so far (`docs/SCIENCEWORLD.md`). They
//! therefore form a tree: a place is a history of calls, and each call leads to another place. The
//! cache pays off because many episodes start alike (the members of a group, evaluations, later
//! steps) and loading a task takes as long as ten actions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::env::scienceworld::calls::{Call, Response};

/// The bytes of an entry in addition to its texts.
const OVERHEAD: usize = 256;

/// A history of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place(u32);

impl Place {
    /// The place before the first call of an episode.
    pub(crate) const START: Self = Self(0);
}

/// The responses to all calls so far, shared by the environments of a pool.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    tree: Mutex<Tree>,
}

#[derive(Debug, Default)]
struct Tree {
    bytes: usize,
    responses: HashMap<(Place, Call), (Place, Arc<Response>)>,
}

impl Memory {
    /// Creates a memory of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, tree: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the response to `call` at `place`, and the next place.
    pub(crate) fn recall(&self, place: Place, call: &Call) -> Option<(Place, Arc<Response>)> {
        self.lock().responses.get(&(place, call.clone())).cloned()
    }

    /// Stores a response and returns the next place, or `None` if the memory is full.
    pub(crate) fn keep(
        &self,
        place: Place,
        call: &Call,
        response: &Arc<Response>,
    ) -> Option<Place> {
        let mut tree = self.lock();
        if let Some((next, _)) = tree.responses.get(&(place, call.clone())) {
            return Some(*next);
        }
        let bytes = tree.bytes + OVERHEAD + call.name().len() + response.size();
        if bytes > self.limit {
            return None;
        }
        tree.bytes = bytes;
        let next = Place(u32::try_from(tree.responses.len() + 1).ok()?);
        tree.responses.insert((place, call.clone()), (next, response.clone()));
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(text: &str) -> Call {
        Call::Act(text.to_owned())
    }

    fn response(text: &str) -> Arc<Response> {
        Arc::new(Response { text: text.to_owned(), ..Response::default() })
    }

    #[test]
    fn responses_depend_on_the_calls_before() {
        let memory = Memory::new(10_000);
        let left = memory.keep(Place::START, &act("left"), &response("a wall")).unwrap();
        let right = memory.keep(Place::START, &act("right"), &response("a door")).unwrap();
        let opened = memory.keep(right, &act("open"), &response("it opens")).unwrap();
        assert_eq!(memory.keep(right, &act("open"), &response("it opens")), Some(opened));
        assert_eq!(memory.recall(right, &act("open")), Some((opened, response("it opens"))));
        assert_eq!(memory.recall(left, &act("open")), None);
        assert_eq!(memory.recall(opened, &act("open")), None);
        assert_eq!(memory.recall(right, &Call::ValidActions), None);
    }

    #[test]
    fn a_full_memory_stores_nothing_more_and_evicts_nothing() {
        let memory = Memory::new(OVERHEAD + 10);
        let place = memory.keep(Place::START, &act("one"), &response("two")).unwrap();
        assert_eq!(memory.keep(place, &act("three"), &response("four")), None);
        assert_eq!(memory.recall(Place::START, &act("one")), Some((place, response("two"))));
        assert_eq!(Memory::new(0).keep(Place::START, &act("one"), &response("two")), None);
    }
}
