//! Finding every way in which the variables of a condition can stand for objects.

use crate::env::alfworld::pddl::atom::{Atom, Term, MAX_VARS};
use crate::env::alfworld::pddl::condition::Case;
use crate::env::alfworld::pddl::effect::Effect;
use crate::env::alfworld::pddl::predicates::Predicates;
use crate::env::alfworld::pddl::types::TypeId;

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
    pub(crate) loose: Vec<u16>,
    /// Variables that nothing mentions: an object of their type must exist.
    pub(crate) idle: Vec<u16>,
    /// The negative atoms that no action can change and that no step can decide.
    pub(crate) late: Vec<Atom>,
}

/// An order of the positive atoms of a case.
pub(crate) struct Plan {
    /// Whether it begins with the fact that is being looked at.
    pub(crate) is_triggered: bool,
    pub(crate) steps: Vec<Step>,
}

/// Matching one atom, given what the steps before it have bound.
pub(crate) struct Step {
    /// Which positive atom of the case.
    pub(crate) place: usize,
    pub(crate) atom: Atom,
    /// The first argument that is known before: candidates are the facts with its object there.
    pub(crate) by: Option<(u16, Term)>,
    /// The other arguments that are known before.
    pub(crate) known: Vec<(u16, Term)>,
    /// Arguments that give a variable its object.
    pub(crate) binds: Vec<Bind>,
    /// Arguments whose variable another argument of the atom binds.
    pub(crate) repeats: Vec<(u16, u16)>,
    /// Whether the atom may also match the fact that is being looked at.
    pub(crate) includes_trigger: bool,
    /// The negative atoms that no action can change and whose variables are known now.
    pub(crate) excludes: Vec<Atom>,
}

/// An argument that gives a variable of a type its object.
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
