//! Finding every way in which the variables of a condition can stand for objects.

use crate::env::alfworld::engine::facts::{Facts, List, ObjectId, UNKNOWN};
use crate::env::alfworld::pddl::condition::{Atom, Case, Names, Term, MAX_ATOMS, MAX_VARS};
use crate::env::alfworld::pddl::domain::{Effect, Predicates};
use crate::env::alfworld::pddl::objects::Objects;
use crate::env::alfworld::pddl::types::{TypeId, Types, NO_TYPE};

/// One alternative of a condition, and the orders in which its atoms are matched.
pub(crate) struct Join {
    pub(crate) case: Case,
    /// The positive atoms that actions can make true.
    pub(crate) fluents: Vec<usize>,
    /// For each of these, the plan that begins with it.
    pub(crate) plans: Vec<Plan>,
    /// The plan that begins anywhere.
    pub(crate) whole: Plan,
    /// The negative atoms that actions can make true.
    pub(crate) absent: Vec<Atom>,
    /// For each effect of the action, what the condition says about it.
    pub(crate) effects: Vec<Mention>,
    /// Variables that no positive atom mentions: they stand for every object of their type.
    loose: Vec<u16>,
    /// Variables that nothing mentions: an object of their type must exist.
    idle: Vec<u16>,
    /// The negative atoms that no action can change and that no step can decide.
    late: Vec<Atom>,
}

/// An order of the positive atoms of a case.
pub(crate) struct Plan {
    /// Whether it begins with the fact that is being looked at.
    is_triggered: bool,
    steps: Vec<Step>,
}

/// Matching one atom, given what the steps before it have bound.
struct Step {
    /// Which positive atom of the case.
    place: usize,
    atom: Atom,
    /// The first argument that is known before: candidates are the facts with its object there.
    by: Option<(u16, Term)>,
    /// The other arguments that are known before.
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
pub(crate) const MAX_TRIES: u64 = 50_000_000;

impl Join {
    /// Plans a case whose first `params` variables are parameters.
    pub(crate) fn plan(
        case: Case,
        params: usize,
        vars: &[TypeId],
        predicates: &Predicates,
    ) -> Self {
        let fluent = |atom: &Atom| predicates.list[usize::from(atom.predicate)].fluent;
        let fluents: Vec<usize> =
            (0..case.positive.len()).filter(|&i| fluent(&case.positive[i])).collect();
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
        let loose =
            all.iter().copied().filter(|var| is_param(var) || exists(var) && used(var)).collect();
        let idle = all.iter().copied().filter(|var| exists(var) && !used(var)).collect();
        let (absent, constant): (Vec<Atom>, Vec<Atom>) =
            case.negative.iter().cloned().partition(fluent);
        let decided = |atom: &Atom| whole.steps.iter().any(|step| step.excludes.contains(atom));
        let late = constant.into_iter().filter(|atom| !decided(atom)).collect();
        Self { case, fluents, plans, whole, absent, effects: Vec::new(), loose, idle, late }
    }

    /// Looks for what the condition says about the action's effects.
    pub(crate) fn find_effects(&mut self, effects: &[Effect]) {
        let positive: Vec<&Atom> = self.fluents.iter().map(|&i| &self.case.positive[i]).collect();
        let mention = |effect: &Effect| {
            let same = |atom: &Atom| atom.predicate == effect.atom.predicate;
            let stated = if effect.add {
                positive.iter().any(|atom| same(atom))
            } else {
                self.absent.iter().any(same)
            };
            let undone = !effect.add && effects.iter().any(|other| other.add && same(&other.atom));
            let fluent = positive.iter().position(|&atom| *atom == effect.atom);
            Mention { fluent, may_be_idle: stated || undone }
        };
        self.effects = effects.iter().map(mention).collect();
    }
}

/// What a condition, and the other effects, say about an effect.
pub(crate) struct Mention {
    /// Which of the fluent positive atoms is the effect's atom.
    pub(crate) fluent: Option<usize>,
    /// Whether the effect may be said by the condition already or be undone by another effect.
    pub(crate) may_be_idle: bool,
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
            let decided =
                |atom: &&Atom| constant(atom) && known(atom, &bound) && !known(atom, &before);
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
            by: None,
            known: Vec::new(),
            binds: Vec::new(),
            repeats: Vec::new(),
            includes_trigger: false,
            excludes: Vec::new(),
        };
        for (arg, &term) in (0..).zip(&atom.terms) {
            match term.as_var() {
                Some(var) if step.binds.iter().any(|bind| bind.var == var) => {
                    step.repeats.push((arg, var))
                }
                Some(var) if !bound[usize::from(var)] => {
                    step.binds.push(Bind { arg, var, kind: vars[usize::from(var)] });
                }
                _ if step.by.is_none() => step.by = Some((arg, term)),
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
