//! States of a game: the facts that hold and the operators that are applicable.

use crate::env::alfworld::engine::bits::Bits;

/// An operator of a game, that is an action with objects for its parameters, by its number.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct OperatorId(pub(crate) u32);

impl OperatorId {
    /// The number, counted from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A state of a game.
///
/// Two states of one game are equal if the same facts hold. States can be cloned, hashed and
/// changed by [`Game::apply`](crate::env::alfworld::Game::apply), as graph search needs.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) facts: Bits,
    pub(crate) applicable: Bits,
}

impl State {
    /// Iterates over the applicable operators in ascending order.
    pub fn applicable(&self) -> impl Iterator<Item = OperatorId> + '_ {
        self.applicable.ones().map(OperatorId)
    }

    /// Tests if an operator is applicable; returns `false` for numbers out of range.
    pub fn is_applicable(&self, operator: OperatorId) -> bool {
        operator.index() < self.applicable.len() && self.applicable.get(operator.0)
    }

    /// Iterates over the fluent facts that hold, by number; see
    /// [`Game::fact`](crate::env::alfworld::Game::fact).
    pub fn facts(&self) -> impl Iterator<Item = usize> + '_ {
        self.facts.ones().map(|fact| fact as usize)
    }

    /// Tests if a fluent fact holds; returns `false` for numbers out of range.
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
