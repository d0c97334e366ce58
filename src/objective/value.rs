//! The clipped value loss. Suffixes: b rows, t token positions.

use candle_core::Tensor;

use crate::objective::aggregate::TokenBatch;
use crate::objective::metrics::Metrics;
use crate::objective::output::LossOutput;
use crate::objective::policy::{scalar, share_of};
use crate::{Error, Result};

/// The tensors of the value loss, each [B, T] of one dtype; entries that are masked out may hold anything.
#[derive(Clone, Copy, Debug)]
pub struct ValueInputs<'a> {
    /// V(token), differentiable.
    pub values_bt: &'a Tensor,
    /// V_old as estimated when the tokens were sampled.
    pub old_values_bt: &'a Tensor,
    /// Return targets R.
    pub returns_bt: &'a Tensor,
    /// Which tokens count, and how much.
    pub batch: &'a TokenBatch,
}

/// Aggregated max((V − R)², (clip(V, V_old ± ε) − R)²) (verl `compute_value_loss`).
///
/// There is no factor ½, as in the authors' code: multiply by the value coefficient you want.
/// Metrics: `value_loss`, `value_clipfrac`.
///
/// # Errors
/// [`Error::Setting`] where ε is negative or not finite, [`Error::Shape`], [`Error::NonFinite`].
pub fn value_loss(inputs: &ValueInputs, clip: f64) -> Result<LossOutput> {
    if !(clip >= 0.0 && clip.is_finite()) {
        return Err(Error::setting("objective.value_clip", clip, "must be finite and at least 0"));
    }
    let batch = inputs.batch;
    for (name, x_bt) in [
        ("values_bt", inputs.values_bt),
        ("old_values_bt", inputs.old_values_bt),
        ("returns_bt", inputs.returns_bt),
    ] {
        batch.host(name, x_bt)?;
    }
    let values_bt = batch.zero_masked("values_bt", inputs.values_bt)?;
    let old_bt = batch.zero_masked("old_values_bt", &inputs.old_values_bt.detach())?;
    let returns_bt = batch.zero_masked("returns_bt", &inputs.returns_bt.detach())?;
    let clipped_bt = values_bt.minimum(&(&old_bt + clip)?)?.maximum(&(&old_bt - clip)?)?;
    let free_bt = (&values_bt - &returns_bt)?.sqr()?;
    let clipped_bt = (&clipped_bt - &returns_bt)?.sqr()?;
    let loss = batch.aggregate(&free_bt.maximum(&clipped_bt)?)?;
    let mut metrics = Metrics::new();
    metrics.add("value_loss", scalar(&loss)?);
    metrics.add("value_clipfrac", share_of(batch, &clipped_bt.gt(&free_bt)?)?);
    Ok(LossOutput { loss, metrics })
}
