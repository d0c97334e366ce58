//! Finding every way in which the variables of a condition can stand for objects.

use super::condition::{Atom, Case, Names, Term, MAX_ATOMS, MAX_VARS};
use super::domain::{Effect, Predicates};
use super::facts::{Facts, ObjectId, UNKNOWN};
use super::objects::Objects;
use super::types::{TypeId, Types, NO_TYPE};

/// One alternative of a condition, and the orders in which its atoms are matched.
pub(super) struct Join {
    pub(super) case: Case,
    /// The positive atoms that actions can make true.
    pub(super) fluents: Vec<usize>,
    /// For each of these, the plan that begins with it.
    pub(super) plans: Vec<Plan>,
    /// The plan that begins anywhere.
    pub(super) whole: Plan,
    /// The negative atoms that actions can make true.
    pub(super) absent: Vec<Atom>,
    /// For each effect of the action, which of `fluents` is the same atom.
    pub(super) effects: Vec<Option<usize>>,
    /// Variables that no positive atom mentions: they stand for every object of their type.
    loose: Vec<u16>,
    /// Variables that nothing mentions: an object of their type must exist.
    idle: Vec<u16>,
    /// The negative atoms that no action can change and that no step can decide.
    late: Vec<Atom>,
}

/// An order of the positive atoms of a case.
pub(super) struct Plan {
    /// Whether it begins with the fact that is being looked at.
    is_triggered: bool,
    steps: Vec<Step>,
}

/// Matching one atom, given what the steps before it have bound.
struct Step {
    /// Which positive atom of the case.
    place: usize,
    atom: Atom,
    /// Arguments that are known before.
    known: Vec<(u16, Term)>,
    /// Arguments that give a variable its object.
    binds: Vec<Bind>,
    /// Arguments whose variable another argument of the atom binds.
    repeats: Vec<(u16, u16)>,
    /// Whether the atom may also match the fact that is being looked at.
    includes_trigger: bool,
    /// The negative atoms that no action can change and whose variables are known now.
    excludes: Vec<Atom>,
}

/// An argument that gives a variable of a type its object.
struct Bind {
    arg: u16,
    var: u16,
    kind: TypeId,
}

/// How many facts may be tried while a game is loaded.
pub(super) const MAX_TRIES: u64 = 50_000_000;

impl Join {
    /// Plans a case whose first `params` variables are parameters.
    pub(super) fn plan(case: Case, params: usize, vars: &[TypeId], predicates: &Predicates) -> Self {
        let fluent = |atom: &Atom| predicates.list[usize::from(atom.predicate)].fluent;
        let fluents: Vec<usize> = (0..case.positive.len()).filter(|&i| fluent(&case.positive[i])).collect();
        let plans = fluents.iter().map(|&i| Plan::new(&case, Some(i), vars, predicates)).collect();
        let whole = Plan::new(&case, None, vars, predicates);
        let bound = |var: &u16| case.positive.iter().any(|atom| atom.mentions(*var));
        let used = |var: &u16| {
            case.negative.iter().any(|atom| atom.mentions(*var))
                || case.equal.iter().any(|(a, b, _)| [a, b].contains(&&Term::var(*var)))
        };
        let all: Vec<u16> = (0..vars.len() as u16).filter(|var| !bound(var)).collect();
        let is_param = |var: &u16| usize::from(*var) < params;
        let exists = |var: &u16| case.exists.contains(var);
        let loose = all.iter().copied().filter(|var| is_param(var) || exists(var) && used(var)).collect();
        let idle = all.iter().copied().filter(|var| exists(var) && !used(var)).collect();
        let (absent, constant): (Vec<Atom>, Vec<Atom>) = case.negative.iter().cloned().partition(fluent);
        let decided = |atom: &Atom| whole.steps.iter().any(|step| step.excludes.contains(atom));
        let late = constant.into_iter().filter(|atom| !decided(atom)).collect();
        Self { case, fluents, plans, whole, absent, effects: Vec::new(), loose, idle, late }
    }

    /// Looks for the action's effects among what the condition says.
    pub(super) fn find_effects(&mut self, effects: &[Effect]) {
        let (fluents, positive) = (&self.fluents, &self.case.positive);
        let place = |effect: &Effect| fluents.iter().position(|&i| positive[i] == effect.atom);
        self.effects = effects.iter().map(place).collect();
    }
}

impl Plan {
    /// Chooses the atom with most known and fewest unknown arguments next.
    fn new(case: &Case, trigger: Option<usize>, vars: &[TypeId], predicates: &Predicates) -> Self {
        let mut bound = [false; MAX_VARS];
        let mut open: Vec<usize> = (0..case.positive.len()).collect();
        let mut steps = Vec::with_capacity(open.len());
        while let Some(next) = open.iter().copied().min_by_key(|&i| {
            let atom = &case.positive[i];
            let free = atom.terms.iter().filter(|term| !is_known(term, &bound)).count();
            let fluent = predicates.list[usize::from(atom.predicate)].fluent;
            (Some(i) != trigger, free > 0 && free == atom.terms.len(), free, fluent, i)
        }) {
            let before = bound;
            let mut step = Step::new(&case.positive[next], next, vars, &mut bound);
            step.includes_trigger = trigger.is_some_and(|trigger| next >= trigger);
            let known = |atom: &Atom, bound| atom.terms.iter().all(|term| is_known(term, bound));
            let constant = |atom: &Atom| !predicates.list[usize::from(atom.predicate)].fluent;
            let decided = |atom: &&Atom| constant(atom) && known(atom, &bound) && !known(atom, &before);
            step.excludes = case.negative.iter().filter(decided).cloned().collect();
            steps.push(step);
            open.retain(|&i| i != next);
        }
        Self { is_triggered: trigger.is_some(), steps }
    }
}

impl Step {
    fn new(atom: &Atom, place: usize, vars: &[TypeId], bound: &mut [bool; MAX_VARS]) -> Self {
        let mut step = Self {
            place,
            atom: atom.clone(),
            known: Vec::new(),
            binds: Vec::new(),
            repeats: Vec::new(),
            includes_trigger: false,
            excludes: Vec::new(),
        };
        for (arg, &term) in (0..).zip(&atom.terms) {
            match term.as_var() {
                Some(var) if step.binds.iter().any(|bind| bind.var == var) => step.repeats.push((arg, var)),
                Some(var) if !bound[usize::from(var)] => {
                    step.binds.push(Bind { arg, var, kind: vars[usize::from(var)] });
                }
                _ => step.known.push((arg, term)),
            }
        }
        step.binds.iter().for_each(|bind| bound[usize::from(bind.var)] = true);
        step
    }
}

fn is_known(term: &Term, bound: &[bool; MAX_VARS]) -> bool {
    term.as_var().is_none_or(|var| bound[usize::from(var)])
}

impl Atom {
    fn mentions(&self, var: u16) -> bool {
        self.terms.contains(&Term::var(var))
    }
}

/// What is searched: facts, objects with their types, and what terms stand for while a search is under way.
pub(super) struct Space {
    pub(super) facts: Facts,
    /// How many facts may still be tried.
    pub(super) tries: u64,
    /// The objects of the variables, then those of the names.
    pub(super) values: Vec<ObjectId>,
    /// The facts that the positive atoms match.
    pub(super) matched: [u32; MAX_ATOMS],
    objects: usize,
    /// For each type and object, whether it is of the type.
    fits: Vec<bool>,
}

impl Space {
    /// The objects and facts of a game.
    pub(super) fn new(facts: Facts, objects: &Objects, types: &Types) -> Self {
        let kinds = 0..types.len() as TypeId;
        let fits = kinds.flat_map(|kind| objects.types.iter().map(move |&object| types.is(object, kind)));
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
    pub(super) fn set_names(&mut self, names: &Names, objects: &Objects) {
        self.values.truncate(MAX_VARS);
        self.values.extend(names.list.iter().map(|name| objects.find(name).unwrap_or(UNKNOWN)));
    }

    /// The fact that an atom is now, if there is one.
    #[inline]
    pub(super) fn get(&self, atom: &Atom) -> Option<u32> {
        self.facts.get(atom, &self.values)
    }

    /// The fact that an atom is now, a new one if need be; `None` if it is about an object that there is not.
    #[inline]
    pub(super) fn insert(&mut self, atom: &Atom) -> Option<u32> {
        let args = atom.terms.iter().map(|term| term.of(&self.values));
        (!args.clone().any(|arg| arg == UNKNOWN)).then(|| self.facts.insert(atom.predicate, args))
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
        step.repeats.iter().all(|&(arg, var)| self.values[usize::from(var)] == self.facts.arg(id, arg))
            && step.excludes.iter().all(|atom| self.get(atom).is_none())
    }

    /// Whether a fact has the known arguments.
    #[inline(always)]
    fn fits(&self, id: u32, known: &[(u16, Term)]) -> bool {
        known.iter().all(|&(arg, term)| self.facts.arg(id, arg) == term.of(&self.values))
    }
}

/// A search over one plan of one join.
pub(super) struct Search<'a, F> {
    pub(super) space: &'a mut Space,
    /// The types of the variables.
    pub(super) types: &'a [TypeId],
    pub(super) join: &'a Join,
    pub(super) plan: &'a Plan,
    /// Only facts before this one count; with a trigger, it is the fact that is being looked at.
    pub(super) limit: u32,
    /// Is told of each way that is found: the values of the variables and the facts matched; `false` ends the search.
    pub(super) found: F,
}

impl<F: FnMut(&mut Space) -> bool> Search<'_, F> {
    /// Finds every way that the facts allow; with a trigger, those in which it is the first step's fact. `false`
    /// when the search was ended early.
    pub(super) fn run(&mut self) -> bool {
        match self.plan.steps.first() {
            Some(step) if self.plan.is_triggered => {
                !self.space.fits(self.limit, &step.known) || self.with(step, self.limit, 1)
            }
            _ => self.extend(0),
        }
    }

    fn extend(&mut self, depth: usize) -> bool {
        let Some(step) = self.plan.steps.get(depth) else { return self.finish(0) };
        let limit = self.limit + u32::from(step.includes_trigger);
        if step.binds.is_empty() {
            return match self.space.get(&step.atom) {
                Some(id) if id < limit => self.with(step, id, depth + 1),
                _ => true,
            };
        }
        let known = step.known.first().map(|&(arg, term)| (arg, term.of(&self.space.values)));
        let Some(list) = self.space.facts.list(step.atom.predicate, known) else { return true };
        let mut next = self.space.facts.last(list);
        while let Some(id) = next {
            next = self.space.facts.before(list, id);
            let fits = id < limit && self.space.fits(id, step.known.get(1..).unwrap_or_default());
            if fits && !self.with(step, id, depth + 1) {
                return false;
            }
        }
        true
    }

    /// Goes on with a step's atom being the fact `id`, if the variables allow it.
    #[inline(always)]
    fn with(&mut self, step: &Step, id: u32, depth: usize) -> bool {
        self.space.try_one() && (!self.space.bind(step, id) || self.extend(depth))
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
        let same =
            |(a, b, same): &(Term, Term, bool)| (a.of(&space.values) == b.of(&space.values)) == *same;
        self.join.idle.iter().all(exists)
            && self.join.case.equal.iter().all(same)
            && self.join.late.iter().all(|atom| space.get(atom).is_none())
    }
}
