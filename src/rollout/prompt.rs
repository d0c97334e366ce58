//! The plain prompt of the small policy: marked goal, observation, action; and demonstrations in it.

use super::{DemonstrationRow, Row};
use crate::env::{Demonstration, Start};
use crate::policy::{TokenTrie, Tokenizer};
use crate::{Error, Result};

/// The tokens that structure a prompt, in the order of their ids: padding, goal, observation, action, end
/// of action. Text from an environment can never produce them.
pub const SPECIAL_TOKENS: [&str; 5] = ["<|pad|>", "<|goal|>", "<|observation|>", "<|action|>", "<|end|>"];

/// Turns texts into prompt ids and sampled ids into action text.
///
/// First turn: `goal, text, observation, text, action`; later turns: `observation, text, action`. The policy
/// answers with the action's tokens and `end`.
#[derive(Debug, Clone)]
pub struct Prompter {
    tokenizer: Tokenizer,
    goal: u32,
    observation: u32,
    action: u32,
    end: u32,
    max_observation_tokens: usize,
}

impl Prompter {
    /// A prompter that keeps the first `max_observation_tokens` tokens of each observation.
    ///
    /// # Errors
    /// The tokenizer lacks one of [`SPECIAL_TOKENS`], or the limit is 0.
    pub fn new(tokenizer: Tokenizer, max_observation_tokens: usize) -> Result<Self> {
        if max_observation_tokens == 0 {
            return Err(Error::setting("rollout.max_observation_tokens", 0, "must be at least 1"));
        }
        let [_, goal, observation, action, end] = SPECIAL_TOKENS.map(|token| tokenizer.special_id(token));
        let (goal, observation, action, end) = (goal?, observation?, action?, end?);
        Ok(Self { tokenizer, goal, observation, action, end, max_observation_tokens })
    }

    /// The ids of the first turn's prompt.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn start(&self, start: &Start) -> Result<Vec<u32>> {
        let mut ids = vec![self.goal];
        ids.extend(self.tokenizer.encode(&start.goal)?);
        ids.extend(self.observation(&start.observation)?);
        Ok(ids)
    }

    /// The ids of a later turn's prompt: what the environment answered.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn observation(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = vec![self.observation];
        ids.extend(self.tokenizer.encode(text)?.into_iter().take(self.max_observation_tokens));
        ids.push(self.action);
        Ok(ids)
    }

    /// The token sequences of `actions`, each with its end.
    ///
    /// # Errors
    /// The tokenizer failed, or there is no action.
    pub fn choices(&self, actions: &[String]) -> Result<TokenTrie> {
        let sequence = |action: &String| -> Result<Vec<u32>> {
            let mut ids = self.tokenizer.encode(action)?;
            ids.push(self.end);
            Ok(ids)
        };
        TokenTrie::new(actions.iter().map(sequence).collect::<Result<Vec<_>>>()?)
    }

    /// The action's text from its sampled ids, up to the end token.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn action_text(&self, ids: &[u32]) -> Result<String> {
        let n = ids.iter().position(|&id| id == self.end).unwrap_or(ids.len());
        Ok(self.tokenizer.decode(&ids[..n])?.trim().to_string())
    }

    /// The row that teaches a demonstration: every token of it, those of the imitated actions and their end tokens
    /// marked.
    ///
    /// # Errors
    /// The tokenizer failed, or the demonstration has no action to imitate.
    pub fn demonstration(&self, demo: &Demonstration, trajectory: usize) -> Result<DemonstrationRow> {
        let (mut ids, mut imitated, mut turns) = (self.start(&demo.start)?, Vec::new(), Vec::new());
        for (i, turn) in demo.turns.iter().enumerate() {
            if i > 0 {
                ids.extend(self.observation(&demo.turns[i - 1].step.observation)?);
            }
            imitated.resize(ids.len(), false);
            ids.extend(self.tokenizer.encode(&turn.action)?);
            ids.push(self.end);
            imitated.resize(ids.len(), turn.imitated);
            turns.resize(ids.len(), i as u32);
        }
        if !imitated.contains(&true) {
            return Err(Error::setting("demonstration", &demo.task, "has no action to imitate"));
        }
        let positions = (1..ids.len() as u32).collect();
        let (imitated, turns) = (imitated.split_off(1), turns.split_off(1));
        Ok(DemonstrationRow { row: Row { ids, positions, turns, trajectory, ..Row::default() }, imitated })
    }

    /// The id that ends an action.
    pub fn end_id(&self) -> u32 {
        self.end
    }

    /// The tokenizer in use.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

/// Every text of a demonstration that a prompt or an action may hold: what a tokenizer is trained on.
pub fn demonstration_texts(demo: &Demonstration) -> impl Iterator<Item = &str> {
    let turns = demo.turns.iter().flat_map(|t| [t.action.as_str(), t.step.observation.as_str()]);
    [demo.start.goal.as_str(), demo.start.observation.as_str()].into_iter().chain(turns)
}
