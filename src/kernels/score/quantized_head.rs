//! Log-probability and entropy through a quantised head, whose f32 copy is never whole.

use crate::kernels::dispatch::is_cpu;
use crate::kernels::quantized::matrix::QuantizedMatrix;
use crate::kernels::score::kept::over_kept;
use crate::kernels::score::linear_logprob_entropy::{Frozen, LinearLogprobEntropy};
use crate::kernels::score::scoring::{ScoreOptions, Scoring};
use crate::{Error, Result};
use candle_core::Tensor;

/// Computes log p(id) `[n]` and entropy `[n]` in nats of softmax(logits/τ), with logits hidden Wᵀ
/// of `hidden` `[n, h]` and a quantised W `[v, h]`.
///
/// Values and gradients are those of
/// [`linear_logprob_entropy`](crate::kernels::linear_logprob_entropy()) with
/// [`QuantizedMatrix::dequantize`], up to rounding. W is converted one tile of logits at a time.
///
/// # Errors
/// Hidden states that are not on the CPU, and the errors of
/// [`linear_logprob_entropy`](crate::kernels::linear_logprob_entropy()).
pub fn quantized_logprob_entropy(
    hidden: &Tensor,
    weight: &QuantizedMatrix,
    ids: &Tensor,
    options: &ScoreOptions,
) -> Result<(Tensor, Tensor)> {
    let (n, h) = hidden.dims2()?;
    let (v, wh) = weight.dims();
    if wh != h || v == 0 {
        let expected = format!("[v, {h}] with v > 0");
        return Err(Error::Shape { name: "weight", expected, got: vec![v, wh] });
    }
    if !is_cpu(hidden) {
        let reason = "quantised weights are computed with on the CPU only";
        return Err(Error::setting("hidden.device", format!("{:?}", hidden.device()), reason));
    }
    let scoring = Scoring::checked(n, v, ids, options)?;
    over_kept(hidden, scoring, |hidden, scoring| {
        let hidden = hidden.contiguous()?;
        let empty = Tensor::zeros(0, hidden.dtype(), hidden.device())?;
        let frozen = Frozen::Quantized(weight.clone());
        let op = LinearLogprobEntropy::new(scoring, options.chunk_bytes, frozen);
        Ok(hidden.apply_op3(&empty, &empty, op.keeping(hidden.track_op()))?)
    })
}
