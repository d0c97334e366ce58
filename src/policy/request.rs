//! One row's turn: the request and the outcome.

use crate::policy::trie::TokenTrie;
use crate::rng::Stream;
use serde::{Deserialize, Serialize};

/// One row's turn: what to read before sampling, and which draws to use.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Row of the cache.
    pub row: usize,
    /// Tokens appended before sampling.
    pub prompt: &'a [u32],
    /// The row's random stream; token i of the turn uses the draw (turn, i).
    pub stream: Stream,
    /// Turn number within the episode.
    pub turn: u64,
    /// The only sequences that may be sampled, whatever their length; `None`: any.
    pub choices: Option<&'a TokenTrie>,
}

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A stop token was sampled.
    Stop,
    /// `max_tokens` were sampled.
    Length,
    /// The context is full. Without any id: the prompt did not leave room for a token, and the row is
    /// as it was.
    ContextFull,
}

/// What one row sampled in one turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Sampled ids, the stop token included.
    pub ids: Vec<u32>,
    /// log p of every id at the sampling temperature.
    pub log_probs: Vec<f32>,
    /// Entropy of every id's distribution, in nats, over the same support at the same temperature.
    pub entropies: Vec<f32>,
    /// The ids that every id was chosen from, where the request had choices or the sampling takes only some; else empty.
    pub supports: Vec<Vec<u32>>,
    /// Why the turn ended.
    pub finish: Finish,
}

impl Generated {
    pub(crate) fn nothing() -> Self {
        let finish = Finish::ContextFull;
        Self { ids: vec![], log_probs: vec![], entropies: vec![], supports: vec![], finish }
    }
}
