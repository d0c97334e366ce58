//! Sampling: one turn of many rows, token by token, until each stops.

use crate::kernels::decode::inference::GEMV_ROWS;
use crate::kernels::decode::scratch::Scratch;
use crate::kernels::decode::team::Team;
use crate::policy::cache::KvCache;
use crate::policy::decoder::Decoder;
use crate::policy::sampling::{restrict, sample, support, SamplingParams};
use crate::policy::trie::TokenTrie;
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
        // Inside the pool from here on: the prompts' products then do not wait for its threads from outside.
        rayon::scope(|_| self.generate_rows(cache, requests, sampling))
    }

    fn generate_rows(
        &self,
        cache: &mut KvCache,
        requests: &[Request<'_>],
        sampling: &SamplingParams,
    ) -> Result<Vec<Generated>> {
        let mut turns: Vec<Turn> = requests.iter().map(Turn::new).collect();
        let mut active = Vec::with_capacity(requests.len());
        for (i, turn) in turns.iter_mut().enumerate() {
            let row = turn.request.row;
            cache.check_row(row)?;
            if requests[..i].iter().any(|other| other.row == row) {
                return Err(Error::setting("rows", row, "a row may appear once per call"));
            }
            if turn.request.prompt.len() < cache.room(row) {
                active.push(turn);
            }
        }
        if active.is_empty() {
            return Ok(turns.into_iter().map(|turn| turn.out).collect());
        }
        let prompts: Vec<_> = active.iter().map(|turn| turn.request).collect();
        let mut logits = self.read_prompts(cache, &prompts)?;
        // The products of many rows are the pool's.
        self.go_on(Team::Pool, cache, &mut active, &mut logits, sampling, GEMV_ROWS)?;
        if !active.is_empty() {
            Team::awake(|team| self.go_on(team, cache, &mut active, &mut logits, sampling, 0))?;
        }
        Ok(turns.into_iter().map(|turn| turn.out).collect())
    }

    /// Samples, from the logits of the active turns on, until no more than `least` of them are left.
    fn go_on(
        &self,
        team: Team<'_>,
        cache: &mut KvCache,
        active: &mut Vec<&mut Turn<'_>>,
        logits: &mut Scratch,
        sampling: &SamplingParams,
        least: usize,
    ) -> Result<()> {
        while active.len() > least {
            let multiply_adds = SAMPLING * logits.len();
            let rows =
                active.iter_mut().zip(logits.chunks_exact_mut(self.config.vocab_size)).collect();
            team.each(rows, multiply_adds, |(turn, logits)| turn.sample(logits, sampling));
            active.retain_mut(|turn| {
                let row = turn.request.row;
                cache.slots[row].pending.extend(turn.out.ids.last());
                !turn.finished(cache.room(row), sampling)
            });
            if !active.is_empty() {
                let rows: Vec<usize> = active.iter().map(|turn| turn.request.row).collect();
                *logits = self.extend_with(team, cache, &rows, &vec![&[][..]; rows.len()])?;
            }
        }
        Ok(())
    }

    /// Reads every request's prompt and returns the logits after it, `[r][v]`. Empty rows with one prompt, such as those of
    /// a group, are computed and kept once.
    fn read_prompts(&self, cache: &mut KvCache, requests: &[&Request<'_>]) -> Result<Scratch> {
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
        let logits = Scratch::from(self.extend(cache, &rows, &prompts)?);
        if rows.len() == requests.len() {
            return Ok(logits);
        }
        let v = self.config.vocab_size;
        for (place, &first) in rows.iter().enumerate() {
            let same = requests.iter().zip(&source).filter(|(_, &source)| source == place);
            let others: Vec<usize> =
                same.map(|(request, _)| request.row).filter(|&row| row != first).collect();
            if !others.is_empty() {
                cache.share(first, &others);
            }
        }
        let mut all = Scratch::new(source.len() * v);
        for (all, place) in all.chunks_exact_mut(v).zip(source) {
            all.copy_from_slice(&logits[place * v..(place + 1) * v]);
        }
        Ok(all)
    }
}

/// Multiply-adds that sampling from a logit takes as long as, about.
const SAMPLING: usize = 16;

/// A row's turn while it is sampled.
struct Turn<'a> {
    request: &'a Request<'a>,
    /// Where it stands in its choices.
    node: usize,
    out: Generated,
}

impl<'a> Turn<'a> {
    fn new(request: &'a Request<'a>) -> Self {
        Self { request, node: TokenTrie::ROOT, out: Generated::nothing() }
    }

    /// Samples the next token from its logits.
    fn sample(&mut self, logits: &mut [f32], sampling: &SamplingParams) {
        let choices = self.request.choices.map(|choices| (choices, self.node));
        if let Some(support) = support(logits, choices, sampling) {
            restrict(logits, &support);
            self.out.supports.push(support);
        }
        let id = sample(logits, self.request, sampling, &mut self.out);
        self.node = choices.and_then(|(choices, node)| choices.next(node, id)).unwrap_or(self.node);
    }

    /// Whether the turn ends with its last token, in a row with `room` for more.
    fn finished(&mut self, room: usize, sampling: &SamplingParams) -> bool {
        let ids = &self.out.ids;
        let stops = ids.last().is_some_and(|id| sampling.stop_ids.contains(id));
        self.out.finish =
            if stops || sampling.stop_strings.as_ref().is_some_and(|stop| stop.ends(ids)) {
                Finish::Stop
            } else if self.request.choices.is_none() && ids.len() >= sampling.max_tokens {
                Finish::Length
            } else if room == 0 {
                Finish::ContextFull
            } else {
                return false;
            };
        true
    }
}
