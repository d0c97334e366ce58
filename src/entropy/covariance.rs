//! Regularisers of the tokens that drive entropy down: those with a large covariance of
//! log-probability and advantage (Cui et al. 2025, arXiv 2505.22617).

use serde::{Deserialize, Serialize};

use crate::entropy::selection::{StepTokens, TokenSelection};
use crate::entropy::traits::{EntropyInputs, EntropyRegularizer, State};
use crate::objective::output::LossOutput;
use crate::objective::readout::Readout;
use crate::settings::{Finite, Positive, Share};
use crate::{Error, Result};

/// Returns (A − Ā)(log π_old − mean log π_old) of every masked-in token, with its position; the
/// means are over the step's tokens (arXiv 2505.22617, sec. 4).
///
/// The published code uses the current π and the means of each micro-batch. Here both are of the
/// step, so that the selection depends on the samples alone; at the step's first optimiser step π
/// is π_old.
pub fn token_covariances(tokens: &StepTokens) -> Vec<(usize, f64)> {
    let count = tokens.layout.count() as f64;
    let mean = |values: &[f64]| tokens.counted().map(|i| values[i]).sum::<f64>() / count;
    let advantage = mean(tokens.advantages);
    let log_prob = mean(tokens.log_probs);
    let covariance = |i| (tokens.advantages[i] - advantage) * (tokens.log_probs[i] - log_prob);
    tokens.counted().map(|i| (i, covariance(i))).collect()
}

/// Clip-Cov: removes the policy gradient of a few random tokens whose covariance lies in (low,
/// high) (arXiv 2505.22617; verl `compute_policy_loss_clip_cov`). It adds no term to the loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipCov {
    /// r in (0, 1]: ⌊r·N⌋ tokens of the step's N are taken, at least one.
    pub share: Share,
    /// ω_low.
    pub low: Finite,
    /// ω_high > ω_low.
    pub high: Finite,
}

impl Default for ClipCov {
    /// The published settings: r = 2·10⁻⁴ between 1 and 5.
    fn default() -> Self {
        Self { share: Share::literal(2e-4), low: Finite::literal(1.0), high: Finite::literal(5.0) }
    }
}

impl State for ClipCov {}

impl EntropyRegularizer for ClipCov {
    fn term(&self, inputs: &EntropyInputs) -> Result<LossOutput> {
        LossOutput::zero(&inputs.entropy_bt)
    }

    fn select(&self, tokens: &StepTokens) -> Result<Option<TokenSelection>> {
        let covariances = token_covariances(tokens);
        let number = taken(self.share.get(), covariances.len());
        // The draw of a token depends on its place among the generated tokens: padding changes
        // nothing.
        let mut candidates: Vec<(f64, usize)> = covariances
            .iter()
            .enumerate()
            .filter(|(_, (_, covariance))| {
                self.low.get() < *covariance && *covariance < self.high.get()
            })
            .map(|(place, (i, _))| (tokens.stream.uniform(0, place as u64), *i))
            .collect();
        candidates.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let chosen = flags(tokens, candidates.into_iter().take(number).map(|(_, i)| i));
        let weights = chosen.iter().map(|&c| if c { 0.0 } else { 1.0 }).collect();
        Ok(Some(TokenSelection { chosen, policy_weights: Some(weights) }))
    }
}

/// KL-Cov: adds coef·|log π − log π_old| on the tokens with the largest covariance (arXiv
/// 2505.22617; verl `compute_policy_loss_kl_cov`).
///
/// |·| has gradient 0 at 0, so the term has no effect at the first optimiser step after sampling.
/// The published code drops the clip of the policy loss; clip_low = 1 with a large clip_high does
/// that here.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KlCov {
    /// k in (0, 1]: ⌊k·N⌋ tokens of the step's N are taken, at least one.
    pub share: Share,
    /// β ≥ 0.
    pub coef: Positive,
}

impl Default for KlCov {
    /// The published settings for 7 B parameters: k = 2·10⁻³, β = 1.
    fn default() -> Self {
        Self { share: Share::literal(2e-3), coef: Positive::literal(1.0) }
    }
}

impl State for KlCov {}

impl EntropyRegularizer for KlCov {
    fn term(&self, inputs: &EntropyInputs) -> Result<LossOutput> {
        let Some((policy, chosen_bt)) =
            inputs.policy.and_then(|policy| Some((policy, policy.chosen_bt?)))
        else {
            let reason = "needs the log-probs and the selection: EntropyControl::term_with";
            return Err(Error::setting("entropy.method.kind", "kl-cov", reason));
        };
        let batch = inputs.batch;
        let mut readout = Readout::new(batch);
        let log_probs_bt = batch.zero_masked("log_probs_bt", policy.log_probs_bt)?;
        readout.check("log_probs_bt", &log_probs_bt);
        let old_bt = batch.zero_masked("old_log_probs_bt", &policy.old_log_probs_bt.detach())?;
        readout.check("old_log_probs_bt", &old_bt);
        let moved_bt = (&log_probs_bt - old_bt.to_dtype(log_probs_bt.dtype())?)?;
        let distance_bt = (&moved_bt * moved_bt.detach().sign()?)?;
        let chosen_bt = chosen_bt.to_dtype(moved_bt.dtype())?;
        let kl = batch.aggregate(&(distance_bt * chosen_bt)?)?;
        readout.scalar("entropy/kl_cov", &kl);
        Ok(LossOutput { loss: (kl * self.coef.get())?, metrics: readout.finish()? })
    }

    fn select(&self, tokens: &StepTokens) -> Result<Option<TokenSelection>> {
        let mut covariances = token_covariances(tokens);
        covariances.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let number = taken(self.share.get(), covariances.len());
        let chosen = flags(tokens, covariances.into_iter().take(number).map(|(i, _)| i));
        Ok(Some(TokenSelection { chosen, policy_weights: None }))
    }
}

/// ⌊share·N⌋, at least 1.
fn taken(share: f64, count: usize) -> usize {
    ((share * count as f64) as usize).max(1)
}

fn flags(tokens: &StepTokens, chosen: impl Iterator<Item = usize>) -> Vec<bool> {
    let mut flags = vec![false; tokens.layout.mask().len()];
    for i in chosen {
        flags[i] = true;
    }
    flags
}
