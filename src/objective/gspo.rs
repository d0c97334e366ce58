//! The sequence-level ratio. Suffixes: b rows, t token positions.

use candle_core::Tensor;

use crate::objective::aggregate::TokenBatch;
use crate::Result;

/// Returns GSPO's ratio in its token form, rₜ = sg(s)·π/sg(π), with s = exp(mean of log π/π_old
/// over the turn's tokens). Every token has its turn's s as value and s·∇log π as gradient (arXiv
/// 2507.18071, eq. 7 and 14; verl `compute_policy_loss_gspo`, without its cut at e¹⁰).
///
/// A sequence is one turn of a row, a segment of
/// [`TokenLayout::segments`](crate::objective::TokenLayout::segments): one response of the policy
/// to one observation. Turn rows and concatenated rows therefore have the same ratios, and no turn
/// spans two micro-batches. `log_ratio_bt` [B, T] holds log π − log π_old, zero where masked out;
/// masked-out ratios are 1.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), and [`Error::NonFinite`](crate::Error::NonFinite) if a
/// masked-in log-ratio is NaN or infinite.
pub fn sequence_ratio(log_ratio_bt: &Tensor, batch: &TokenBatch) -> Result<Tensor> {
    let log_ratios = batch.host("log_ratio_bt", log_ratio_bt)?;
    let means = batch.layout().segments().means(&log_ratios);
    let mean_bt = batch.tensor_like(&means, log_ratio_bt)?;
    let no_value_bt = (log_ratio_bt - log_ratio_bt.detach())?;
    Ok((mean_bt + no_value_bt)?.exp()?)
}
