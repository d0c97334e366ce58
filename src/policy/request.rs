//! One row's turn: the request and what was generated.

use crate::policy::trie::TokenTrie;
use crate::rng::Stream;
use serde::{Deserialize, Serialize};

/// A request to sample one turn of one row: the tokens to read first, and the random draws to use.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Row of the cache.
    pub row: usize,
    /// Tokens to append before sampling.
    pub prompt: &'a [u32],
    /// The row's random stream; token i of the turn uses the draw (turn, i).
    pub stream: Stream,
    /// Turn number within the episode.
    pub turn: u64,
    /// The only sequences that may be sampled, of any length; `None` allows all.
    pub choices: Option<&'a TokenTrie>,
}

/// The reason why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A stop token was sampled.
    Stop,
    /// `max_tokens` were sampled.
    Length,
    /// The context is full. If no id was sampled, the prompt left no room for a token and the row
    /// is unchanged.
    ContextFull,
}

/// The tokens that one row sampled in one turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Sampled ids, including the stop token.
    pub ids: Vec<u32>,
    /// log p of every id at the sampling temperature, over its support.
    pub log_probs: Vec<f32>,
    /// Entropy of every id's distribution in nats, over the same support at the same temperature.
    pub entropies: Vec<f32>,
    /// Support of every id: the candidate ids it was sampled from, in ascending order. Empty if
    /// that was always the whole vocabulary.
    pub supports: Vec<Vec<u32>>,
    /// Prompt tokens that were computed for this row: none if another row of the call had the same
    /// prompt and computed it, or if the prompt did not fit.
    pub read: usize,
    /// The reason why the turn ended.
    pub finish: Finish,
}

impl Generated {
    /// An empty turn in a full context.
    pub(crate) fn nothing() -> Self {
        let finish = Finish::ContextFull;
        let log_probs = Vec::new();
        let entropies = Vec::new();
        Self { ids: vec![], log_probs, entropies, supports: vec![], read: 0, finish }
    }
}
