//! Sampling: one turn of many rows, token by token, until each stops.

use super::cache::KvCache;
use super::decoder::Decoder;
use super::sampling::{restrict, sample, support, SamplingParams};
use super::trie::TokenTrie;
use crate::rng::Stream;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

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
    fn nothing() -> Self {
        let finish = Finish::ContextFull;
        Self { ids: vec![], log_probs: vec![], entropies: vec![], supports: vec![], finish }
    }
}

impl Decoder {
    /// Reads every request's prompt and samples until all of them have stopped; results in request order.
    ///
    /// Sampling inverts the cumulative distribution at `stream.uniform(turn, token)`, so a row's tokens do not
    /// depend on the rows beside it. Empty rows with the same prompt read it once. Afterwards the cache holds prompt and sampled ids, ready for the
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
            if requests[..i].iter().any(|other| other.row == request.row) {
                return Err(Error::setting("rows", request.row, "a row may appear once per call"));
            }
            if request.prompt.len() < cache.room(request.row) {
                active.push(i);
            }
        }
        let mut read = false;
        while !active.is_empty() {
            let mut logits = if read {
                let rows: Vec<usize> = active.iter().map(|&i| requests[i].row).collect();
                self.extend(cache, &rows, &vec![&[][..]; rows.len()])?
            } else {
                self.read_prompts(cache, &active.iter().map(|&i| &requests[i]).collect::<Vec<_>>())?
            };
            read = true;
            let mut row_logits = logits.chunks_exact_mut(self.config.vocab_size);
            active.retain(|&i| {
                let (Some(logits), request) = (row_logits.next(), &requests[i]) else { return false };
                if let Some(support) = support(logits, request.choices.map(|c| (c, nodes[i])), sampling) {
                    restrict(logits, &support);
                    results[i].supports.push(support);
                }
                let id = sample(logits, request, sampling, &mut results[i]);
                nodes[i] = request.choices.and_then(|c| c.next(nodes[i], id)).unwrap_or(nodes[i]);
                cache.slots[request.row].pending.push(id);
                let limit = if request.choices.is_some() { usize::MAX } else { sampling.max_tokens };
                !finished(&mut results[i], cache.room(request.row), sampling, limit)
            });
        }
        Ok(results)
    }

    /// Reads every request's prompt and returns the logits after it, `[r][v]`. Empty rows with one prompt, such as those of
    /// a group, are computed once and copied.
    fn read_prompts(&self, cache: &mut KvCache, requests: &[&Request<'_>]) -> Result<Vec<f32>> {
        let mut first_with: HashMap<&[u32], usize> = HashMap::new();
        let (mut rows, mut prompts) = (Vec::new(), Vec::<&[u32]>::new());
        let mut source = Vec::with_capacity(requests.len());
        for request in requests {
            let place = if cache.len(request.row) == 0 {
                *first_with.entry(request.prompt).or_insert(rows.len())
            } else {
                rows.len()
            };
            if place == rows.len() {
                rows.push(request.row);
                prompts.push(request.prompt);
            }
            source.push(place);
        }
        let logits = self.extend(cache, &rows, &prompts)?;
        if rows.len() == requests.len() {
            return Ok(logits);
        }
        let v = self.config.vocab_size;
        for (request, &place) in requests.iter().zip(&source) {
            if request.row != rows[place] {
                cache.copy(rows[place], request.row);
            }
        }
        Ok(source.iter().flat_map(|&place| &logits[place * v..(place + 1) * v]).copied().collect())
    }
}

fn finished(out: &mut Generated, room: usize, sampling: &SamplingParams, limit: usize) -> bool {
    let stops = out.ids.last().is_some_and(|id| sampling.stop_ids.contains(id));
    let reason = if stops || sampling.stop_strings.as_ref().is_some_and(|stop| stop.ends(&out.ids)) {
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
