//! A decoder as the sampler of the turn loop.

use crate::policy;
use crate::policy::cache::KvCache;
use crate::policy::decoder::Decoder;
use crate::policy::generate::Finish;
use crate::policy::sampling::{SamplingParams, StopStrings};
use crate::rollout::config::PlayConfig;
use crate::rollout::engine::{Request, Sampled, Sampler};
use crate::Result;

/// Samples with a decoder and its key/value cache, carried across the turns of an episode.
pub struct PolicySampler<'a> {
    decoder: &'a Decoder,
    cache: KvCache,
    slots: usize,
    end_id: u32,
    stop_strings: Option<StopStrings>,
}

impl<'a> PolicySampler<'a> {
    /// A sampler for `slots` concurrent episodes whose actions end with `end_id`.
    pub fn new(decoder: &'a Decoder, slots: usize, end_id: u32) -> Self {
        Self {
            decoder,
            cache: KvCache::new(decoder.config(), slots),
            slots,
            end_id,
            stop_strings: None,
        }
    }

    /// Ends actions at these texts as well.
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
        let params = SamplingParams {
            temperature: if greedy { 1.0 } else { config.temperature },
            greedy,
            top_k: config.top_k,
            top_p: config.top_p,
            min_p: config.min_p,
            max_tokens: config.actions.max_tokens(),
            stop_ids: vec![self.end_id],
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
    let policy::Generated { ids, log_probs, entropies, supports, finish } = generated;
    Sampled { ids, log_probs, entropies, supports, stopped: finish == Finish::Stop }
}
