//! Join plans: the order in which the atoms of a condition are matched against facts.
//!
//! Grounding an action is a database join of its positive atoms over the known facts. A plan fixes
//! the order of the atoms once per domain, so that each step looks up few candidates. During
//! grounding every new fact triggers the plans that begin with an atom of its predicate, which
//! finds each combination of facts exactly once (semi-naive evaluation).

use crate::env::alfworld::pddl::atom::{Atom, Term, MAX_VARS};
use crate::env::alfworld::pddl::condition::Case;
use crate::env::alfworld::pddl::effect::Effect;
use crate::env::alfworld::pddl::predicates::Predicates;
use crate::env::alfworld::pddl::types::TypeId;

/// One disjunct of a condition with its join plans.
pub(crate) struct Join {
    pub(crate) case: Case,
    /// Indices of the positive atoms with a fluent predicate.
    pub(crate) fluents: Vec<usize>,
    /// For each fluent positive atom, the plan that begins with it.
    pub(crate) plans: Vec<Plan>,
    /// The plan without a triggering fact.
    pub(crate) whole: Plan,
    /// The negative atoms with a fluent predicate.
    pub(crate) absent: Vec<Atom>,
    /// For each effect of the action, its relation to the condition.
    pub(crate) effects: Vec<Mention>,
    /// Variables that no positive atom binds; each ranges over all objects of its type.
    pub(crate) unbound: Vec<u16>,
    /// Variables of `exists` that no atom uses; some object of the type must exist.
    pub(crate) unused: Vec<u16>,
    /// The negative atoms with a static predicate that no step of `whole` checks.
    pub(crate) unchecked: Vec<Atom>,
}

/// The relation of an effect to the condition and to the other effects.
pub(crate) struct Mention {
    /// The fluent positive atom that equals the effect's atom, as an index into `Join::fluents`.
    pub(crate) fluent: Option<usize>,
    /// `true` if the condition may state the effect already, or another effect may undo it.
    pub(crate) may_be_idle: bool,
}

/// An order of the positive atoms of a case.
pub(crate) struct Plan {
    /// `true` if the first step matches the triggering fact.
    pub(crate) is_triggered: bool,
    pub(crate) steps: Vec<Step>,
}

/// Matches one atom, given the variables that earlier steps have bound.
pub(crate) struct Step {
    /// The atom's index among the positive atoms of the case.
    pub(crate) place: usize,
    pub(crate) atom: Atom,
    /// The first argument that is known; candidates are the facts with its object there.
    pub(crate) by: Option<(u16, Term)>,
    /// The other arguments that are known.
    pub(crate) known: Vec<(u16, Term)>,
    /// Arguments that bind a variable.
    pub(crate) binds: Vec<Bind>,
    /// Arguments whose variable an earlier argument of the same atom binds.
    pub(crate) repeats: Vec<(u16, u16)>,
    /// `true` if the atom may also match the triggering fact.
    pub(crate) includes_trigger: bool,
    /// The negative atoms with a static predicate whose variables this step completes.
    pub(crate) excludes: Vec<Atom>,
}

/// An argument that binds a variable to an object of a type.
pub(crate) struct Bind {
    pub(crate) arg: u16,
    pub(crate) var: u16,
    pub(crate) kind: TypeId,
}

impl Join {
    /// Plans a case whose first `params` variables are parameters.
    pub(crate) fn plan(
        case: Case,
        params: usize,
        vars: &[TypeId],
        predicates: &Predicates,
    ) -> Self {
        let is_fluent = |atom: &Atom| predicates.is_fluent(atom.predicate);
        let fluents: Vec<usize> =
            (0..case.positive.len()).filter(|&i| is_fluent(&case.positive[i])).collect();
        let plans = fluents.iter().map(|&i| Plan::new(&case, Some(i), vars, predicates)).collect();
        let whole = Plan::new(&case, None, vars, predicates);
        let (absent, constant): (Vec<Atom>, Vec<Atom>) =
            case.negative.iter().cloned().partition(is_fluent);
        let is_checked = |atom: &Atom| whole.steps.iter().any(|step| step.excludes.contains(atom));
        let unchecked = constant.into_iter().filter(|atom| !is_checked(atom)).collect();
        let is_bound = |var: &u16| case.positive.iter().any(|atom| atom.mentions(*var));
        let is_used = |var: &u16| {
            case.negative.iter().any(|atom| atom.mentions(*var))
                || case.equal.iter().any(|(a, b, _)| [a, b].contains(&&Term::var(*var)))
        };
        let free: Vec<u16> = (0..vars.len() as u16).filter(|var| !is_bound(var)).collect();
        let mut unbound = Vec::new();
        let mut unused = Vec::new();
        for var in free {
            let exists = case.exists.contains(&var);
            if usize::from(var) < params || exists && is_used(&var) {
                unbound.push(var);
            }
            if exists && !is_used(&var) {
                unused.push(var);
            }
        }
        let effects = Vec::new();
        Self { case, fluents, plans, whole, absent, effects, unbound, unused, unchecked }
    }

    /// Compares the condition with the effects of its action.
    pub(crate) fn find_effects(&mut self, effects: &[Effect]) {
        let positive: Vec<&Atom> = self.fluents.iter().map(|&i| &self.case.positive[i]).collect();
        let mention = |effect: &Effect| {
            let is_same = |atom: &Atom| atom.predicate == effect.atom.predicate;
            let stated = if effect.add {
                positive.iter().any(|atom| is_same(atom))
            } else {
                self.absent.iter().any(is_same)
            };
            let is_undone =
                !effect.add && effects.iter().any(|other| other.add && is_same(&other.atom));
            let fluent = positive.iter().position(|&atom| *atom == effect.atom);
            Mention { fluent, may_be_idle: stated || is_undone }
        };
        self.effects = effects.iter().map(mention).collect();
    }
}

impl Plan {
    /// Orders the atoms greedily: next is the one with most known and fewest unknown arguments.
    fn new(case: &Case, trigger: Option<usize>, vars: &[TypeId], predicates: &Predicates) -> Self {
        let mut bound = [false; MAX_VARS];
        let mut open: Vec<usize> = (0..case.positive.len()).collect();
        let mut steps = Vec::with_capacity(open.len());
        while let Some(next) = open.iter().copied().min_by_key(|&i| {
            let atom = &case.positive[i];
            let free = atom.terms.iter().filter(|term| !is_known(term, &bound)).count();
            let is_fluent = predicates.is_fluent(atom.predicate);
            (Some(i) != trigger, free > 0 && free == atom.terms.len(), free, is_fluent, i)
        }) {
            let before = bound;
            let mut step = Step::new(&case.positive[next], next, vars, &mut bound);
            step.includes_trigger = trigger.is_some_and(|trigger| next >= trigger);
            let knows = |atom: &Atom, bound| atom.terms.iter().all(|term| is_known(term, bound));
            let is_complete = |atom: &&Atom| {
                !predicates.is_fluent(atom.predicate)
                    && knows(atom, &bound)
                    && !knows(atom, &before)
            };
            step.excludes = case.negative.iter().filter(is_complete).cloned().collect();
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
                    step.repeats.push((arg, var));
                }
                Some(var) if !bound[usize::from(var)] => {
                    step.binds.push(Bind { arg, var, kind: vars[usize::from(var)] });
                }
                _ if step.by.is_none() => step.by = Some((arg, term)),
                _ => step.known.push((arg, term)),
            }
        }
        for bind in &step.binds {
            bound[usize::from(bind.var)] = true;
        }
        step
    }
}

fn is_known(term: &Term, bound: &[bool; MAX_VARS]) -> bool {
    term.as_var().is_none_or(|var| bound[usize::from(var)])
}
