//! Sampling of actions for the turn loop: the trait, and a decoder behind it.

use crate::policy;
use crate::policy::cache::KvCache;
use crate::policy::decoder::Decoder;
use crate::policy::request::Finish;
use crate::policy::sampling::{SamplingParams, StopStrings};
use crate::policy::trie::TokenTrie;
use crate::rng::Stream;
use crate::rollout::config::{ActionSpace, PlayConfig};
use crate::Result;

/// A request for one action of one episode.
#[derive(Debug, Clone)]
pub struct Request {
    /// The sampler's slot that holds the episode, below [`Sampler::slots`].
    pub slot: usize,
    /// A new episode starts: the slot's history is cleared first.
    pub fresh: bool,
    /// Token ids to append to the history.
    pub prompt_ids: Vec<u32>,
    /// The episode's random stream.
    pub stream: Stream,
    /// Index of the turn.
    pub turn: u64,
    /// The only actions that may be sampled; `None`: any.
    pub choices: Option<TokenTrie>,
}

/// One sampled action; without ids if the prompt did not fit into the context.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampled {
    /// Sampled ids, including the stop token.
    pub ids: Vec<u32>,
    /// Log-probability of each, nats.
    pub log_probs: Vec<f32>,
    /// Entropy of the distribution each was sampled from, nats.
    pub entropies: Vec<f32>,
    /// The candidate ids of each, if the request had choices; else empty.
    pub supports: Vec<Vec<u32>>,
    /// Prompt tokens that were computed for it, without those that another episode shared.
    pub read: usize,
    /// The action ended with a stop token or stop text before the token limit.
    pub stopped: bool,
}

/// A policy that samples actions for several episodes at once and remembers their histories.
pub trait Sampler {
    /// Number of episodes it can hold at the same time.
    fn slots(&self) -> usize;

    /// Samples one action for each request, in order.
    ///
    /// # Errors
    /// The policy failed.
    fn sample(&mut self, requests: &[Request], config: &PlayConfig) -> Result<Vec<Sampled>>;
}

/// A [`Sampler`] over a decoder, which keeps its key/value cache across the turns of an episode.
pub struct PolicySampler<'a> {
    decoder: &'a Decoder,
    cache: KvCache,
    slots: usize,
    end_ids: Vec<u32>,
    stop_strings: Option<StopStrings>,
}

impl<'a> PolicySampler<'a> {
    /// Creates a sampler for `slots` concurrent episodes. Actions end with any of `end_ids`, those
    /// that are chosen from a list with the first.
    pub fn new(decoder: &'a Decoder, slots: usize, end_ids: &[u32]) -> Self {
        Self {
            decoder,
            cache: KvCache::new(decoder.config(), slots),
            slots,
            end_ids: end_ids.to_vec(),
            stop_strings: None,
        }
    }

    /// The same sampler, which also ends actions at these texts.
    pub fn stopping_at(mut self, stop_strings: Option<StopStrings>) -> Self {
        self.stop_strings = stop_strings;
        self
    }
}

impl Sampler for PolicySampler<'_> {
    fn slots(&self) -> usize {
        self.slots
    }

    fn sample(&mut self, requests: &[Request], config: &PlayConfig) -> Result<Vec<Sampled>> {
        for request in requests.iter().filter(|r| r.fresh) {
            self.cache.reset(request.slot)?;
        }
        let greedy = config.temperature == 0.0;
        let stop_ids = match config.actions {
            ActionSpace::Free { .. } => self.end_ids.clone(),
            ActionSpace::Admissible => self.end_ids.iter().copied().take(1).collect(),
        };
        let params = SamplingParams {
            temperature: if greedy { 1.0 } else { config.temperature },
            greedy,
            top_k: config.top_k,
            top_p: config.top_p,
            min_p: config.min_p,
            max_tokens: config.actions.max_tokens(),
            stop_ids,
            stop_strings: self.stop_strings.clone(),
        };
        let requests: Vec<policy::Request> = (requests.iter())
            .map(|r| policy::Request {
                row: r.slot,
                prompt: &r.prompt_ids,
                stream: r.stream,
                turn: r.turn,
                choices: r.choices.as_ref(),
            })
            .collect();
        let generated = self.decoder.generate(&mut self.cache, &requests, &params)?;
        Ok(generated.into_iter().map(sampled).collect())
    }
}

fn sampled(generated: policy::Generated) -> Sampled {
    let policy::Generated { ids, log_probs, entropies, supports, read, finish } = generated;
    Sampled { ids, log_probs, entropies, supports, read, stopped: finish == Finish::Stop }
}
