//! States of a game for search: what is true, and which operators are applicable.

use crate::env::alfworld::engine::bits::Bits;

/// An operator of a game: an action with its parameters, by its number.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct OperatorId(pub(crate) u32);

impl OperatorId {
    /// The number, from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is true in a game now. Two states of one game are equal if the same is true in them.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) facts: Bits,
    pub(crate) applicable: Bits,
}

impl State {
    /// The operators that can be applied, ascending.
    pub fn applicable(&self) -> impl Iterator<Item = OperatorId> + '_ {
        self.applicable.ones().map(OperatorId)
    }

    /// Whether an operator can be applied; one of another game cannot.
    pub fn is_applicable(&self, operator: OperatorId) -> bool {
        operator.index() < self.applicable.len() && self.applicable.get(operator.0)
    }

    /// The numbers of the facts that are true, of those that actions can change; see
    /// [`Game::fact`](crate::env::alfworld::Game::fact).
    pub fn facts(&self) -> impl Iterator<Item = usize> + '_ {
        self.facts.ones().map(|fact| fact as usize)
    }

    /// Whether the fact of that number is true.
    pub fn holds(&self, fact: usize) -> bool {
        fact < self.facts.len() && self.facts.get(fact as u32)
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.facts == other.facts
    }
}

impl Eq for State {}

impl std::hash::Hash for State {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        self.facts.hash(hasher);
    }
}
