//! Sampling: one turn of many rows, token by token, until each stops.

use super::cache::KvCache;
use super::decoder::Decoder;
use super::trie::TokenTrie;
use crate::kernels::{probabilities, row_statistics};
use crate::rng::Stream;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How tokens are chosen and when a turn ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingParams {
    /// τ of softmax(logits/τ); log-probabilities and entropies are reported at it as well.
    pub temperature: f64,
    /// Take the most probable token (the lowest id among equals) and draw nothing.
    pub greedy: bool,
    /// Tokens per turn, the stop token included.
    pub max_tokens: usize,
    /// Ids that end a turn.
    pub stop_ids: Vec<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self { temperature: 1.0, greedy: false, max_tokens: 32, stop_ids: Vec::new() }
    }
}

impl SamplingParams {
    /// Checks every field.
    ///
    /// # Errors
    /// τ that is not a positive number, or no tokens at all.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(Error::setting("temperature", self.temperature, "must be a positive number"));
        }
        if self.max_tokens == 0 {
            return Err(Error::setting("max_tokens", 0, "must be positive"));
        }
        Ok(())
    }
}

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
    /// The ids that every id was chosen from, where the request had choices; else empty.
    pub supports: Vec<Vec<u32>>,
    /// Why the turn ended.
    pub finish: Finish,
}

impl Generated {
    fn nothing() -> Self {
        let finish = Finish::ContextFull;
        Self { ids: vec![], log_probs: vec![], entropies: vec![], supports: vec![], finish }
    }
}

impl Decoder {
    /// Reads every request's prompt and samples until all of them have stopped; results in request order.
    ///
    /// Sampling inverts the cumulative distribution at `stream.uniform(turn, token)`, so a row's tokens do not
    /// depend on the rows beside it. Afterwards the cache holds prompt and sampled ids, ready for the
    /// next turn's prompt.
    ///
    /// # Errors
    /// Invalid sampling parameters and what [`Decoder::extend`] rejects; a prompt that does not fit is not
    /// an error but [`Finish::ContextFull`].
    pub fn generate(
        &self,
        cache: &mut KvCache,
        requests: &[Request<'_>],
        sampling: &SamplingParams,
    ) -> Result<Vec<Generated>> {
        sampling.validate()?;
        let mut results = vec![Generated::nothing(); requests.len()];
        let mut nodes = vec![TokenTrie::ROOT; requests.len()];
        let mut active = Vec::with_capacity(requests.len());
        for (i, request) in requests.iter().enumerate() {
            cache.check_row(request.row)?;
            if request.prompt.len() < cache.room(request.row) {
                active.push(i);
            }
        }
        let mut first = true;
        while !active.is_empty() {
            let rows: Vec<usize> = active.iter().map(|&i| requests[i].row).collect();
            let chunks: Vec<&[u32]> =
                active.iter().map(|&i| if first { requests[i].prompt } else { &[] }).collect();
            let mut logits = self.extend(cache, &rows, &chunks)?;
            first = false;
            let mut row_logits = logits.chunks_exact_mut(self.config.vocab_size);
            active.retain(|&i| {
                let (Some(logits), request) = (row_logits.next(), &requests[i]) else { return false };
                if let Some(choices) = request.choices {
                    results[i].supports.push(restrict(logits, choices, nodes[i]));
                }
                let id = sample(logits, request, sampling, &mut results[i]);
                nodes[i] = request.choices.and_then(|c| c.next(nodes[i], id)).unwrap_or(nodes[i]);
                cache.slots[request.row].pending.push(id);
                let limit = if request.choices.is_some() { usize::MAX } else { sampling.max_tokens };
                !finished(&mut results[i], id, cache.room(request.row), &sampling.stop_ids, limit)
            });
        }
        Ok(results)
    }
}

/// Sets the logits outside the choices to −∞ and returns the ids that are left.
fn restrict(logits: &mut [f32], choices: &TokenTrie, node: usize) -> Vec<u32> {
    let support: Vec<u32> = choices.allowed(node).collect();
    let kept: Vec<f32> = support.iter().map(|&id| logits[id as usize]).collect();
    logits.fill(f32::NEG_INFINITY);
    support.iter().zip(kept).for_each(|(&id, logit)| logits[id as usize] = logit);
    support
}

/// Draws one id and records it with its log-probability and entropy.
fn sample(logits: &mut [f32], request: &Request<'_>, sampling: &SamplingParams, out: &mut Generated) -> u32 {
    let inverse_temperature = 1.0 / sampling.temperature;
    let statistics = row_statistics(logits, inverse_temperature);
    let argmax = || (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    let mut probs = Vec::new();
    let id = if sampling.greedy {
        argmax()
    } else {
        probs.extend_from_slice(logits);
        probabilities(&mut probs, inverse_temperature, &statistics);
        invert_cdf(&probs, request.stream.uniform(request.turn, out.ids.len() as u64))
    };
    out.log_probs.push(statistics.log_prob(f64::from(logits[id]), inverse_temperature) as f32);
    out.entropies.push(statistics.entropy() as f32);
    out.ids.push(id as u32);
    id as u32
}

/// The first index whose cumulative probability exceeds u · Σp, never one of probability 0.
fn invert_cdf(probs: &[f32], u: f64) -> usize {
    let total: f64 = probs.iter().map(|&p| f64::from(p)).sum();
    let mut cumulative = 0.0;
    let mut last = 0;
    for (i, &p) in probs.iter().enumerate().filter(|(_, &p)| p > 0.0) {
        cumulative += f64::from(p);
        last = i;
        if cumulative > u * total {
            break;
        }
    }
    last
}

fn finished(out: &mut Generated, id: u32, room: usize, stop_ids: &[u32], limit: usize) -> bool {
    let reason = if stop_ids.contains(&id) {
        Finish::Stop
    } else if out.ids.len() >= limit {
        Finish::Length
    } else if room == 0 {
        Finish::ContextFull
    } else {
        return false;
    };
    out.finish = reason;
    true
}
