//! Finding every way in which the variables of a condition can stand for objects.

use crate::env::alfworld::engine::facts::{Facts, List};
use crate::env::alfworld::pddl::atom::{Atom, ObjectId, Term, MAX_VARS, UNKNOWN};
use crate::env::alfworld::pddl::condition::{Names, MAX_ATOMS};
use crate::env::alfworld::pddl::join::{Join, Plan, Step};
use crate::env::alfworld::pddl::objects::Objects;
use crate::env::alfworld::pddl::types::{TypeId, Types, NO_TYPE};

/// How many facts may be tried while a game is loaded.
pub(crate) const MAX_TRIES: u64 = 50_000_000;

/// What is searched: facts, objects with their types, and what terms stand for while a search is under way.
pub(crate) struct Space {
    pub(crate) facts: Facts,
    /// How many facts may still be tried.
    pub(crate) tries: u64,
    /// The objects of the variables, then those of the names.
    pub(crate) values: Vec<ObjectId>,
    /// The facts that the positive atoms match.
    pub(crate) matched: [u32; MAX_ATOMS],
    objects: usize,
    /// For each type and object, whether it is of the type.
    fits: Vec<bool>,
}

impl Space {
    /// The objects and facts of a game.
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

    /// Sets what names stand for.
    pub(crate) fn set_names(&mut self, names: &Names, objects: &Objects) {
        self.values.truncate(MAX_VARS);
        self.values.extend(names.list.iter().map(|name| objects.find(name).unwrap_or(UNKNOWN)));
    }

    /// The fact that an atom is now, if there is one.
    #[inline]
    pub(crate) fn get(&self, atom: &Atom) -> Option<u32> {
        self.facts.get(atom, &self.values)
    }

    /// The fact that an atom is now, a new one if need be; `None` if it is about an object that there is not.
    #[inline]
    pub(crate) fn insert(&mut self, atom: &Atom) -> Option<u32> {
        self.facts.insert(atom.predicate, atom.terms.iter().map(|term| term.of(&self.values)))
    }

    /// Whether an object is of a type.
    #[inline]
    fn is_of(&self, object: ObjectId, kind: TypeId) -> bool {
        kind != NO_TYPE && self.fits[usize::from(kind) * self.objects + usize::from(object)]
    }

    /// Takes one try, if there is one left.
    #[inline]
    fn try_one(&mut self) -> bool {
        let left = self.tries > 0;
        self.tries -= u64::from(left);
        left
    }

    /// Takes fact `id` for a step's atom; `false` if the variables do not allow it.
    #[inline(always)]
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
        (step.repeats.is_empty() || step.repeats.iter().all(repeats))
            && (step.excludes.is_empty()
                || step.excludes.iter().all(|atom| self.get(atom).is_none()))
    }

    /// Whether a fact has the known arguments, of which one is `by`.
    fn has_known(&self, step: &Step, id: u32) -> bool {
        let fits = |&(arg, term): &(u16, Term)| self.facts.arg(id, arg) == term.of(&self.values);
        step.by.as_ref().is_none_or(fits) && step.known.iter().all(fits)
    }

    /// The latest fact before `limit` that may be a step's atom, and the list in which others stand.
    #[inline(always)]
    fn first(&self, step: &Step, limit: u32) -> Option<(u32, Option<List>)> {
        if step.binds.is_empty() {
            return self.get(&step.atom).filter(|&id| id < limit).map(|id| (id, None));
        }
        let by = step.by.map(|(arg, term)| (arg, term.of(&self.values)));
        let list = self.facts.list(step.atom.predicate, by)?;
        let first = self.next(step, limit, list, self.facts.last(list))?;
        Some((first, Some(list)))
    }

    /// The first fact that may be a step's atom, from `id` on.
    #[inline(always)]
    fn next(&self, step: &Step, limit: u32, list: List, mut id: Option<u32>) -> Option<u32> {
        let fits =
            |&(arg, term): &(u16, Term), id| self.facts.arg(id, arg) == term.of(&self.values);
        while let Some(fact) = id {
            if fact < limit
                && (step.known.is_empty() || step.known.iter().all(|known| fits(known, fact)))
            {
                return id;
            }
            id = self.facts.before(list, fact);
        }
        None
    }
}

/// A search over one plan of one join.
pub(crate) struct Search<'a, F> {
    pub(crate) space: &'a mut Space,
    /// The types of the variables.
    pub(crate) types: &'a [TypeId],
    pub(crate) join: &'a Join,
    pub(crate) plan: &'a Plan,
    /// Only facts before this one count; with a trigger, it is the fact that is being looked at.
    pub(crate) limit: u32,
    /// Is told of each way that is found, by the values and the facts matched; `false` ends the search.
    pub(crate) found: F,
}

impl<F: FnMut(&mut Space) -> bool> Search<'_, F> {
    /// Finds every way that the facts allow; with a trigger, those in which it is the first step's fact. `false`
    /// when the search was ended early.
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

    /// Goes on with the step numbered `depth`.
    fn extend(&mut self, mut depth: usize) -> bool {
        while let Some(step) = self.plan.steps.get(depth) {
            depth += 1;
            let limit = self.limit + u32::from(step.includes_trigger);
            let Some((mut id, list)) = self.space.first(step, limit) else { return true };
            // The last candidate takes no call of its own: most steps have only one.
            while let Some(next) = list.and_then(|list| {
                self.space.next(step, limit, list, self.space.facts.before(list, id))
            }) {
                if !self.space.try_one() || self.space.bind(step, id) && !self.extend(depth) {
                    return false;
                }
                id = next;
            }
            if !self.space.try_one() {
                return false;
            }
            if !self.space.bind(step, id) {
                return true;
            }
        }
        self.finish(0)
    }

    /// Gives the loose variables objects, from the one numbered `depth` on; then tells of it.
    fn finish(&mut self, depth: usize) -> bool {
        let Some(&var) = self.join.loose.get(depth) else {
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

    /// Whether what can be decided now holds: types of idle variables, equalities, facts that never change.
    fn holds(&self) -> bool {
        let space = &*self.space;
        let exists = |var: &u16| {
            let kind = self.types[usize::from(*var)];
            (0..space.objects as ObjectId).any(|object| space.is_of(object, kind))
        };
        let same = |(a, b, same): &(Term, Term, bool)| {
            (a.of(&space.values) == b.of(&space.values)) == *same
        };
        self.join.idle.iter().all(exists)
            && self.join.case.equal.iter().all(same)
            && self.join.late.iter().all(|atom| space.get(atom).is_none())
    }
}
