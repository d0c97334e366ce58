//! Policy gradient on the tokens of high entropy.

use serde::{Deserialize, Serialize};

use crate::entropy::selection::{StepTokens, TokenSelection};
use crate::entropy::traits::{EntropyInputs, EntropyRegularizer, State};
use crate::objective::output::LossOutput;
use crate::settings::Share;
use crate::{Error, Result};

/// Keeps the policy gradient of the tokens of highest entropy only: H ≥ the (1 − ρ) quantile of the
/// step's rollout entropies (arXiv 2506.01939; TRL `top_entropy_quantile`). It adds no term to the
/// loss.
///
/// The quantile is interpolated linearly, numpy's default; all tokens that equal it count. The
/// other tokens still count in the aggregation's denominators, as in the paper.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopEntropy {
    /// ρ in (0, 1].
    pub share: Share,
}

impl Default for TopEntropy {
    /// The paper's ρ = 0.2.
    fn default() -> Self {
        Self { share: Share::literal(0.2) }
    }
}

impl State for TopEntropy {}

impl EntropyRegularizer for TopEntropy {
    fn term(&self, inputs: &EntropyInputs) -> Result<LossOutput> {
        LossOutput::zero(&inputs.entropy_bt)
    }

    fn select(&self, tokens: &StepTokens) -> Result<Option<TokenSelection>> {
        let Some(entropies) = tokens.entropies else {
            let reason = "needs the rollouts' entropies";
            return Err(Error::setting("entropy.method.kind", "top-entropy", reason));
        };
        let mut sorted: Vec<f64> = tokens.counted().map(|i| entropies[i]).collect();
        sorted.sort_by(f64::total_cmp);
        let threshold = quantile(&sorted, 1.0 - self.share.get());
        let mask = tokens.layout.mask();
        let chosen: Vec<bool> =
            mask.iter().zip(entropies).map(|(&m, &h)| m && h >= threshold).collect();
        let weights = chosen.iter().map(|&c| f64::from(u8::from(c))).collect();
        Ok(Some(TokenSelection { chosen, policy_weights: Some(weights) }))
    }
}

/// The q quantile of ascending values, linear between neighbours.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    below + (above - below) * place.fract()
}
