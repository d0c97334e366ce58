//! Operator grounding: every action that can ever become applicable, with its facts.
//!
//! Grounding explores the delete relaxation of the problem, in which true facts stay true: from the
//! initial facts it adds the effects of every action whose condition can hold, until nothing is
//! new. Facts are then numbered, so that states are bit sets and a step costs microseconds.

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

/// The largest number of operators of a game.
const MAX_OPERATORS: usize = 1 << 20;
/// The largest number of ground disjuncts of one conjunct of the goal.
const MAX_GOALS: usize = 1 << 16;
/// The largest number of facts to allocate room for in advance.
const MAX_ROOM: usize = 1 << 14;
/// The number of no fact.
const NO_FACT: u32 = u32::MAX;

/// A ground problem.
pub(crate) struct Grounding {
    pub(crate) facts: Facts,
    /// The first fluent fact; the facts before it are static and true.
    pub(crate) first_fluent: u32,
    pub(crate) operators: Operators,
    /// The fluent facts that hold at the start.
    pub(crate) initial: Bits,
    /// The disjuncts of each conjunct of the goal.
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

/// The groundings of actions found so far; one entry of `cases` per grounding.
#[derive(Default)]
struct Found {
    /// The action and the disjunct of its precondition.
    cases: Vec<(u16, u16)>,
    /// The objects of the variables of the action.
    vars: Vec<ObjectId>,
    /// The matched fluent facts.
    matched: Vec<u32>,
    /// The facts of the add effects; [`NO_FACT`] for one about an undeclared object.
    added: Vec<u32>,
}

impl Found {
    /// Creates empty lists with room for `count` groundings.
    fn with_capacity(count: usize) -> Self {
        Self {
            cases: Vec::with_capacity(count),
            vars: Vec::with_capacity(4 * count),
            matched: Vec::with_capacity(2 * count),
            added: Vec::with_capacity(2 * count),
        }
    }

    /// Records the current assignment as a grounding; returns `false` if a limit is reached.
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
    let first_fluent = grounder.first_fluent;
    let facts = grounder.space.facts;
    let mut holding = Bits::new(facts.len() - first_fluent as usize);
    for fact in 0..initial as u32 - first_fluent {
        holding.set(fact, true);
    }
    Ok(Grounding { facts, first_fluent, operators, initial: holding, goal })
}

impl<'a> Grounder<'a> {
    fn new(file: &'a str, domain: &'a Domain, problem: &'a Problem) -> Result<Self> {
        let too_many = || AlfworldError::TooMany {
            file: file.to_owned(),
            what: "arguments of predicates",
            limit: MAX_LISTS,
        };
        let objects = problem.objects.types.len();
        let room = (4 * problem.start.facts.len()).min(MAX_ROOM);
        let mut facts = Facts::new(&domain.predicates, objects, room).ok_or_else(too_many)?;
        let mut first_fluent = 0;
        for fluent in [false, true] {
            first_fluent = facts.len() as u32;
            let mut args = &problem.start.args[..];
            for &predicate in &problem.start.facts {
                let declared = &domain.predicates.list[usize::from(predicate)];
                let first = take(&mut args, declared.arity);
                if declared.fluent == fluent {
                    facts.insert(predicate, first.iter().copied());
                }
            }
        }
        let mut space = Space::new(facts, &problem.objects, &domain.types);
        space.set_names(&domain.names, &problem.objects);
        Ok(Self { file, domain, first_fluent, found: Found::with_capacity(2 * room), space })
    }

    /// Finds all groundings in the delete relaxation.
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
        let space = &mut self.space;
        let groundings = &mut self.found;
        let found = |space: &mut Space| groundings.take(space, case, action, join);
        if (Search { space, types: &action.vars, join, plan, limit, found }).run() {
            Ok(())
        } else {
            Err(self.too_many("operators", MAX_OPERATORS))
        }
    }

    fn too_many(&self, what: &'static str, limit: usize) -> AlfworldError {
        let (what, limit) = if self.space.tries == 0 {
            ("combinations of objects to try", MAX_TRIES as usize)
        } else if self.space.facts.len() >= MAX_FACTS {
            ("facts", MAX_FACTS)
        } else {
            (what, limit)
        };
        AlfworldError::TooMany { file: self.file.to_owned(), what, limit }
    }

    fn goal(&mut self, goal: &Goal) -> Result<Vec<Vec<Conjunction>>> {
        let mut parts = Vec::new();
        for joins in &goal.parts {
            let mut disjuncts = Vec::new();
            for join in joins {
                self.goal_disjuncts(goal, join, &mut disjuncts)?;
            }
            if disjuncts.is_empty() {
                let reason = "no sequence of actions makes the goal true".to_owned();
                return Err(AlfworldError::Unsolvable { file: self.file.to_owned(), reason });
            }
            if disjuncts.iter().all(|literals| !literals.is_empty()) {
                disjuncts.sort_unstable();
                disjuncts.dedup();
                parts.push(disjuncts);
            }
        }
        Ok(parts)
    }

    fn goal_disjuncts(
        &mut self,
        goal: &Goal,
        join: &Join,
        disjuncts: &mut Vec<Conjunction>,
    ) -> Result<()> {
        let limit = self.space.facts.len() as u32;
        let first = self.first_fluent;
        let found = |space: &mut Space| {
            let present =
                join.fluents.iter().map(|&atom| Literal::new(space.matched[atom] - first, true));
            let absent = join.absent.iter().filter_map(|atom| space.get(atom));
            let absent = absent.map(|fact| Literal::new(fact - first, false));
            disjuncts.push(present.chain(absent).collect());
            disjuncts.len() < MAX_GOALS
        };
        let space = &mut self.space;
        if (Search { space, types: &goal.vars, join, plan: &join.whole, limit, found }).run() {
            Ok(())
        } else {
            Err(self.too_many("disjuncts of the goal", MAX_GOALS))
        }
    }

    /// Makes the operators of the groundings, without those that change nothing.
    fn operators(&mut self) -> Operators {
        let found = std::mem::take(&mut self.found);
        let mut operators =
            Operators::with_capacity(found.cases.len(), found.vars.len(), found.matched.len());
        let mut vars = &found.vars[..];
        let mut matched = &found.matched[..];
        let mut added = &found.added[..];
        for &(a, j) in &found.cases {
            let action = &self.domain.actions[usize::from(a)];
            let join = &action.joins[usize::from(j)];
            let objects = take(&mut vars, action.vars.len());
            let facts = take(&mut matched, join.fluents.len());
            let adds = take(&mut added, action.adds);
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

    /// Adds the effects of an operator, given the facts that its condition matches and those that
    /// it adds.
    ///
    /// Omits effects that the condition states already, and delete effects of facts that an
    /// unconditional add effect restores.
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
                if let Some(effect) = self.conditional(when, literal) {
                    operators.conditional.add(effect);
                }
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

    /// Grounds a conditional effect; returns `None` if its condition never holds.
    fn conditional(&self, when: &[Case], literal: Literal) -> Option<Conditional> {
        let when: Vec<_> = when.iter().filter_map(|case| self.case(case)).collect();
        (!when.is_empty()).then_some(Conditional { literal, when })
    }

    /// Grounds a disjunct of a condition; returns `None` if it never holds.
    fn case(&self, case: &Case) -> Option<Conjunction> {
        let space = &self.space;
        let values = &space.values;
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

/// Splits the first `count` items off a list.
fn take<'a, T>(list: &mut &'a [T], count: usize) -> &'a [T] {
    let (first, rest) = list.split_at(count);
    *list = rest;
    first
}
