//! From logits to a token: the support, the draw, and the stop conditions.
//!
//! Training needs the log-probability of exactly the distribution that was sampled from. If top-k,
//! top-p or min-p left out ids, the update has to renormalise over the same ids, so the support of
//! every token is recorded with it.

use crate::kernels::decode::scratch::Scratch;
use crate::kernels::score::softmax::{probabilities, row_statistics};
use crate::policy::request::{Generated, Request};
use crate::policy::trie::TokenTrie;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Settings of sampling and of the end of a turn.
///
/// Log-probabilities and entropies are those of the distribution that is sampled from: at the
/// temperature, and over the support that `top_k`, `top_p` and `min_p` leave. They are applied in
/// this order, each to the result of the previous.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingParams {
    /// Temperature τ of softmax(logits/τ), above 0.
    pub temperature: f64,
    /// Take the most probable token (the lowest id among equals) instead of sampling.
    pub greedy: bool,
    /// Keep the k most probable ids; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most probable ids whose probabilities reach this sum (nucleus
    /// sampling, Holtzman et al. 2020); in (0, 1], 1 keeps all.
    pub top_p: f64,
    /// Keep ids that are at least this fraction as probable as the most probable one (Nguyen et al.
    /// 2024); in [0, 1], 0 keeps all.
    pub min_p: f64,
    /// Most tokens per turn, including the stop token; at least 1.
    pub max_tokens: usize,
    /// Ids that end a turn.
    pub stop_ids: Vec<u32>,
    /// Strings that end a turn as soon as its tokens spell one of them.
    #[serde(skip)]
    pub stop_strings: Option<StopStrings>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            greedy: false,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            max_tokens: 32,
            stop_ids: Vec::new(),
            stop_strings: None,
        }
    }
}

impl SamplingParams {
    /// Checks every field.
    ///
    /// Errors name the setting of a run's `[rollout]` table that the field comes from; `max_tokens`
    /// is `rollout.actions.max_tokens` there.
    ///
    /// # Errors
    /// τ that is not positive and finite, `top_p` outside (0, 1], `min_p` outside [0, 1], or
    /// `max_tokens` of 0.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let reason = "must be positive and finite";
            return Err(Error::setting("rollout.temperature", self.temperature, reason));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::setting("rollout.top_p", self.top_p, "must be in (0, 1]"));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err(Error::setting("rollout.min_p", self.min_p, "must be in [0, 1]"));
        }
        if self.max_tokens == 0 {
            return Err(Error::setting("rollout.actions.max_tokens", 0, "must be at least 1"));
        }
        Ok(())
    }

    /// Returns true if the support may be smaller than the vocabulary.
    pub(crate) fn truncates(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }
}

/// Strings that end a turn. They are compared as bytes, so a string may start or end in the middle
/// of a token.
#[derive(Debug, Clone, PartialEq)]
pub struct StopStrings {
    /// The bytes of every id.
    bytes: Arc<[Vec<u8>]>,
    strings: Vec<Vec<u8>>,
}

impl StopStrings {
    /// Creates stop strings for a vocabulary whose ids spell `bytes`.
    ///
    /// # Errors
    /// An empty string.
    pub fn new<S: AsRef<str>>(bytes: Arc<[Vec<u8>]>, strings: &[S]) -> Result<Self> {
        let strings: Vec<Vec<u8>> =
            strings.iter().map(|s| s.as_ref().as_bytes().to_vec()).collect();
        if strings.iter().any(Vec::is_empty) {
            Err(Error::setting("stop_strings", "\"\"", "an empty string would end every turn"))
        } else {
            Ok(Self { bytes, strings })
        }
    }

    /// Returns true if one of the strings ends inside the last of `ids`.
    pub fn ends(&self, ids: &[u32]) -> bool {
        let bytes = |id: &u32| self.bytes.get(*id as usize).map_or(&[][..], Vec::as_slice);
        let Some((last, before)) = ids.split_last() else { return false };
        let longest = self.strings.iter().map(Vec::len).max().unwrap_or(0);
        let mut tail: Vec<u8> = Vec::new();
        for id in before.iter().rev() {
            if tail.len() + 1 >= longest {
                break;
            }
            tail.splice(0..0, bytes(id).iter().copied());
        }
        let border = tail.len();
        tail.extend_from_slice(bytes(last));
        let ends_in_last = |s: &Vec<u8>| {
            tail.windows(s.len())
                .enumerate()
                .any(|(start, window)| window == s && start + s.len() > border)
        };
        self.strings.iter().any(ends_in_last)
    }
}

/// The support of the next token in ascending order; `None` is the whole vocabulary.
pub(crate) fn support(
    logits: &mut [f32],
    choices: Option<(&TokenTrie, usize)>,
    sampling: &SamplingParams,
) -> Option<Vec<u32>> {
    let allowed: Option<Vec<u32>> = choices.map(|(trie, node)| trie.allowed(node).collect());
    if !sampling.truncates() {
        return allowed;
    }
    if let Some(allowed) = &allowed {
        restrict(logits, allowed);
    }
    Some(most_probable(logits, sampling))
}

/// Sets the logits outside the support to −∞.
pub(crate) fn restrict(logits: &mut [f32], support: &[u32]) {
    let kept: Vec<f32> = support.iter().map(|&id| logits[id as usize]).collect();
    logits.fill(f32::NEG_INFINITY);
    for (&id, logit) in support.iter().zip(kept) {
        logits[id as usize] = logit;
    }
}

/// The ids that `top_k`, `top_p` and `min_p` keep, at least one, in ascending order. Among equally
/// probable ids the lower ones are kept.
fn most_probable(logits: &[f32], sampling: &SamplingParams) -> Vec<u32> {
    let statistics = row_statistics(logits, 1.0 / sampling.temperature);
    let mut probs = logits.to_vec();
    probabilities(&mut probs, 1.0 / sampling.temperature, &statistics);
    let mut order: Vec<u32> =
        (0..logits.len() as u32).filter(|&id| logits[id as usize] > f32::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let p = |id: &u32| f64::from(probs[*id as usize]);
    if sampling.top_p < 1.0 {
        let enough = sampling.top_p * order.iter().map(p).sum::<f64>();
        let before = order.iter().scan(0.0, |sum, id| {
            let before = *sum;
            *sum += p(id);
            Some(before)
        });
        let kept = before.take_while(|&before| before < enough).count();
        order.truncate(kept.max(1));
    }
    let least = sampling.min_p * order.first().map_or(0.0, p);
    order.truncate(order.partition_point(|id| p(id) >= least).max(1));
    order.sort_unstable();
    order
}

/// Samples one id and records it with its log-probability and entropy.
pub(crate) fn sample(
    logits: &mut [f32],
    request: &Request<'_>,
    sampling: &SamplingParams,
    out: &mut Generated,
) -> u32 {
    let inverse_temperature = 1.0 / sampling.temperature;
    let statistics = row_statistics(logits, inverse_temperature);
    let argmax =
        || (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    let id = if sampling.greedy {
        argmax()
    } else {
        let mut probs = Scratch::new(logits.len());
        probs.copy_from_slice(logits);
        probabilities(&mut probs, inverse_temperature, &statistics);
        invert_cdf(&probs, request.stream.uniform(request.turn, out.ids.len() as u64))
    };
    out.log_probs.push(statistics.log_prob(f64::from(logits[id]), inverse_temperature) as f32);
    out.entropies.push(statistics.entropy() as f32);
    out.ids.push(id as u32);
    id as u32
}

/// The first index whose cumulative probability exceeds u · Σp, never one with probability 0.
fn invert_cdf(probs: &[f32], u: f64) -> usize {
    /// Number of probabilities that are summed up and skipped together.
    const PART: usize = 64;
    let sum = |part: &[f32]| {
        let (chunks, rest) = part.as_chunks::<8>();
        let mut lanes = [0.0; 8];
        for chunk in chunks {
            for (lane, &p) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(p);
            }
        }
        lanes.into_iter().chain(rest.iter().map(|&p| f64::from(p))).sum::<f64>()
    };
    let sums: Vec<f64> = probs.chunks(PART).map(sum).collect();
    let target = u * sums.iter().sum::<f64>();
    let mut cumulative = 0.0;
    for ((part, sum), start) in probs.chunks(PART).zip(sums).zip((0..).step_by(PART)) {
        if cumulative + sum <= target {
            cumulative += sum;
            continue;
        }
        for (i, &p) in part.iter().enumerate().filter(|(_, &p)| p > 0.0) {
            cumulative += f64::from(p);
            if cumulative > target {
                return start + i;
            }
        }
    }
    probs.iter().rposition(|&p| p > 0.0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(top_k: usize, top_p: f64, min_p: f64) -> SamplingParams {
        SamplingParams { top_k, top_p, min_p, ..SamplingParams::default() }
    }

    /// Logits for the probabilities 0.1, 0.4, 0.05, 0.25, 0.2.
    fn logits() -> Vec<f32> {
        [0.1f32, 0.4, 0.05, 0.25, 0.2].iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn each_rule_keeps_the_most_probable_ids_and_the_rules_apply_in_order() {
        let kept = |p: SamplingParams| support(&mut logits(), None, &p).unwrap();
        assert_eq!(support(&mut logits(), None, &params(0, 1.0, 0.0)), None);
        assert_eq!(kept(params(2, 1.0, 0.0)), [1, 3]);
        assert_eq!(kept(params(0, 0.6, 0.0)), [1, 3]);
        assert_eq!(kept(params(0, 0.66, 0.0)), [1, 3, 4]);
        assert_eq!(kept(params(0, 1e-9, 0.0)), [1]);
        assert_eq!(kept(params(0, 1.0, 0.49)), [1, 3, 4]);
        assert_eq!(kept(params(0, 1.0, 1.0)), [1]);
        // top_k leaves three ids with a total of 0.85; two of them reach 0.7 · 0.85.
        assert_eq!(kept(params(3, 0.7, 0.0)), [1, 3]);
        assert_eq!(kept(params(0, 0.9, 0.6)), [1, 3]);
        // Equal logits: the lower ids are kept.
        assert_eq!(support(&mut [0.0; 6], None, &params(2, 1.0, 0.0)).unwrap(), [0, 1]);
    }

    #[test]
    fn a_draw_is_the_first_index_past_its_share_of_the_sum() {
        let probs: Vec<f32> =
            (0..1000).map(|i| if i % 3 == 1 { 0.0 } else { (i % 7) as f32 }).collect();
        let total: f32 = probs.iter().sum();
        for draw in 0..500 {
            let u = (f64::from(draw) + 0.25) / 500.0;
            let before =
                |i: &usize| f64::from(probs[..=*i].iter().sum::<f32>()) > u * f64::from(total);
            assert_eq!(Some(invert_cdf(&probs, u)), (0..1000).find(before), "{u}");
        }
        assert_eq!((invert_cdf(&[0.0, 0.5, 0.0], 0.0), invert_cdf(&[0.5, 0.5, 0.0], 1.0)), (1, 1));
    }

    #[test]
    fn choices_come_first() {
        let trie = TokenTrie::new(vec![vec![0], vec![2], vec![4]]).unwrap();
        let p = params(2, 1.0, 0.0);
        assert_eq!(support(&mut logits(), Some((&trie, TokenTrie::ROOT)), &p).unwrap(), [0, 4]);
    }

    #[test]
    fn stop_strings_end_a_turn_across_token_boundaries() {
        let bytes: Vec<Vec<u8>> = ["</", "act", "ion>", "x", ">", "tail</action> "]
            .iter()
            .map(|s| s.as_bytes().to_vec())
            .collect();
        let stop = StopStrings::new(bytes.into(), &["</action>", "xx"]).unwrap();
        assert!(stop.ends(&[3, 0, 1, 2]) && stop.ends(&[5]) && stop.ends(&[0, 3, 3]));
        assert!(
            !stop.ends(&[0, 1])
                && !stop.ends(&[0, 1, 2, 3])
                && !stop.ends(&[])
                && !stop.ends(&[0, 2])
        );
        assert!(StopStrings::new(Arc::new([]), &[""]).is_err());
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for bad in [
            params(0, 0.0, 0.0),
            params(0, 1.1, 0.0),
            params(0, f64::NAN, 0.0),
            params(0, 1.0, -0.1),
        ] {
            assert!(bad.validate().is_err());
        }
    }
}
