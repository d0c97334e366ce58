//! Policy gradients weighted by a constant. Suffixes: b rows, t token positions.

use candle_core::Tensor;

use crate::Result;

/// Returns CISPO's constant weight per token, sg(clip(r, 1 − ε_low, 1 + ε_high)), all [B, T]; the
/// loss of a token is this weight times [`reinforce_loss`] (arXiv 2506.13585, eq. 4 and 5; verl
/// `compute_policy_loss_cispo`).
///
/// sg is a stop-gradient. PPO's clip silences a token whose ratio has left the range; this one only
/// bounds its weight. The paper has no lower bound: ε_low = 1.
///
/// # Errors
/// [`Error::Candle`](crate::Error::Candle) if the tensor operation fails.
pub fn cispo_weight(ratio_bt: &Tensor, [clip_low, clip_high]: [f64; 2]) -> Result<Tensor> {
    Ok(ratio_bt.detach().clamp(1.0 - clip_low, 1.0 + clip_high)?)
}

/// Returns −A·log π per token, both [B, T] (REINFORCE, Williams 1992; verl
/// `compute_policy_loss_gpg`).
///
/// There is no ratio: the second optimiser step on the same samples is off-policy and not
/// corrected.
///
/// # Errors
/// [`Error::Candle`](crate::Error::Candle) if shapes, dtypes or devices differ.
pub fn reinforce_loss(log_probs_bt: &Tensor, advantages_bt: &Tensor) -> Result<Tensor> {
    Ok((log_probs_bt * advantages_bt.neg()?)?)
}
