//! Finding every way in which the variables of a condition can stand for objects.

use super::condition::{Atom, Case, Term, MAX_ATOMS, MAX_VARS};
use super::domain::{PredicateId, Predicates, MAX_ARITY};
use super::facts::{Facts, ObjectId, UNKNOWN};
use super::types::{TypeId, NO_TYPE};

/// One alternative of a condition, and the orders in which its atoms are matched.
pub(super) struct Join {
    pub(super) case: Case,
    /// One plan for each positive atom that actions can make true, which it begins with; the plan that
    /// begins anywhere if there is no such atom.
    pub(super) plans: Vec<Plan>,
    /// The plan that begins anywhere.
    pub(super) whole: Plan,
    /// Variables that no positive atom mentions: they stand for every object of their type.
    loose: Vec<u16>,
    /// Variables that nothing mentions: an object of their type must exist.
    idle: Vec<u16>,
    /// The negative atoms that no action can change and that no step can decide.
    late: Vec<usize>,
}

/// An order of the positive atoms of a case.
pub(super) struct Plan {
    /// Whether it begins with the fact that is being looked at.
    pub(super) is_triggered: bool,
    pub(super) steps: Vec<Step>,
}

/// Matching one atom, given what the steps before it have bound.
pub(super) struct Step {
    /// Which positive atom of the case.
    atom: usize,
    pub(super) predicate: PredicateId,
    /// Arguments that are known before.
    known: Vec<(usize, Term)>,
    /// Arguments that give a variable its object.
    binds: Vec<(usize, u16)>,
    /// Arguments whose variable another argument of the atom binds.
    repeats: Vec<(usize, u16)>,
    /// Whether the atom may also match the fact that is being looked at.
    includes_trigger: bool,
    /// The negative atoms that no action can change and whose variables are known now.
    excludes: Vec<usize>,
}

/// Objects, their types, and what the names in conditions stand for.
pub(super) struct World {
    pub(super) objects: usize,
    /// For each type and object, whether it is of the type.
    pub(super) fits: Vec<bool>,
    pub(super) names: Vec<ObjectId>,
}

/// What is done with each way that is found.
pub(super) trait Sink {
    /// Takes the objects of the variables and the facts of the positive atoms; `false` ends the search.
    fn found(&mut self, facts: &mut Facts, vars: &[ObjectId], matched: &[u32]) -> bool;
}

/// How many facts may be tried while a game is loaded.
pub(super) const MAX_TRIES: u64 = 50_000_000;

impl Join {
    /// Plans a case whose first `params` variables are parameters.
    pub(super) fn plan(case: Case, params: usize, vars: &[TypeId], predicates: &Predicates) -> Self {
        let fluent = |atom: &Atom| predicates.list[usize::from(atom.predicate)].fluent;
        let triggers = (0..case.positive.len()).filter(|&i| fluent(&case.positive[i]));
        let plans = triggers.map(|i| Plan::new(&case, Some(i), predicates)).collect();
        let whole = Plan::new(&case, None, predicates);
        let bound = |var: &u16| case.positive.iter().any(|atom| atom.mentions(*var));
        let used = |var: &u16| {
            case.negative.iter().any(|atom| atom.mentions(*var))
                || case.equal.iter().any(|(a, b, _)| [a, b].contains(&&Term::Var(*var)))
        };
        let all: Vec<u16> = (0..vars.len() as u16).filter(|var| !bound(var)).collect();
        let is_param = |var: &u16| usize::from(*var) < params;
        let exists = |var: &u16| case.exists.contains(var);
        let loose = all.iter().copied().filter(|var| is_param(var) || exists(var) && used(var)).collect();
        let idle = all.iter().copied().filter(|var| exists(var) && !used(var)).collect();
        let decided = |i: &usize| whole.steps.iter().any(|step| step.excludes.contains(i));
        let constant = |i: &usize| !fluent(&case.negative[*i]);
        let late = (0..case.negative.len()).filter(|i| constant(i) && !decided(i)).collect();
        Self { case, plans, whole, loose, idle, late }
    }
}

impl Plan {
    /// Chooses the atom with most known and fewest unknown arguments next.
    fn new(case: &Case, trigger: Option<usize>, predicates: &Predicates) -> Self {
        let mut bound = [false; MAX_VARS];
        let mut open: Vec<usize> = (0..case.positive.len()).collect();
        let mut steps = Vec::with_capacity(open.len());
        while let Some(next) = open.iter().copied().min_by_key(|&i| {
            let atom = &case.positive[i];
            let free = atom.terms.iter().filter(|term| !is_known(term, &bound)).count();
            let fluent = predicates.list[usize::from(atom.predicate)].fluent;
            (Some(i) != trigger, free > 0 && free == atom.terms.len(), free, fluent, i)
        }) {
            let includes_trigger = trigger.is_some_and(|trigger| next >= trigger);
            let before = bound;
            let mut step = Step::new(&case.positive[next], next, includes_trigger, &mut bound);
            let known = |i: usize, bound| case.negative[i].terms.iter().all(|term| is_known(term, bound));
            let constant = |i: usize| !predicates.list[usize::from(case.negative[i].predicate)].fluent;
            let decided = |i: &usize| constant(*i) && known(*i, &bound) && !known(*i, &before);
            step.excludes = (0..case.negative.len()).filter(decided).collect();
            steps.push(step);
            open.retain(|&i| i != next);
        }
        Self { is_triggered: trigger.is_some(), steps }
    }
}

impl Step {
    fn new(atom: &Atom, i: usize, includes_trigger: bool, bound: &mut [bool; MAX_VARS]) -> Self {
        let predicate = atom.predicate;
        let (known, binds, repeats) = (Vec::new(), Vec::new(), Vec::new());
        let mut step =
            Self { atom: i, predicate, known, binds, repeats, includes_trigger, excludes: Vec::new() };
        for (arg, &term) in atom.terms.iter().enumerate() {
            match term {
                Term::Var(var) if step.binds.iter().any(|&(_, other)| other == var) => {
                    step.repeats.push((arg, var))
                }
                Term::Var(var) if !bound[usize::from(var)] => step.binds.push((arg, var)),
                term => step.known.push((arg, term)),
            }
        }
        step.binds.iter().for_each(|&(_, var)| bound[usize::from(var)] = true);
        step
    }
}

fn is_known(term: &Term, bound: &[bool; MAX_VARS]) -> bool {
    match term {
        Term::Var(var) => bound[usize::from(*var)],
        Term::Name(_) => true,
    }
}

impl Atom {
    fn mentions(&self, var: u16) -> bool {
        self.terms.contains(&Term::Var(var))
    }
}

impl World {
    /// Whether an object is of a type.
    fn is_of(&self, object: ObjectId, kind: TypeId) -> bool {
        kind != NO_TYPE && self.fits[usize::from(kind) * self.objects + usize::from(object)]
    }

    /// The object that a term stands for.
    pub(super) fn object(&self, term: Term, vars: &[ObjectId]) -> ObjectId {
        match term {
            Term::Var(var) => vars[usize::from(var)],
            Term::Name(name) => self.names[usize::from(name)],
        }
    }

    /// The arguments of an atom.
    pub(super) fn args(&self, atom: &Atom, vars: &[ObjectId]) -> Args {
        let mut args = Args { objects: [UNKNOWN; MAX_ARITY], len: atom.terms.len() };
        for (arg, term) in args.objects.iter_mut().zip(&atom.terms) {
            *arg = self.object(*term, vars);
        }
        args
    }
}

/// The arguments of an atom.
pub(super) struct Args {
    objects: [ObjectId; MAX_ARITY],
    len: usize,
}

impl std::ops::Deref for Args {
    type Target = [ObjectId];

    fn deref(&self) -> &[ObjectId] {
        &self.objects[..self.len]
    }
}

/// The objects of the variables and the facts of the atoms while a search is under way.
pub(super) struct Scratch {
    vars: [ObjectId; MAX_VARS],
    matched: [u32; MAX_ATOMS],
}

impl Default for Scratch {
    fn default() -> Self {
        Self { vars: [UNKNOWN; MAX_VARS], matched: [0; MAX_ATOMS] }
    }
}

/// A search over one plan of one join.
pub(super) struct Search<'a> {
    pub(super) world: &'a World,
    /// The types of the variables.
    pub(super) types: &'a [TypeId],
    pub(super) join: &'a Join,
    pub(super) plan: &'a Plan,
    /// Only facts before this one count; with a trigger, it is the fact that is being looked at.
    pub(super) limit: u32,
    pub(super) tries: &'a mut u64,
    pub(super) sink: &'a mut dyn Sink,
    pub(super) scratch: &'a mut Scratch,
}

impl Search<'_> {
    /// Finds every way that the facts allow; with a trigger, those in which it is the first step's fact. `false`
    /// when the search was ended early.
    pub(super) fn run(&mut self, facts: &mut Facts) -> bool {
        match self.plan.steps.first() {
            Some(step) if self.plan.is_triggered => {
                let fits = |&(arg, term): &(usize, Term)| facts.args(self.limit)[arg] == self.object(term);
                !step.known.iter().all(fits) || self.with(facts, step, self.limit, 1)
            }
            _ => self.extend(facts, 0),
        }
    }

    fn object(&self, term: Term) -> ObjectId {
        self.world.object(term, &self.scratch.vars)
    }

    fn extend(&mut self, facts: &mut Facts, depth: usize) -> bool {
        let Some(step) = self.plan.steps.get(depth) else { return self.finish(facts, 0) };
        let limit = self.limit + u32::from(step.includes_trigger);
        if step.binds.is_empty() {
            let mut args = [UNKNOWN; MAX_ARITY];
            step.known.iter().for_each(|&(arg, term)| args[arg] = self.object(term));
            return match facts.get(step.predicate, &args[..step.known.len()]) {
                Some(id) if id < limit => self.with(facts, step, id, depth + 1),
                _ => true,
            };
        }
        let known = step.known.first().map(|&(arg, term)| (arg, self.object(term)));
        let Some(list) = facts.list(step.predicate, known) else { return true };
        let mut next = facts.last(list);
        while let Some(id) = next {
            next = facts.before(list, id);
            let args = facts.args(id);
            let fits = |&(arg, term): &(usize, Term)| args[arg] == self.object(term);
            if id < limit && step.known.iter().skip(1).all(fits) && !self.with(facts, step, id, depth + 1) {
                return false;
            }
        }
        true
    }

    /// Goes on with a step's atom being the fact `id`, if the variables allow it.
    fn with(&mut self, facts: &mut Facts, step: &Step, id: u32, depth: usize) -> bool {
        if *self.tries == 0 {
            return false;
        }
        *self.tries -= 1;
        self.scratch.matched[step.atom] = id;
        let args = facts.args(id);
        let bound = step.binds.iter().all(|&(arg, var)| self.assign(var, args[arg]))
            && step.repeats.iter().all(|&(arg, var)| self.scratch.vars[usize::from(var)] == args[arg]);
        let allowed = bound && step.excludes.iter().all(|&i| self.is_absent(facts, i));
        !allowed || self.extend(facts, depth)
    }

    fn assign(&mut self, var: u16, object: ObjectId) -> bool {
        self.scratch.vars[usize::from(var)] = object;
        self.world.is_of(object, self.types[usize::from(var)])
    }

    /// Gives the loose variables objects, from the one numbered `depth` on; then tells the sink.
    fn finish(&mut self, facts: &mut Facts, depth: usize) -> bool {
        let Some(&var) = self.join.loose.get(depth) else {
            let matched = &self.scratch.matched[..self.plan.steps.len()];
            return !self.holds(facts) || self.sink.found(facts, &self.scratch.vars, matched);
        };
        for object in 0..self.world.objects as ObjectId {
            if *self.tries == 0 {
                return false;
            }
            *self.tries -= 1;
            if self.assign(var, object) && !self.finish(facts, depth + 1) {
                return false;
            }
        }
        true
    }

    /// Whether what can be decided now holds: types of idle variables, equalities, facts that never change.
    fn holds(&self, facts: &Facts) -> bool {
        let world = self.world;
        let exists = |var: &u16| {
            let kind = self.types[usize::from(*var)];
            (0..world.objects as ObjectId).any(|object| world.is_of(object, kind))
        };
        let same = |(a, b, same): &(Term, Term, bool)| (self.object(*a) == self.object(*b)) == *same;
        self.join.idle.iter().all(exists)
            && self.join.case.equal.iter().all(same)
            && self.join.late.iter().all(|&i| self.is_absent(facts, i))
    }

    /// Whether a negative atom is no fact.
    fn is_absent(&self, facts: &Facts, i: usize) -> bool {
        let atom = &self.join.case.negative[i];
        facts.get(atom.predicate, &self.world.args(atom, &self.scratch.vars)).is_none()
    }
}
