//! Games: the parsed and grounded content of one game file.

use std::sync::Arc;

use crate::env::alfworld::engine::bits::Bits;
use crate::env::alfworld::engine::commands::Commands;
use crate::env::alfworld::engine::facts::Facts;
use crate::env::alfworld::engine::fields::Fields;
use crate::env::alfworld::engine::ground::{ground, Grounding};
use crate::env::alfworld::engine::logic::{Logic, OwnText};
use crate::env::alfworld::engine::operators::{Conjunction, Operators};
use crate::env::alfworld::engine::relations::Relations;
use crate::env::alfworld::engine::state::{OperatorId, State};
use crate::env::alfworld::engine::text::{Seen, Words, Writer};
use crate::env::alfworld::error::{AlfworldError, Result};
use crate::env::alfworld::grammar::chars::strip;
use crate::env::alfworld::pddl::atom::ObjectId;
use crate::env::alfworld::pddl::objects::Objects;
use crate::env::alfworld::pddl::problem::Problem;
use crate::env::alfworld::task::TaskType;

/// The text before the sentence of the task in the first observation.
const TASK_MARKER: &str = "Your task is to: ";

/// A loaded game: everything that does not change while it is played.
///
/// Share it through [`Arc`] and play it with [`Play`](crate::env::alfworld::Play). For search,
/// start from [`Game::initial_state`] and apply operators with [`Game::apply`].
pub struct Game {
    name: String,
    logic: Arc<Logic>,
    /// The literal of the grammar that this game replaces.
    own: OwnText,
    walkthrough: Option<Vec<String>>,
    first_observation: String,
    objects: Objects,
    facts: Facts,
    first_fluent: u32,
    relations: Relations,
    operators: Operators,
    commands: Commands,
    goal: Vec<Vec<Conjunction>>,
    initial: State,
    /// The admissible commands of the initial state, sorted by text.
    pub(crate) first_commands: Vec<u32>,
}

/// A predicate or an action with its objects, under their names in the game file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fact<'a> {
    /// The name of the predicate or action.
    pub predicate: &'a str,
    /// The names of the objects.
    pub arguments: Vec<&'a str>,
}

impl Game {
    /// Parses and grounds a problem, then writes the texts that do not change.
    pub(crate) fn new(
        name: &str,
        fields: Fields,
        (logic, own): (Arc<Logic>, OwnText),
    ) -> Result<Self> {
        if fields.solvable == Some(false) {
            let reason = "the file says `\"solvable\": false`".to_owned();
            return Err(AlfworldError::Unsolvable { file: name.to_owned(), reason });
        }
        let mut problem = Problem::parse(name, &fields.pddl_problem, &logic.domain)?;
        let Grounding { mut facts, first_fluent, operators, initial, goal } =
            ground(name, &logic.domain, &problem)?;
        let mut used = vec![false; problem.objects.ids.len()];
        for &arg in &problem.start.args {
            used[usize::from(arg)] = true;
        }
        problem.objects.name(&used);
        let objects = problem.objects;
        let relations = Relations::new(&logic.grammar.queried, &facts, &objects.types);
        facts.freeze();
        let applicable = operators.applicable(&initial);
        let mut game = Self {
            name: name.to_owned(),
            logic,
            own,
            walkthrough: fields.walkthrough,
            first_observation: String::new(),
            objects,
            facts,
            first_fluent,
            relations,
            operators,
            commands: Commands::default(),
            goal,
            initial: State { facts: initial, applicable },
            first_commands: Vec::new(),
        };
        game.write_texts()?;
        Ok(game)
    }

    /// Writes the first observation and every command.
    fn write_texts(&mut self) -> Result<()> {
        let nothing = Bits::new(self.initial.facts.len());
        let words = self.words();
        let mut writer = Writer::new(&words, Seen { shown: &self.initial.facts, denied: &nothing });
        let commands = Commands::write(&mut writer, &self.logic.grammar, &self.operators)?;
        let mut first: Vec<u32> =
            self.initial.applicable().map(|id| commands.of[id.index()]).collect();
        first.sort_unstable_by_key(|&command| &commands.texts[command as usize]);
        first.dedup();
        let first_observation = writer.write(&[], &[], &self.logic.grammar.intro)?.to_owned();
        self.first_observation = first_observation;
        self.commands = commands;
        self.first_commands = first;
        Ok(())
    }

    fn words(&self) -> Words<'_> {
        Words {
            file: &self.name,
            grammar: &self.logic.grammar,
            own: self.own.as_ref().map(|(id, text)| (*id, text.as_str())),
            types: &self.logic.domain.types,
            objects: &self.objects,
            facts: &self.facts,
            first_fluent: self.first_fluent,
            relations: &self.relations,
        }
    }

    /// Writes the feedback for an operator, after it was applied.
    pub(crate) fn feedback(&self, operator: OperatorId, seen: Seen) -> Result<String> {
        let texts =
            &self.logic.grammar.actions[usize::from(self.operators.actions[operator.index()])];
        let params: &[ObjectId] = self.operators.args.row(operator.index());
        let words = self.words();
        let mut writer = Writer::new(&words, seen);
        writer.write(&texts.params, params, &texts.feedback)?;
        Ok(writer.into_text())
    }

    /// Applies an operator to the facts that texts are written from.
    ///
    /// As in TextWorld, and unlike the state, they also take conditional effects whose condition
    /// does not hold.
    pub(crate) fn mirror(&self, operator: OperatorId, shown: &mut Bits, denied: &mut Bits) {
        let always = self.operators.effects.row(operator.index()).iter();
        let conditional =
            self.operators.conditional.row(operator.index()).iter().map(|effect| &effect.literal);
        for value in [true, false] {
            for literal in
                always.clone().chain(conditional.clone()).filter(|literal| literal.value() == value)
            {
                shown.set(literal.fact(), value);
                denied.set(literal.fact(), !value);
            }
        }
    }

    /// Finds the applicable operators from scratch.
    #[cfg(test)]
    pub(crate) fn find_applicable(&self, state: &State) -> Bits {
        self.operators.applicable(&state.facts)
    }

    /// The number of the command of an operator.
    pub(crate) fn command_id(&self, operator: OperatorId) -> u32 {
        self.commands.of[operator.index()]
    }

    /// The text of a command.
    pub(crate) fn command_text(&self, command: u32) -> &str {
        &self.commands.texts[command as usize]
    }

    /// The number of distinct commands.
    pub(crate) fn command_count(&self) -> usize {
        self.commands.texts.len()
    }

    /// The name of the file, as passed to the library.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of the task, if the path of the file names one.
    pub fn task_type(&self) -> Option<TaskType> {
        TaskType::of_path(&self.name)
    }

    /// The sentence of the task: the text after `Your task is to: ` in the first observation.
    ///
    /// Returns the whole first observation if it does not contain these words.
    pub fn goal(&self) -> &str {
        let text = &self.first_observation;
        strip(text.split_once(TASK_MARKER).map_or(text, |(_, goal)| goal))
    }

    /// The observation at the start of the game.
    pub fn first_observation(&self) -> &str {
        &self.first_observation
    }

    /// The reference solution in the file: commands that win the game.
    pub fn walkthrough(&self) -> Option<&[String]> {
        self.walkthrough.as_deref()
    }

    /// The state at the start of the game.
    pub fn initial_state(&self) -> &State {
        &self.initial
    }

    /// The number of operators (ground actions).
    pub fn operator_count(&self) -> usize {
        self.operators.len()
    }

    /// The command that a player types to apply an operator.
    pub fn command(&self, operator: OperatorId) -> &str {
        self.command_text(self.command_id(operator))
    }

    /// The action and the objects of an operator.
    pub fn operator(&self, operator: OperatorId) -> Fact<'_> {
        let action =
            &self.logic.domain.actions[usize::from(self.operators.actions[operator.index()])];
        Fact {
            predicate: &action.name,
            arguments: self.ids(self.operators.args.row(operator.index())),
        }
    }

    /// Applies an operator to a state.
    ///
    /// Returns `false` and changes nothing if the operator is not applicable.
    pub fn apply(&self, state: &mut State, operator: OperatorId) -> bool {
        let applicable = state.is_applicable(operator);
        if applicable {
            self.operators.apply(operator.0, &mut state.facts, &mut state.applicable);
        }
        applicable
    }

    /// Tests if a state satisfies the goal.
    pub fn is_goal(&self, state: &State) -> bool {
        let holds =
            |literals: &Conjunction| literals.iter().all(|literal| literal.holds(&state.facts));
        self.goal.iter().all(|disjuncts| disjuncts.iter().any(holds))
    }

    /// The number of fluent facts, that is facts that actions can change.
    pub fn fact_count(&self) -> usize {
        self.facts.len() - self.first_fluent as usize
    }

    /// Returns a fluent fact by its number, which must be below [`Game::fact_count`].
    pub fn fact(&self, fact: usize) -> Option<Fact<'_>> {
        (fact < self.fact_count()).then(|| self.describe(self.first_fluent + fact as u32))
    }

    /// Iterates over the static facts, which hold in every state.
    pub fn constant_facts(&self) -> impl Iterator<Item = Fact<'_>> {
        (0..self.first_fluent).map(|fact| self.describe(fact))
    }

    fn describe(&self, fact: u32) -> Fact<'_> {
        let predicate = &self.logic.domain.predicates.list[usize::from(self.facts.predicate(fact))];
        Fact { predicate: &predicate.name, arguments: self.ids(self.facts.args(fact)) }
    }

    fn ids(&self, objects: &[ObjectId]) -> Vec<&str> {
        objects.iter().map(|&object| self.objects.ids[usize::from(object)].as_ref()).collect()
    }

    /// The name that players see for an object of the game file.
    pub fn display_name(&self, object: &str) -> Option<&str> {
        self.objects.find(object).map(|id| self.objects.names[usize::from(id)].as_ref())
    }
}

impl std::fmt::Debug for Game {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let operators = self.operators.len();
        f.debug_struct("Game")
            .field("name", &self.name)
            .field("operators", &operators)
            .finish_non_exhaustive()
    }
}
