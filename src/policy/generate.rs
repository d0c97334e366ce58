//! Generation: one turn of many rows, token by token, until every row has stopped.
//!
//! Rows stop at different times, so a step decodes only the rows that are still active. As long as
//! there are many, their GEMMs are shared out by rayon's pool; the last few rows run on a team of
//! threads that stays awake between tokens, because waking the pool would take longer than the
//! work.

use crate::kernels::decode::inference::GEMV_ROWS;
use crate::kernels::decode::scratch::Scratch;
use crate::kernels::decode::team::Team;
use crate::kernels::dispatch::is_cpu;
use crate::policy::cache::KvCache;
use crate::policy::decoder::Decoder;
use crate::policy::request::{Finish, Generated, Request};
use crate::policy::sampling::{restrict, sample, support, SamplingParams};
use crate::policy::trie::TokenTrie;
use crate::{Error, Result};
use std::collections::HashMap;

impl Decoder {
    /// Reads every request's prompt and samples until all of them have stopped. Results are in the
    /// order of the requests.
    ///
    /// Sampling inverts the cumulative distribution at `stream.uniform(turn, token)`, so a row's
    /// draws do not depend on the other rows. Empty rows with the same prompt read it once.
    /// Afterwards the cache holds the prompts and the sampled ids, ready for the next turn's
    /// prompts.
    ///
    /// # Errors
    /// Invalid sampling parameters, rows that repeat or do not exist, ids outside the vocabulary, a
    /// cache of another configuration, or logits that are not finite. A prompt that does not fit is
    /// no error: its row ends with [`Finish::ContextFull`].
    pub fn generate(
        &self,
        cache: &mut KvCache,
        requests: &[Request<'_>],
        sampling: &SamplingParams,
    ) -> Result<Vec<Generated>> {
        sampling.validate()?;
        if !is_cpu(&self.norm) {
            return self.generate_rows(cache, requests, sampling);
        }
        // Enter rayon's pool once: a GEMM started from outside would wait for its threads every
        // time.
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
                return Err(Error::setting("rows", row, "each row may appear only once per call"));
            }
            if turn.request.prompt.len() < cache.room(row) {
                active.push(turn);
            }
        }
        if active.is_empty() {
            return Ok(turns.into_iter().map(|turn| turn.out).collect());
        }
        if !is_cpu(&self.norm) {
            self.generate_on_device(cache, active, sampling)?;
            return Ok(turns.into_iter().map(|turn| turn.out).collect());
        }
        let mut logits = self.read_prompts(cache, &mut active)?;
        self.sample_until(Team::Pool, cache, &mut active, &mut logits, sampling, GEMV_ROWS)?;
        if !active.is_empty() {
            Team::awake(|team| {
                self.sample_until(team, cache, &mut active, &mut logits, sampling, 0)
            })?;
        }
        Ok(turns.into_iter().map(|turn| turn.out).collect())
    }

    /// Samples, starting from the logits of the active turns, until at most `least` turns are
    /// active.
    fn sample_until(
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

    /// Reads every turn's prompt and returns the logits after it, `[r][v]`. A prompt that several
    /// empty rows have in common, such as that of a GRPO group, is computed and stored once.
    fn read_prompts(&self, cache: &mut KvCache, turns: &mut [&mut Turn<'_>]) -> Result<Scratch> {
        let Prompts { rows, prompts, source } = Prompts::of(cache, turns);
        let logits = Scratch::from(self.extend(cache, &rows, &prompts)?);
        if rows.len() == turns.len() {
            return Ok(logits);
        }
        share_prompts(cache, turns, &rows, &source);
        let v = self.config.vocab_size;
        let mut all = Scratch::new(source.len() * v);
        for (all, place) in all.chunks_exact_mut(v).zip(source) {
            all.copy_from_slice(&logits[place * v..(place + 1) * v]);
        }
        Ok(all)
    }
}

/// The prompts to compute: those that several empty rows have in common once.
pub(crate) struct Prompts<'a> {
    /// The first row with each prompt.
    pub(crate) rows: Vec<usize>,
    pub(crate) prompts: Vec<&'a [u32]>,
    /// Place of each turn's prompt in `rows`.
    pub(crate) source: Vec<usize>,
}

impl<'a> Prompts<'a> {
    /// Finds the prompts, and records with the turns which of them reads its own.
    pub(crate) fn of(cache: &KvCache, turns: &mut [&mut Turn<'a>]) -> Self {
        let mut first_with: HashMap<&[u32], usize> = HashMap::new();
        let mut found = Self { rows: Vec::new(), prompts: Vec::new(), source: Vec::new() };
        for turn in turns.iter_mut() {
            let request = turn.request;
            let next = found.rows.len();
            let place = if cache.len(request.row) == 0 {
                *first_with.entry(request.prompt).or_insert(next)
            } else {
                next
            };
            if place == next {
                found.rows.push(request.row);
                found.prompts.push(request.prompt);
                turn.out.read = request.prompt.len();
            }
            found.source.push(place);
        }
        found
    }
}

/// Shares the prompts that have been read by `rows` with the other turns' rows; `source` is that of
/// [`Prompts`].
pub(crate) fn share_prompts(
    cache: &mut KvCache,
    turns: &[&mut Turn<'_>],
    rows: &[usize],
    source: &[usize],
) {
    for (place, &first) in rows.iter().enumerate() {
        let same = turns.iter().zip(source).filter(|(_, &source)| source == place);
        let others: Vec<usize> =
            same.map(|(turn, _)| turn.request.row).filter(|&row| row != first).collect();
        if !others.is_empty() {
            cache.share(first, &others);
        }
    }
}

/// Approximate cost of sampling per logit, in multiply-adds.
const SAMPLING: usize = 16;

/// A turn that is being sampled.
pub(crate) struct Turn<'a> {
    pub(crate) request: &'a Request<'a>,
    /// Current node in the trie of choices.
    node: usize,
    pub(crate) out: Generated,
}

impl<'a> Turn<'a> {
    fn new(request: &'a Request<'a>) -> Self {
        Self { request, node: TokenTrie::ROOT, out: Generated::nothing() }
    }

    /// The ids that the choices allow next; `None` allows all.
    pub(crate) fn allowed(&self) -> Option<Vec<u32>> {
        self.request.choices.map(|choices| choices.allowed(self.node).collect())
    }

    /// The draw of the next token, in [0, 1).
    pub(crate) fn uniform(&self) -> f64 {
        self.request.stream.uniform(self.request.turn, self.out.ids.len() as u64)
    }

    /// Records a token that was sampled elsewhere, with its log-probability and the entropy of its
    /// distribution.
    pub(crate) fn record(
        &mut self,
        id: u32,
        log_prob: f32,
        entropy: f32,
        support: Option<Vec<u32>>,
    ) {
        self.out.ids.push(id);
        self.out.log_probs.push(log_prob);
        self.out.entropies.push(entropy);
        self.out.supports.extend(support);
        self.advance(id);
    }

    /// Moves on in the trie of choices.
    fn advance(&mut self, id: u32) {
        let choices = self.request.choices;
        self.node = choices.and_then(|choices| choices.next(self.node, id)).unwrap_or(self.node);
    }

    /// Samples the next token from its logits.
    pub(crate) fn sample(&mut self, logits: &mut [f32], sampling: &SamplingParams) {
        let choices = self.request.choices.map(|choices| (choices, self.node));
        if let Some(support) = support(logits, choices, sampling) {
            restrict(logits, &support);
            self.out.supports.push(support);
        }
        let id = sample(logits, self.request, sampling, &mut self.out);
        self.advance(id);
    }

    /// Returns true, and records why, if the turn ends with its last token; the row has `room` for
    /// more tokens.
    pub(crate) fn finished(&mut self, room: usize, sampling: &SamplingParams) -> bool {
        let ids = &self.out.ids;
        let at_id = ids.last().is_some_and(|id| sampling.stop_ids.contains(id));
        self.out.finish =
            if at_id || sampling.stop_strings.as_ref().is_some_and(|stop| stop.ends(ids)) {
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
