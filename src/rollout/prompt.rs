//! Prompts as token ids, in a small policy's markup or as a chat, and demonstrations in the same
//! form.

use crate::env::{Demonstration, Start};
use crate::policy::sampling::StopStrings;
use crate::policy::tokenizer::Tokenizer;
use crate::policy::trie::TokenTrie;
use crate::rollout::action::{Action, ActionFormat};
use crate::rollout::rows::{DemonstrationRow, Row};
use crate::{Error, Result};

/// The tokens that structure a prompt, in the order of their ids: padding, goal, observation,
/// action, end of action. Text from an environment never encodes to them.
pub const SPECIAL_TOKENS: [&str; 5] =
    ["<|pad|>", "<|goal|>", "<|observation|>", "<|action|>", "<|end|>"];

/// Converts texts into prompt ids, and sampled ids into action text.
///
/// A small policy's prompt ([`Prompter::new`]) is `goal, text, observation, text, action` in the
/// first turn and `observation, text, action` in later ones. A model checkpoint's prompt follows
/// its chat template ([`Prompter::chat`]). The policy responds with the action's tokens and `end`.
/// Sampled tokens are never tokenised again.
#[derive(Debug, Clone)]
pub struct Prompter {
    tokenizer: Tokenizer,
    frame: Frame,
    format: ActionFormat,
    max_observation_tokens: usize,
}

/// The fixed ids around the texts of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame {
    /// Before the goal.
    pub(crate) goal: Vec<u32>,
    /// Between the goal and the first observation.
    pub(crate) first: Vec<u32>,
    /// Before a later observation.
    pub(crate) later: Vec<u32>,
    /// After an observation: the start of the policy's turn.
    pub(crate) action: Vec<u32>,
    /// End of the policy's turn.
    pub(crate) end: u32,
    /// Append the end token to an action that was cut off.
    pub(crate) closes: bool,
}

impl Prompter {
    /// Creates a small policy's prompter, which keeps the first `max_observation_tokens` tokens of
    /// each observation.
    ///
    /// # Errors
    /// The tokenizer lacks one of [`SPECIAL_TOKENS`], or the limit is 0.
    pub fn new(tokenizer: Tokenizer, max_observation_tokens: usize) -> Result<Self> {
        let [_, goal, observation, action, end] =
            SPECIAL_TOKENS.map(|token| tokenizer.special_id(token));
        let observation = observation?;
        let frame = Frame {
            goal: vec![goal?],
            first: vec![observation],
            later: vec![observation],
            action: vec![action?],
            end: end?,
            closes: false,
        };
        Self::framed(tokenizer, frame, ActionFormat::Plain, max_observation_tokens)
    }

    pub(crate) fn framed(
        tokenizer: Tokenizer,
        frame: Frame,
        format: ActionFormat,
        max_observation_tokens: usize,
    ) -> Result<Self> {
        if max_observation_tokens == 0 {
            return Err(Error::setting("rollout.max_observation_tokens", 0, "must be at least 1"));
        }
        Ok(Self { tokenizer, frame, format, max_observation_tokens })
    }

    /// The ids of the first turn's prompt.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn start(&self, start: &Start) -> Result<Vec<u32>> {
        let goal = self.tokenizer.encode(&start.goal)?;
        let first = self.observed(&self.frame.first, &start.observation)?;
        Ok([&self.frame.goal[..], &goal, &first].concat())
    }

    /// The ids of a later turn's prompt: the environment's response.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn observation(&self, text: &str) -> Result<Vec<u32>> {
        self.observed(&self.frame.later, text)
    }

    /// [`Prompter::observation`] after a sampled action, preceded by the end token if the action
    /// was cut off.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn after_action(&self, action: &[u32], text: &str) -> Result<Vec<u32>> {
        let mut ids = self.observation(text)?;
        if self.frame.closes && action.last() != Some(&self.frame.end) {
            ids.insert(0, self.frame.end);
        }
        Ok(ids)
    }

    fn observed(&self, before: &[u32], text: &str) -> Result<Vec<u32>> {
        let mut text = self.tokenizer.encode(text)?;
        text.truncate(self.max_observation_tokens);
        Ok([before, &text, &self.frame.action].concat())
    }

    /// The token sequences of `actions`, each with its end token.
    ///
    /// # Errors
    /// The tokenizer failed, or there is no action.
    pub fn choices(&self, actions: &[String]) -> Result<TokenTrie> {
        let sequence = |action: &String| -> Result<Vec<u32>> {
            let mut ids = self.tokenizer.encode(&self.format.written(action))?;
            ids.push(self.frame.end);
            Ok(ids)
        };
        TokenTrie::new(actions.iter().map(sequence).collect::<Result<Vec<_>>>()?)
    }

    /// The action in the sampled ids up to the end token; ids unknown to the tokenizer are skipped.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn action(&self, ids: &[u32]) -> Result<Action> {
        let n = ids.iter().position(|&id| id == self.frame.end).unwrap_or(ids.len());
        let known: Vec<u32> =
            ids[..n].iter().copied().filter(|&id| self.tokenizer.has(id)).collect();
        Ok(self.format.read(&self.tokenizer.decode(&known)?))
    }

    /// The texts that end an action, besides its end token.
    ///
    /// # Errors
    /// An empty stop text; no format has one.
    pub fn stop_strings(&self) -> Result<Option<StopStrings>> {
        match self.format.stop_strings() {
            [] => Ok(None),
            strings => StopStrings::new(self.tokenizer.token_bytes().into(), strings).map(Some),
        }
    }

    /// The training row of a demonstration: all its tokens, with those of the imitated actions and
    /// their end tokens marked.
    ///
    /// # Errors
    /// The tokenizer failed, or the demonstration has no action to imitate.
    pub fn demonstration(
        &self,
        demo: &Demonstration,
        trajectory: usize,
    ) -> Result<DemonstrationRow> {
        let mut ids = self.start(&demo.start)?;
        let mut imitated = Vec::new();
        let mut turns = Vec::new();
        for (i, turn) in demo.turns.iter().enumerate() {
            if i > 0 {
                ids.extend(self.observation(&demo.turns[i - 1].step.observation)?);
            }
            imitated.resize(ids.len(), false);
            ids.extend(self.tokenizer.encode(&self.format.written(&turn.action))?);
            ids.push(self.frame.end);
            imitated.resize(ids.len(), turn.imitated);
            turns.resize(ids.len(), i as u32);
        }
        if !imitated.contains(&true) {
            let at = format!("{} has no action to imitate", demo.task);
            return Err(Error::EmptyMask { name: "demonstration", at });
        }
        let positions = (1..ids.len() as u32).collect();
        let turns = turns.split_off(1);
        let row = Row { ids, positions, turns, trajectory, ..Row::default() };
        Ok(DemonstrationRow { row, imitated: imitated.split_off(1) })
    }

    /// The id that ends an action.
    pub fn end_id(&self) -> u32 {
        self.frame.end
    }

    /// The tokenizer in use.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

/// All texts of a demonstration that occur in prompts or actions, to train a tokenizer on.
pub fn demonstration_texts(demo: &Demonstration) -> impl Iterator<Item = &str> {
    let turns = demo.turns.iter().flat_map(|t| [t.action.as_str(), t.step.observation.as_str()]);
    [demo.start.goal.as_str(), demo.start.observation.as_str()].into_iter().chain(turns)
}
