//! Playing a game, one command at a time.

use std::sync::Arc;

use crate::env::alfworld::engine::bits::Bits;
use crate::env::alfworld::engine::game::Game;
use crate::env::alfworld::engine::state::{OperatorId, State};
use crate::env::alfworld::engine::text::Seen;
use crate::env::alfworld::error::Result;
use crate::env::alfworld::grammar::chars::strip;

/// The observation after a command that is not admissible.
const NOTHING_HAPPENS: &str = "Nothing happens.";

/// A game in play; cheap to clone.
#[derive(Debug, Clone)]
pub struct Play {
    game: Arc<Game>,
    state: State,
    /// The facts that texts take as true.
    shown: Bits,
    /// The facts that an action made false.
    denied: Bits,
    /// The admissible commands, sorted by text.
    commands: Vec<u32>,
    /// The same commands as a set.
    listed: Bits,
    steps: u32,
    limit: Option<u32>,
}

/// The result of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The observation.
    pub observation: String,
    /// `true` if the goal is reached.
    pub won: bool,
    /// 1 if the goal is reached, else 0.
    pub score: u32,
    /// `true` if the goal or the step limit is reached.
    pub done: bool,
    /// `true` if the command was admissible.
    pub valid: bool,
}

impl Play {
    /// Starts a game; its first observation is [`Game::first_observation`].
    pub fn new(game: Arc<Game>) -> Self {
        let state = game.initial_state().clone();
        let mut listed = Bits::new(game.command_count());
        for &command in &game.first_commands {
            listed.set(command, true);
        }
        Self {
            shown: state.facts.clone(),
            denied: Bits::new(state.facts.len()),
            state,
            commands: game.first_commands.clone(),
            listed,
            game,
            steps: 0,
            limit: None,
        }
    }

    /// Ends the game after `limit` steps, admissible or not.
    pub fn with_step_limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Plays a command; white space around it is ignored.
    ///
    /// As in TextWorld, a game can be played on after it is done. Stop at the first `done` to count
    /// successes.
    ///
    /// # Errors
    /// Returns [`AlfworldError::Text`](crate::env::alfworld::AlfworldError::Text) if the grammar
    /// has no text for the command. The command takes effect nevertheless.
    pub fn step(&mut self, action: &str) -> Result<Outcome> {
        self.steps = self.steps.saturating_add(1);
        let operator = self.operator(strip(action));
        let observation = match operator {
            Some(operator) => self.perform(operator)?,
            None => NOTHING_HAPPENS.to_owned(),
        };
        let won = self.is_won();
        let done = won || self.limit.is_some_and(|limit| self.steps >= limit);
        Ok(Outcome { observation, won, score: u32::from(won), done, valid: operator.is_some() })
    }

    /// Returns the operator that an admissible command applies.
    pub fn operator(&self, command: &str) -> Option<OperatorId> {
        let text = |&id: &u32| self.game.command_text(id).cmp(command);
        let id = self.commands[self.commands.binary_search_by(text).ok()?];
        self.state.applicable().find(|&operator| self.game.command_id(operator) == id)
    }

    /// Applies an applicable operator and writes its feedback.
    fn perform(&mut self, operator: OperatorId) -> Result<String> {
        self.game.mirror(operator, &mut self.shown, &mut self.denied);
        self.game.apply(&mut self.state, operator);
        self.list_commands();
        self.game.feedback(operator, Seen { shown: &self.shown, denied: &self.denied })
    }

    /// Updates the list of admissible commands.
    fn list_commands(&mut self) {
        let game = &self.game;
        let mut now = Bits::new(game.command_count());
        for operator in self.state.applicable() {
            now.set(game.command_id(operator), true);
        }
        self.commands.retain(|&command| now.get(command));
        for command in now.ones().filter(|&command| !self.listed.get(command)) {
            let text = game.command_text(command);
            let at = self.commands.partition_point(|&known| game.command_text(known) < text);
            self.commands.insert(at, command);
        }
        self.listed = now;
    }

    /// Iterates over the admissible commands in code-point order.
    pub fn admissible(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.commands.iter().map(|&command| self.game.command_text(command))
    }

    /// Tests if the goal is reached.
    pub fn is_won(&self) -> bool {
        self.game.is_goal(&self.state)
    }

    /// The number of commands played, admissible or not.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// The game.
    pub fn game(&self) -> &Arc<Game> {
        &self.game
    }

    /// The current state.
    pub fn state(&self) -> &State {
        &self.state
    }
}
