//! Matching: every assignment of objects to variables under which a condition can hold.
//!
//! A [`Search`] follows a join plan step by step and backtracks over the candidates of each step.
//! Delete effects are ignored, so a fact that can ever become true counts as true (delete
//! relaxation). Grounding therefore finds all operators that can ever become applicable, and
//! leaves fluent negative atoms to the game in play.

use crate::env::alfworld::engine::facts::{Facts, List};
use crate::env::alfworld::pddl::atom::{Atom, ObjectId, Term, MAX_VARS, UNKNOWN};
use crate::env::alfworld::pddl::condition::{Names, MAX_ATOMS};
use crate::env::alfworld::pddl::join::{Join, Plan, Step};
use crate::env::alfworld::pddl::objects::Objects;
use crate::env::alfworld::pddl::types::{TypeId, Types, NO_TYPE};

/// The largest number of candidates that are tried while a game is loaded.
pub(crate) const MAX_TRIES: u64 = 50_000_000;

/// The facts and objects that are searched, and the current assignment.
pub(crate) struct Space {
    pub(crate) facts: Facts,
    /// The number of candidates that may still be tried.
    pub(crate) tries: u64,
    /// The objects of the variables, then those of the named terms.
    pub(crate) values: Vec<ObjectId>,
    /// The fact matched by each positive atom.
    pub(crate) matched: [u32; MAX_ATOMS],
    objects: usize,
    /// For each type and each object, `true` if the object has the type.
    fits: Vec<bool>,
}

impl Space {
    /// Starts with the facts and objects of a game.
    pub(crate) fn new(facts: Facts, objects: &Objects, types: &Types) -> Self {
        let kinds = 0..types.len() as TypeId;
        let fits =
            kinds.flat_map(|kind| objects.types.iter().map(move |&object| types.is(object, kind)));
        Self {
            facts,
            tries: MAX_TRIES,
            values: vec![UNKNOWN; MAX_VARS],
            matched: [0; MAX_ATOMS],
            objects: objects.types.len(),
            fits: fits.collect(),
        }
    }

    /// Binds the named terms of a text to objects.
    pub(crate) fn set_names(&mut self, names: &Names, objects: &Objects) {
        self.values.truncate(MAX_VARS);
        self.values.extend(names.list.iter().map(|name| objects.find(name).unwrap_or(UNKNOWN)));
    }

    /// Looks up the fact that an atom is under the current assignment.
    #[inline]
    pub(crate) fn get(&self, atom: &Atom) -> Option<u32> {
        self.facts.get(atom, &self.values)
    }

    /// Finds or adds the fact that an atom is under the current assignment.
    ///
    /// Returns `None` if it names an object that the game does not have.
    #[inline]
    pub(crate) fn insert(&mut self, atom: &Atom) -> Option<u32> {
        self.facts.insert(atom.predicate, atom.terms.iter().map(|term| term.of(&self.values)))
    }

    /// Tests if an object has a type.
    #[inline]
    fn is_of(&self, object: ObjectId, kind: TypeId) -> bool {
        kind != NO_TYPE && self.fits[usize::from(kind) * self.objects + usize::from(object)]
    }

    /// Counts one candidate; returns `false` if the limit is reached.
    #[inline]
    fn try_one(&mut self) -> bool {
        let left = self.tries > 0;
        self.tries -= u64::from(left);
        left
    }

    /// Binds the variables of a step to fact `id`; returns `false` if the fact does not match.
    #[inline]
    fn bind(&mut self, step: &Step, id: u32) -> bool {
        self.matched[step.place] = id;
        for bind in &step.binds {
            let object = self.facts.arg(id, bind.arg);
            self.values[usize::from(bind.var)] = object;
            if !self.is_of(object, bind.kind) {
                return false;
            }
        }
        let repeats =
            |&(arg, var): &(u16, u16)| self.values[usize::from(var)] == self.facts.arg(id, arg);
        step.repeats.iter().all(repeats)
            && step.excludes.iter().all(|atom| self.get(atom).is_none())
    }

    /// Tests if a fact has the arguments that a step knows, `by` included.
    fn has_known(&self, step: &Step, id: u32) -> bool {
        let fits = |&(arg, term): &(u16, Term)| self.facts.arg(id, arg) == term.of(&self.values);
        step.by.as_ref().is_none_or(fits) && step.known.iter().all(fits)
    }

    /// Returns the latest candidate before `limit`, and the list that holds the other candidates.
    #[inline]
    fn first(&self, step: &Step, limit: u32) -> Option<(u32, Option<List>)> {
        if step.binds.is_empty() {
            return self.get(&step.atom).filter(|&id| id < limit).map(|id| (id, None));
        }
        let by = step.by.map(|(arg, term)| (arg, term.of(&self.values)));
        let list = self.facts.list(step.atom.predicate, by)?;
        let first = self.next(step, limit, list, self.facts.last(list))?;
        Some((first, Some(list)))
    }

    /// Returns the next candidate of a list, from `id` on.
    #[inline]
    fn next(&self, step: &Step, limit: u32, list: List, mut id: Option<u32>) -> Option<u32> {
        while let Some(fact) = id {
            let fits =
                |&(arg, term): &(u16, Term)| self.facts.arg(fact, arg) == term.of(&self.values);
            if fact < limit && step.known.iter().all(fits) {
                return id;
            }
            id = self.facts.before(list, fact);
        }
        None
    }
}

/// A search that follows one plan of one join.
pub(crate) struct Search<'a, F> {
    pub(crate) space: &'a mut Space,
    /// The types of the variables.
    pub(crate) types: &'a [TypeId],
    pub(crate) join: &'a Join,
    pub(crate) plan: &'a Plan,
    /// Only facts before this one count; with a trigger, it is the triggering fact.
    pub(crate) limit: u32,
    /// Called for each assignment found; returns `false` to end the search.
    pub(crate) found: F,
}

impl<F: FnMut(&mut Space) -> bool> Search<'_, F> {
    /// Finds every assignment; with a trigger, only those that match it in the first step.
    ///
    /// Returns `false` if the search ended early.
    pub(crate) fn run(&mut self) -> bool {
        match self.plan.steps.first() {
            Some(step) if self.plan.is_triggered => {
                !self.space.has_known(step, self.limit)
                    || self.space.try_one()
                        && (!self.space.bind(step, self.limit) || self.extend(1))
            }
            _ => self.extend(0),
        }
    }

    /// Tries every candidate of step `depth` and of the steps after it.
    fn extend(&mut self, depth: usize) -> bool {
        let Some(step) = self.plan.steps.get(depth) else { return self.finish(0) };
        let limit = self.limit + u32::from(step.includes_trigger);
        let Some((first, list)) = self.space.first(step, limit) else { return true };
        let mut candidate = Some(first);
        while let Some(id) = candidate {
            if !self.space.try_one() || self.space.bind(step, id) && !self.extend(depth + 1) {
                return false;
            }
            candidate = list.and_then(|list| {
                let before = self.space.facts.before(list, id);
                self.space.next(step, limit, list, before)
            });
        }
        true
    }

    /// Assigns objects to the unbound variables from number `depth` on, then calls `found`.
    fn finish(&mut self, depth: usize) -> bool {
        let Some(&var) = self.join.unbound.get(depth) else {
            return !self.holds() || (self.found)(self.space);
        };
        for object in 0..self.space.objects as ObjectId {
            if !self.space.try_one() {
                return false;
            }
            self.space.values[usize::from(var)] = object;
            let fits = self.space.is_of(object, self.types[usize::from(var)]);
            if fits && !self.finish(depth + 1) {
                return false;
            }
        }
        true
    }

    /// Tests the types of unused variables, the equalities and the unchecked static atoms.
    fn holds(&self) -> bool {
        let space = &*self.space;
        let exists = |var: &u16| {
            let kind = self.types[usize::from(*var)];
            (0..space.objects as ObjectId).any(|object| space.is_of(object, kind))
        };
        let same = |(a, b, same): &(Term, Term, bool)| {
            (a.of(&space.values) == b.of(&space.values)) == *same
        };
        self.join.unused.iter().all(exists)
            && self.join.case.equal.iter().all(same)
            && self.join.unchecked.iter().all(|atom| space.get(atom).is_none())
    }
}
