//! Grounding: every action that can ever become applicable, with the facts that can ever become true.

use super::bits::Bits;
use super::condition::{Atom, Case, Names};
use super::domain::{Action, Domain, Effect};
use super::error::{AlfworldError, Result};
use super::facts::{Facts, ObjectId, MAX_FACTS, MAX_LISTS, UNKNOWN};
use super::join::{Join, Plan, Scratch, Search, Sink, World, MAX_TRIES};
use super::objects::Objects;
use super::operators::{Conditional, Conjunction, Literal, Operators};
use super::problem::{Goal, Problem};
use super::types::TypeId;

/// How many operators a game may have.
const MAX_OPERATORS: usize = 1 << 20;
/// How many alternatives a part of the goal may have.
const MAX_GOALS: usize = 1 << 16;

/// A ground problem.
pub(super) struct Grounding {
    pub(super) facts: Facts,
    /// The first fact that actions can change; the facts before it are always true.
    pub(super) first_fluent: u32,
    pub(super) operators: Operators,
    /// What is true at the start, of the facts that actions can change.
    pub(super) initial: Bits,
    /// For each part of the goal, its alternatives.
    pub(super) goal: Vec<Vec<Conjunction>>,
}

/// The grounding in progress.
struct Grounder<'a> {
    file: &'a str,
    domain: &'a Domain,
    world: World,
    first_fluent: u32,
    found: Found,
    space: Space,
}

/// The facts so far, and what searches among them use up.
struct Space {
    facts: Facts,
    tries: u64,
    scratch: Scratch,
}

impl Space {
    /// Tells `sink` every way that facts up to `limit` allow; `false` when that was ended early.
    fn search(
        &mut self,
        world: &World,
        types: &[TypeId],
        (join, plan): (&Join, &Plan),
        limit: u32,
        sink: &mut dyn Sink,
    ) -> bool {
        let Self { facts, tries, scratch } = self;
        Search { world, types, join, plan, limit, tries, sink, scratch }.run(facts)
    }
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
    /// The facts that the effects make true; 0 for one about an object that there is not.
    added: Vec<u32>,
}

/// Takes what is found for one alternative of one action's condition.
struct ActionSink<'a> {
    world: &'a World,
    action: &'a Action,
    case: (u16, u16),
    first_fluent: u32,
    found: &'a mut Found,
}

impl Sink for ActionSink<'_> {
    fn found(&mut self, facts: &mut Facts, vars: &[ObjectId], matched: &[u32]) -> bool {
        self.found.cases.push(self.case);
        self.found.vars.extend_from_slice(&vars[..self.action.vars.len()]);
        self.found.matched.extend(matched.iter().filter(|&&fact| fact >= self.first_fluent));
        for effect in self.action.effects.iter().filter(|effect| effect.add) {
            let args = self.world.args(&effect.atom, vars);
            let known = !args.contains(&UNKNOWN);
            let fact = known.then(|| facts.insert(effect.atom.predicate, &args));
            self.found.added.push(fact.unwrap_or(0));
        }
        facts.len() < MAX_FACTS && self.found.cases.len() < MAX_OPERATORS
    }
}

/// Takes the alternatives of one part of the goal.
struct GoalSink<'a> {
    world: &'a World,
    case: &'a Case,
    first_fluent: u32,
    alternatives: &'a mut Vec<Conjunction>,
}

impl Sink for GoalSink<'_> {
    fn found(&mut self, facts: &mut Facts, vars: &[ObjectId], matched: &[u32]) -> bool {
        let matched = matched.iter().filter_map(|fact| fact.checked_sub(self.first_fluent));
        let mut literals: Conjunction = matched.map(|fact| Literal::new(fact, true)).collect();
        literals.extend(absent(self.world, self.first_fluent, facts, &self.case.negative, vars));
        self.alternatives.push(literals);
        self.alternatives.len() < MAX_GOALS
    }
}

/// That `atoms` are false, of those that can be true.
fn absent<'a>(
    world: &'a World,
    first_fluent: u32,
    facts: &'a Facts,
    atoms: &'a [Atom],
    vars: &'a [ObjectId],
) -> impl Iterator<Item = Literal> + 'a {
    let known = move |atom: &Atom| facts.get(atom.predicate, &world.args(atom, vars));
    atoms.iter().filter_map(known).map(move |fact| Literal::new(fact - first_fluent, false))
}

/// Grounds a problem.
pub(super) fn ground(file: &str, domain: &Domain, problem: &Problem) -> Result<Grounding> {
    let mut grounder = Grounder::new(file, domain, problem)?;
    let initial = grounder.space.facts.len();
    grounder.explore()?;
    let goal = grounder.goal(&problem.objects, &problem.goal)?;
    let (first_fluent, count) = (grounder.first_fluent, grounder.space.facts.len());
    let mut facts = Bits::new(count - first_fluent as usize);
    (0..initial as u32 - first_fluent).for_each(|fact| facts.set(fact, true));
    let operators = grounder.operators();
    Ok(Grounding { facts: grounder.space.facts, first_fluent, operators, initial: facts, goal })
}

fn world(domain: &Domain, objects: &Objects, names: &Names) -> World {
    let names = names.list.iter().map(|name| objects.find(name).unwrap_or(UNKNOWN)).collect();
    let kinds = 0..domain.types.len() as u16;
    let fits = kinds.flat_map(|kind| objects.types.iter().map(move |&object| domain.types.is(object, kind)));
    World { objects: objects.types.len(), fits: fits.collect(), names }
}

impl<'a> Grounder<'a> {
    fn new(file: &'a str, domain: &'a Domain, problem: &'a Problem) -> Result<Self> {
        let world = world(domain, &problem.objects, &domain.names);
        let too_many = AlfworldError::TooMany {
            file: file.to_owned(),
            what: "arguments of predicates",
            limit: MAX_LISTS,
        };
        let mut facts = Facts::new(&domain.predicates, problem.objects.ids.len()).ok_or(too_many)?;
        facts.reserve(3 * problem.facts.len());
        let mut first_fluent = 0;
        for fluent in [false, true] {
            first_fluent = facts.len() as u32;
            let mut args = &problem.args[..];
            for &predicate in &problem.facts {
                let declared = &domain.predicates.list[usize::from(predicate)];
                let (first, rest) = args.split_at(declared.arity);
                args = rest;
                if declared.fluent == fluent {
                    facts.insert(predicate, first);
                }
            }
        }
        let space = Space { facts, tries: MAX_TRIES, scratch: Scratch::default() };
        Ok(Self { file, domain, world, first_fluent, found: Found::default(), space })
    }

    /// Finds what can become true and what can become applicable, if nothing ever became false.
    fn explore(&mut self) -> Result<()> {
        let domain = self.domain;
        let mut triggers = vec![Vec::new(); domain.predicates.list.len()];
        for (a, action) in domain.actions.iter().enumerate() {
            for (j, join) in action.joins.iter().enumerate() {
                if join.plans.is_empty() {
                    self.search(a, j, &join.whole, self.first_fluent)?;
                }
                for plan in &join.plans {
                    let trigger = plan.steps.first().map(|step| step.predicate);
                    trigger.iter().for_each(|&id| triggers[usize::from(id)].push((a, j, plan)));
                }
            }
        }
        let mut fact = self.first_fluent;
        while (fact as usize) < self.space.facts.len() {
            for &(a, j, plan) in &triggers[usize::from(self.space.facts.predicate(fact))] {
                self.search(a, j, plan, fact)?;
            }
            fact += 1;
        }
        Ok(())
    }

    fn search(&mut self, a: usize, j: usize, plan: &Plan, limit: u32) -> Result<()> {
        let action = &self.domain.actions[a];
        let mut sink = ActionSink {
            world: &self.world,
            action,
            case: (a as u16, j as u16),
            first_fluent: self.first_fluent,
            found: &mut self.found,
        };
        match self.space.search(&self.world, &action.vars, (&action.joins[j], plan), limit, &mut sink) {
            true => Ok(()),
            false => Err(self.too_many("operators", MAX_OPERATORS)),
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

    fn goal(&mut self, objects: &Objects, goal: &Goal) -> Result<Vec<Vec<Conjunction>>> {
        let world = world(self.domain, objects, &goal.names);
        let mut parts = Vec::new();
        for joins in &goal.parts {
            let mut alternatives = Vec::new();
            for join in joins {
                self.goal_alternatives(&world, goal, join, &mut alternatives)?;
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
        world: &World,
        goal: &Goal,
        join: &Join,
        alternatives: &mut Vec<Conjunction>,
    ) -> Result<()> {
        let limit = self.space.facts.len() as u32;
        let mut sink = GoalSink { world, case: &join.case, first_fluent: self.first_fluent, alternatives };
        match self.space.search(world, &goal.vars, (join, &join.whole), limit, &mut sink) {
            true => Ok(()),
            false => Err(self.too_many("alternatives of the goal", MAX_GOALS)),
        }
    }

    /// The operators for what was found, without those that change nothing.
    fn operators(&self) -> Operators {
        let mut operators = Operators::with_capacity(self.found.cases.len());
        let (mut vars, mut matched) = (&self.found.vars[..], &self.found.matched[..]);
        let mut added = self.found.added.iter();
        let mut literals = Vec::new();
        for &(a, j) in &self.found.cases {
            let action = &self.domain.actions[usize::from(a)];
            let join = &action.joins[usize::from(j)];
            let (objects, facts);
            (objects, vars) = vars.split_at(action.vars.len());
            (facts, matched) = matched.split_at(join.plans.len());
            let present = facts.iter().map(|fact| Literal::new(fact - self.first_fluent, true));
            let absent =
                absent(&self.world, self.first_fluent, &self.space.facts, &join.case.negative, objects);
            operators.conditions.push(present.chain(absent));
            literals.clear();
            literals.extend(action.effects.iter().map(|effect| match effect.add {
                true => added.next().and_then(|fact| fact.checked_sub(self.first_fluent)),
                false => self.fluent(&effect.atom, objects),
            }));
            let effects = action.effects.iter().zip(&literals);
            let effects =
                effects.filter_map(|(effect, fact)| Some((effect, Literal::new((*fact)?, effect.add))));
            let always = effects.clone().filter(|(effect, _)| effect.when.is_none());
            operators.effects.push(always.map(|(_, literal)| literal));
            operators.finish_effects();
            operators
                .conditional
                .push(effects.filter_map(|(effect, l)| self.conditional(effect, l, objects)));
            operators.actions.push(a);
            operators.args.push(objects[..action.params.len()].iter().copied());
            operators.drop_idle();
        }
        operators.index(self.space.facts.len() - self.first_fluent as usize);
        operators
    }

    /// The number of an atom among those that actions can change, if it can ever be true.
    fn fluent(&self, atom: &Atom, vars: &[ObjectId]) -> Option<u32> {
        let fact = self.space.facts.get(atom.predicate, &self.world.args(atom, vars))?;
        fact.checked_sub(self.first_fluent)
    }

    /// An effect that happens under a condition; `None` if that never holds.
    fn conditional(&self, effect: &Effect, literal: Literal, vars: &[ObjectId]) -> Option<Conditional> {
        let when: Vec<_> = effect.when.as_ref()?.iter().filter_map(|case| self.case(case, vars)).collect();
        (!when.is_empty()).then_some(Conditional { literal, when })
    }

    /// An alternative of an effect's condition; `None` if it can never hold.
    fn case(&self, case: &Case, vars: &[ObjectId]) -> Option<Conjunction> {
        let world = &self.world;
        let fact = |atom: &Atom| self.space.facts.get(atom.predicate, &world.args(atom, vars));
        let mut literals = Conjunction::new();
        for atom in &case.positive {
            let fact = fact(atom)?;
            literals.extend(fact.checked_sub(self.first_fluent).map(|fact| Literal::new(fact, true)));
        }
        for fact in case.negative.iter().filter_map(fact) {
            literals.push(Literal::new(fact.checked_sub(self.first_fluent)?, false));
        }
        let same = |&(a, b, same): &_| (world.object(a, vars) == world.object(b, vars)) == same;
        case.equal.iter().all(same).then_some(literals)
    }
}
