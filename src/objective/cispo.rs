//! Policy gradients weighted by a constant. Suffixes: b rows, t token positions.

use candle_core::Tensor;

use crate::objective::aggregate::TokenBatch;
use crate::objective::metrics::Metrics;
use crate::objective::policy::share_of;
use crate::Result;

/// Per token −sg(clip(r, 1 − ε_low, 1 + ε_high))·A·log π, all tensors [B, T] (CISPO, arXiv 2506.13585, eq. 4
/// and 5; verl `compute_policy_loss_cispo`).
///
/// sg is a stop-gradient. Unlike the clip of PPO, that of CISPO bounds the weight of a token and never silences it. Its paper leaves
/// out the lower bound: ε_low = 1. Adds the metric `pg_clipfrac`, the share of tokens whose weight was clipped.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where a tensor is not [B, T].
pub fn cispo_loss(
    ratio_bt: &Tensor,
    log_probs_bt: &Tensor,
    advantages_bt: &Tensor,
    [clip_low, clip_high]: [f64; 2],
    batch: &TokenBatch,
    metrics: &mut Metrics,
) -> Result<Tensor> {
    let ratio_bt = ratio_bt.detach();
    let weight_bt = ratio_bt.clamp(1.0 - clip_low, 1.0 + clip_high)?;
    metrics.add("pg_clipfrac", share_of(batch, &weight_bt.ne(&ratio_bt)?)?);
    Ok((weight_bt * reinforce_loss(log_probs_bt, advantages_bt)?)?)
}

/// Per token −A·log π, both [B, T] (REINFORCE, Williams 1992; verl `compute_policy_loss_gpg`).
///
/// There is no ratio: the second optimiser step on the same samples is off-policy without a correction.
///
/// # Errors
/// [`Error::Candle`](crate::Error::Candle) where shapes, dtypes or devices differ.
pub fn reinforce_loss(log_probs_bt: &Tensor, advantages_bt: &Tensor) -> Result<Tensor> {
    Ok((log_probs_bt * advantages_bt.neg()?)?)
}
