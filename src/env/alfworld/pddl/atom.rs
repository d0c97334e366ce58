//! Objects, terms and atoms: the words that conditions, facts and operators have in common.

/// An object of a game: its rank among the sorted names.
pub(crate) type ObjectId = u16;
/// The object of a name that the game does not declare; no fact mentions it.
pub(crate) const UNKNOWN: ObjectId = ObjectId::MAX;
/// The largest number of objects in a game.
pub(crate) const MAX_OBJECTS: usize = 20_000;

/// A predicate of a domain, by its position.
pub(crate) type PredicateId = u16;

/// The largest number of variables in one action or goal.
pub(crate) const MAX_VARS: usize = 32;

/// An argument of an atom: a variable, or an object named in the text.
///
/// It is an index into a list of objects: the first [`MAX_VARS`] entries belong to the variables,
/// those after them to the [`Names`](crate::env::alfworld::pddl::condition::Names) of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term(u16);

impl Term {
    /// The variable with this number.
    pub(crate) fn var(number: u16) -> Self {
        Self(number)
    }

    /// The named object with this number.
    pub(crate) fn name(number: u16) -> Self {
        Self(MAX_VARS as u16 + number)
    }

    /// The number of the variable, if the term is one.
    pub(crate) fn as_var(self) -> Option<u16> {
        (usize::from(self.0) < MAX_VARS).then_some(self.0)
    }

    /// Looks up the object of this term.
    #[inline]
    pub(crate) fn of(self, values: &[ObjectId]) -> ObjectId {
        values[usize::from(self.0)]
    }
}

/// A predicate applied to terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Atom {
    pub(crate) predicate: PredicateId,
    pub(crate) terms: Vec<Term>,
}

impl Atom {
    /// Tests if a variable is among the terms.
    pub(crate) fn mentions(&self, var: u16) -> bool {
        self.terms.contains(&Term::var(var))
    }
}
