//! Grounding: every action that can ever become applicable, with the facts that can ever become true.

use crate::env::alfworld::engine::bits::Bits;
use crate::env::alfworld::engine::facts::{Facts, MAX_FACTS, MAX_LISTS};
use crate::env::alfworld::engine::matching::{Search, Space, MAX_TRIES};
use crate::env::alfworld::engine::operators::{Conditional, Conjunction, Literal, Operators};
use crate::env::alfworld::error::{AlfworldError, Result};
use crate::env::alfworld::pddl::atom::{ObjectId, Term};
use crate::env::alfworld::pddl::condition::Case;
use crate::env::alfworld::pddl::domain::{Action, Domain, Trigger};
use crate::env::alfworld::pddl::join::{Join, Plan};
use crate::env::alfworld::pddl::problem::{Goal, Problem};

/// How many operators a game may have.
const MAX_OPERATORS: usize = 1 << 20;
/// How many alternatives a part of the goal may have.
const MAX_GOALS: usize = 1 << 16;
/// How many facts and operators there is room for at first, at most.
const MAX_ROOM: usize = 1 << 14;
/// No fact's number.
const NO_FACT: u32 = u32::MAX;

/// A ground problem.
pub(crate) struct Grounding {
    pub(crate) facts: Facts,
    /// The first fact that actions can change; the facts before it are always true.
    pub(crate) first_fluent: u32,
    pub(crate) operators: Operators,
    /// What is true at the start, of the facts that actions can change.
    pub(crate) initial: Bits,
    /// For each part of the goal, its alternatives.
    pub(crate) goal: Vec<Vec<Conjunction>>,
}

/// The grounding in progress.
struct Grounder<'a> {
    file: &'a str,
    domain: &'a Domain,
    first_fluent: u32,
    found: Found,
    space: Space,
}

/// The ways found of grounding actions.
#[derive(Default)]
struct Found {
    /// Action and alternative of its condition.
    cases: Vec<(u16, u16)>,
    /// The objects of the action's variables.
    vars: Vec<ObjectId>,
    /// The facts matched that actions can change.
    matched: Vec<u32>,
    /// The facts that the effects make true; [`NO_FACT`] for one about an object that there is not.
    added: Vec<u32>,
}

impl Found {
    /// Nothing yet, with room for `count`.
    fn with_capacity(count: usize) -> Self {
        Self {
            cases: Vec::with_capacity(count),
            vars: Vec::with_capacity(4 * count),
            matched: Vec::with_capacity(2 * count),
            added: Vec::with_capacity(2 * count),
        }
    }

    /// Takes what was found for one alternative of an action's condition; `false` when that is too much.
    fn take(&mut self, space: &mut Space, case: (u16, u16), action: &Action, join: &Join) -> bool {
        self.cases.push(case);
        self.vars.extend_from_slice(&space.values[..action.vars.len()]);
        self.matched.extend(join.fluents.iter().map(|&atom| space.matched[atom]));
        for effect in &action.effects[..action.adds] {
            self.added.push(space.insert(&effect.atom).unwrap_or(NO_FACT));
        }
        space.facts.len() < MAX_FACTS && self.cases.len() < MAX_OPERATORS
    }
}

/// Grounds a problem.
pub(crate) fn ground(file: &str, domain: &Domain, problem: &Problem) -> Result<Grounding> {
    let mut grounder = Grounder::new(file, domain, problem)?;
    let initial = grounder.space.facts.len();
    grounder.explore()?;
    let operators = grounder.operators();
    grounder.space.set_names(&problem.goal.names, &problem.objects);
    let goal = grounder.goal(&problem.goal)?;
    let (first_fluent, count) = (grounder.first_fluent, grounder.space.facts.len());
    let mut facts = Bits::new(count - first_fluent as usize);
    (0..initial as u32 - first_fluent).for_each(|fact| facts.set(fact, true));
    Ok(Grounding { facts: grounder.space.facts, first_fluent, operators, initial: facts, goal })
}

impl<'a> Grounder<'a> {
    fn new(file: &'a str, domain: &'a Domain, problem: &'a Problem) -> Result<Self> {
        let too_many = || AlfworldError::TooMany {
            file: file.to_owned(),
            what: "arguments of predicates",
            limit: MAX_LISTS,
        };
        let (objects, room) =
            (problem.objects.types.len(), (4 * problem.start.facts.len()).min(MAX_ROOM));
        let mut facts = Facts::new(&domain.predicates, objects, room).ok_or_else(too_many)?;
        let mut first_fluent = 0;
        for fluent in [false, true] {
            first_fluent = facts.len() as u32;
            let mut args = &problem.start.args[..];
            for &predicate in &problem.start.facts {
                let declared = &domain.predicates.list[usize::from(predicate)];
                let (first, rest) = args.split_at(declared.arity);
                args = rest;
                if declared.fluent == fluent {
                    facts.insert(predicate, first.iter().copied());
                }
            }
        }
        let mut space = Space::new(facts, &problem.objects, &domain.types);
        space.set_names(&domain.names, &problem.objects);
        Ok(Self { file, domain, first_fluent, found: Found::with_capacity(2 * room), space })
    }

    /// Finds what can become true and what can become applicable, if nothing ever became false.
    fn explore(&mut self) -> Result<()> {
        let domain = self.domain;
        for (a, action) in domain.actions.iter().enumerate() {
            for (j, join) in
                action.joins.iter().enumerate().filter(|(_, join)| join.plans.is_empty())
            {
                self.search((a as u16, j as u16), &join.whole, self.first_fluent)?;
            }
        }
        let mut fact = self.first_fluent;
        while (fact as usize) < self.space.facts.len() {
            for &Trigger { action, join, plan } in
                &domain.triggers[usize::from(self.space.facts.predicate(fact))]
            {
                let join_of = &domain.actions[usize::from(action)].joins[usize::from(join)];
                self.search((action, join), &join_of.plans[usize::from(plan)], fact)?;
            }
            fact += 1;
        }
        Ok(())
    }

    fn search(&mut self, case: (u16, u16), plan: &Plan, limit: u32) -> Result<()> {
        let action = &self.domain.actions[usize::from(case.0)];
        let join = &action.joins[usize::from(case.1)];
        let (space, known) = (&mut self.space, &mut self.found);
        let found = |space: &mut Space| known.take(space, case, action, join);
        if (Search { space, types: &action.vars, join, plan, limit, found }).run() {
            Ok(())
        } else {
            Err(self.too_many("operators", MAX_OPERATORS))
        }
    }

    fn too_many(&self, what: &'static str, limit: usize) -> AlfworldError {
        let (what, limit) = match () {
            () if self.space.tries == 0 => ("combinations of objects to try", MAX_TRIES as usize),
            () if self.space.facts.len() >= MAX_FACTS => ("facts", MAX_FACTS),
            () => (what, limit),
        };
        AlfworldError::TooMany { file: self.file.to_owned(), what, limit }
    }

    fn goal(&mut self, goal: &Goal) -> Result<Vec<Vec<Conjunction>>> {
        let mut parts = Vec::new();
        for joins in &goal.parts {
            let mut alternatives = Vec::new();
            for join in joins {
                self.goal_alternatives(goal, join, &mut alternatives)?;
            }
            if alternatives.is_empty() {
                let reason = "no sequence of actions makes the goal true".to_owned();
                return Err(AlfworldError::Unsolvable { file: self.file.to_owned(), reason });
            }
            if alternatives.iter().all(|literals| !literals.is_empty()) {
                alternatives.sort_unstable();
                alternatives.dedup();
                parts.push(alternatives);
            }
        }
        Ok(parts)
    }

    fn goal_alternatives(
        &mut self,
        goal: &Goal,
        join: &Join,
        alternatives: &mut Vec<Conjunction>,
    ) -> Result<()> {
        let (limit, first) = (self.space.facts.len() as u32, self.first_fluent);
        let found = |space: &mut Space| {
            let present =
                join.fluents.iter().map(|&atom| Literal::new(space.matched[atom] - first, true));
            let absent = join.absent.iter().filter_map(|atom| space.get(atom));
            let absent = absent.map(|fact| Literal::new(fact - first, false));
            alternatives.push(present.chain(absent).collect());
            alternatives.len() < MAX_GOALS
        };
        let space = &mut self.space;
        if (Search { space, types: &goal.vars, join, plan: &join.whole, limit, found }).run() {
            Ok(())
        } else {
            Err(self.too_many("alternatives of the goal", MAX_GOALS))
        }
    }

    /// The operators for what was found, without those that change nothing.
    fn operators(&mut self) -> Operators {
        let found = std::mem::take(&mut self.found);
        let mut operators =
            Operators::with_capacity(found.cases.len(), found.vars.len(), found.matched.len());
        let (mut vars, mut matched, mut added) =
            (&found.vars[..], &found.matched[..], &found.added[..]);
        for &(a, j) in &found.cases {
            let action = &self.domain.actions[usize::from(a)];
            let join = &action.joins[usize::from(j)];
            let (objects, facts, adds);
            (objects, vars) = vars.split_at(action.vars.len());
            (facts, matched) = matched.split_at(join.fluents.len());
            (adds, added) = added.split_at(action.adds);
            self.space.values[..objects.len()].copy_from_slice(objects);
            for &fact in facts {
                operators.conditions.add(self.literal(fact, true));
            }
            for fact in join.absent.iter().filter_map(|atom| self.space.get(atom)) {
                operators.conditions.add(self.literal(fact, false));
            }
            self.effects(action, join, (facts, adds), &mut operators);
            operators.finish(a, &objects[..action.params.len()]);
        }
        operators.index(self.space.facts.len() - self.first_fluent as usize);
        operators
    }

    fn literal(&self, fact: u32, value: bool) -> Literal {
        Literal::new(fact - self.first_fluent, value)
    }

    /// Adds an operator's effects, given the facts that its condition matches and those that it adds. Left out is
    /// what the condition says already, and what is made false although it is made true as well.
    fn effects(
        &self,
        action: &Action,
        join: &Join,
        (facts, adds): (&[u32], &[u32]),
        operators: &mut Operators,
    ) {
        for (i, (effect, mention)) in action.effects.iter().zip(&join.effects).enumerate() {
            let fact = match (adds.get(i), mention.fluent) {
                (Some(&fact), _) => Some(fact).filter(|&fact| fact != NO_FACT),
                (None, Some(fluent)) => Some(facts[fluent]),
                (None, None) => self.space.get(&effect.atom),
            };
            let Some(literal) = fact.map(|fact| self.literal(fact, effect.add)) else { continue };
            if let Some(when) = &effect.when {
                let effect = self.conditional(when, literal);
                effect.into_iter().for_each(|effect| operators.conditional.add(effect));
                continue;
            }
            let added =
                || adds.iter().zip(&action.effects).filter(|(_, other)| other.when.is_none());
            let undone = || !effect.add && added().any(|(&add, _)| Some(add) == fact);
            let stated = || operators.conditions.open().contains(&literal);
            if !mention.may_be_idle || !undone() && !stated() {
                operators.effects.add(literal);
            }
        }
    }

    /// An effect that happens under a condition; `None` if that never holds.
    fn conditional(&self, when: &[Case], literal: Literal) -> Option<Conditional> {
        let when: Vec<_> = when.iter().filter_map(|case| self.case(case)).collect();
        (!when.is_empty()).then_some(Conditional { literal, when })
    }

    /// An alternative of an effect's condition; `None` if it can never hold.
    fn case(&self, case: &Case) -> Option<Conjunction> {
        let (space, values) = (&self.space, &self.space.values);
        let fluent = |fact: u32| fact.checked_sub(self.first_fluent);
        let mut literals = Conjunction::new();
        for atom in &case.positive {
            literals.extend(fluent(space.get(atom)?).map(|fact| Literal::new(fact, true)));
        }
        for fact in case.negative.iter().filter_map(|atom| space.get(atom)) {
            literals.push(Literal::new(fluent(fact)?, false));
        }
        let same = |&(a, b, same): &(Term, Term, bool)| (a.of(values) == b.of(values)) == same;
        case.equal.iter().all(same).then_some(literals)
    }
}
