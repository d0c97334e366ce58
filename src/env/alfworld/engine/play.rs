//! Playing a game, one action at a time.

use std::sync::Arc;

use crate::env::alfworld::engine::bits::Bits;
use crate::env::alfworld::engine::game::Game;
use crate::env::alfworld::engine::state::{OperatorId, State};
use crate::env::alfworld::engine::text::Seen;
use crate::env::alfworld::error::Result;
use crate::env::alfworld::grammar::chars::strip;

/// The answer to an action that is not admissible.
const NOTHING_HAPPENS: &str = "Nothing happens.";

/// A game being played. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Play {
    game: Arc<Game>,
    state: State,
    /// What texts take for true, and what an action made false.
    shown: Bits,
    denied: Bits,
    /// The admissible commands, sorted by their texts, and as a set.
    commands: Vec<u32>,
    listed: Bits,
    steps: u32,
    limit: Option<u32>,
}

/// What an action brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What the game says.
    pub observation: String,
    /// Whether the goal is reached.
    pub won: bool,
    /// 1 if the goal is reached, else 0.
    pub score: u32,
    /// Whether the goal is reached or the step limit is.
    pub done: bool,
    /// Whether the action was admissible.
    pub valid: bool,
}

impl Play {
    /// Starts a game, which says [`Game::first_observation`].
    pub fn new(game: Arc<Game>) -> Self {
        let state = game.initial_state().clone();
        let mut listed = Bits::new(game.command_count());
        game.first_commands.iter().for_each(|&command| listed.set(command, true));
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

    /// Plays an action: the text of an admissible command, perhaps with white space around it.
    ///
    /// A game that is done can be played on, as in TextWorld; whoever counts successes stops at the first `done`.
    ///
    /// # Errors
    /// A grammar that has no text for what happened; it has happened all the same.
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

    /// The operator that an admissible command applies.
    pub fn operator(&self, command: &str) -> Option<OperatorId> {
        let text = |&id: &u32| self.game.command_text(id).cmp(command);
        let id = self.commands[self.commands.binary_search_by(text).ok()?];
        self.state.applicable().find(|&operator| self.game.command_id(operator) == id)
    }

    /// Applies an applicable operator and says what the game says.
    fn perform(&mut self, operator: OperatorId) -> Result<String> {
        self.game.mirror(operator, &mut self.shown, &mut self.denied);
        self.game.apply(&mut self.state, operator);
        self.list_commands();
        self.game.feedback(operator, Seen { shown: &self.shown, denied: &self.denied })
    }

    /// Brings the list of admissible commands up to date.
    fn list_commands(&mut self) {
        let game = &self.game;
        let mut now = Bits::new(game.command_count());
        self.state.applicable().for_each(|operator| now.set(game.command_id(operator), true));
        self.commands.retain(|&command| now.get(command));
        for command in now.ones().filter(|&command| !self.listed.get(command)) {
            let text = game.command_text(command);
            let at = self.commands.partition_point(|&known| game.command_text(known) < text);
            self.commands.insert(at, command);
        }
        self.listed = now;
    }

    /// The admissible commands, in code-point order.
    pub fn admissible(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.commands.iter().map(|&command| self.game.command_text(command))
    }

    /// Whether the goal is reached.
    pub fn is_won(&self) -> bool {
        self.game.is_goal(&self.state)
    }

    /// How many actions were played.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// The game.
    pub fn game(&self) -> &Arc<Game> {
        &self.game
    }

    /// What is true now.
    pub fn state(&self) -> &State {
        &self.state
    }
}
