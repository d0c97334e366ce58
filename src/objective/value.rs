//! The clipped value loss. Suffixes: b rows, t token positions.

use candle_core::Tensor;

use crate::objective::aggregate::TokenBatch;
use crate::objective::output::LossOutput;
use crate::objective::readout::Readout;
use crate::{Error, Result};

/// The tensors of the value loss, each [B, T] of one dtype. Masked-out entries may hold anything.
#[derive(Clone, Copy, Debug)]
pub struct ValueInputs<'a> {
    /// V(token), differentiable.
    pub values_bt: &'a Tensor,
    /// V_old, the estimates at sampling time.
    pub old_values_bt: &'a Tensor,
    /// Return targets R.
    pub returns_bt: &'a Tensor,
    /// Mask and aggregation weights of the tokens.
    pub batch: &'a TokenBatch,
}

/// Returns the aggregated max((V − R)², (clip(V, V_old ± ε) − R)²) (verl `compute_value_loss`).
///
/// There is no factor ½, as in the authors' code: multiply by the value coefficient you want.
/// Metrics: `value_loss`, `value_clipfrac`.
///
/// # Errors
/// [`Error::Setting`] if ε is negative or not finite, [`Error::Shape`], [`Error::NonFinite`].
pub fn value_loss(inputs: &ValueInputs, clip: f64) -> Result<LossOutput> {
    if !(clip >= 0.0 && clip.is_finite()) {
        return Err(Error::setting("value_clip", clip, "must be finite and at least 0"));
    }
    let batch = inputs.batch;
    let mut readout = Readout::new(batch);
    let mut masked = |name, x_bt: &Tensor| -> Result<Tensor> {
        let x_bt = batch.zero_masked(name, x_bt)?;
        readout.check(name, &x_bt);
        Ok(x_bt)
    };
    let values_bt = masked("values_bt", inputs.values_bt)?;
    let old_bt = masked("old_values_bt", &inputs.old_values_bt.detach())?;
    let returns_bt = masked("returns_bt", &inputs.returns_bt.detach())?;
    let clipped_bt = values_bt.minimum(&(&old_bt + clip)?)?.maximum(&(&old_bt - clip)?)?;
    let free_bt = (&values_bt - &returns_bt)?.sqr()?;
    let clipped_bt = (&clipped_bt - &returns_bt)?.sqr()?;
    let loss = batch.aggregate(&free_bt.maximum(&clipped_bt)?)?;
    readout.scalar("value_loss", &loss);
    readout.share("value_clipfrac", &clipped_bt.gt(&free_bt)?)?;
    Ok(LossOutput { loss, metrics: readout.finish()? })
}
