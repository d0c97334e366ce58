//! A loss of the tokens' log-probabilities and entropies, and its gradient, in three products instead of four.
//!
//! Shapes: n = tokens, h = hidden width, v = vocabulary.

use crate::kernels::cpu::real::{slice_of, with_real};
use crate::kernels::score::head::{HeadGradients, TokenLoss, Wanted};
use crate::kernels::score::linear_logprob_entropy::{Gradients3, LinearLogprobEntropy, LmHead};
use crate::kernels::score::logit::Logit;
use crate::kernels::score::logprob_entropy::split;
use crate::kernels::score::scoring::{ScoreOptions, Scoring};
use crate::{Error, Result};
use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Shape, Tensor};
use std::sync::{Arc, OnceLock};

/// What [`linear_token_loss`] returns.
#[derive(Debug, Clone)]
pub struct TokenLosses {
    /// Σᵢ ℓᵢ, a scalar with a gradient.
    pub loss: Tensor,
    /// log p `[n]`, without one.
    pub log_probs: Tensor,
    /// H `[n]` in nats, without one.
    pub entropies: Tensor,
}

/// Σᵢ ℓᵢ(log pᵢ, Hᵢ) over the tokens of `hidden` `[n, h]` through `head`, where ℓᵢ = `loss(i, log pᵢ, Hᵢ)` depends on
/// its own token alone: clipped ratios, KL terms, an entropy bonus with a weight known before.
/// Skipped rows are not part of the sum.
///
/// The gradient is computed with the value, while a few rows of logits (`options.chunk_bytes`) exist: three products
/// where [`crate::kernels::linear_logprob_entropy()`] needs four. A loss that needs all entropies first cannot use it.
///
/// # Errors
/// As [`crate::kernels::linear_logprob_entropy()`]; hidden states that are not f32 or f64 on the CPU; a head with a low-rank
/// update; a loss that is not finite.
pub fn linear_token_loss(
    hidden: &Tensor,
    head: &LmHead<'_>,
    ids: &Tensor,
    options: &ScoreOptions,
    loss: impl Fn(usize, f64, f64) -> TokenLoss + Send + Sync + 'static,
) -> Result<TokenLosses> {
    let (n, v) = head.check(hidden)?;
    if !hidden.device().is_cpu() || head.low_rank.is_some() {
        let reason = "three products are made on the CPU, and for a head without low-rank update";
        return Err(Error::setting("head", "unsupported", reason));
    }
    let scoring = Scoring::checked(n, v, ids, options)?;
    let [hidden, weight, bias] = head.inputs(hidden)?;
    let op = LinearTokenLoss {
        wanted: [&hidden, &weight, &bias].map(Tensor::track_op),
        inner: LinearLogprobEntropy::new(scoring, options.chunk_bytes, None),
        loss: Box::new(loss),
        found: Arc::default(),
    };
    let found = op.found.clone();
    let loss = hidden.apply_op3(&weight, &bias, op)?;
    let missing = || candle_core::Error::Msg("linear_token_loss: no forward pass".into());
    let (log_probs, entropies) = split(&found.get().ok_or_else(missing)?.both)?;
    let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    if !value.is_finite() {
        return Err(Error::NonFinite { name: "loss".into(), value, at: format!("{n} tokens") });
    }
    Ok(TokenLosses { loss, log_probs, entropies })
}

/// What the forward pass has found beside the loss.
struct Found {
    /// (log p, H) `[2, n]`.
    both: Tensor,
    /// Of hidden states, W and b, where they are wanted.
    gradients: [Option<Tensor>; 3],
}

struct LinearTokenLoss {
    wanted: [bool; 3],
    inner: LinearLogprobEntropy,
    loss: Box<dyn Fn(usize, f64, f64) -> TokenLoss + Send + Sync>,
    found: Arc<OnceLock<Found>>,
}

impl LinearTokenLoss {
    fn forward<T: Logit<Real = T>>(
        &self,
        inputs: [&[T]; 3],
        shapes: [&Shape; 3],
    ) -> candle_core::Result<CpuStorage> {
        let [x, weight, bias] = self.wanted;
        let (rows, HeadGradients { mut terms, bias: db }) =
            self.inner.with_head(inputs, |head| {
                let bias = bias && head.bias.is_some();
                Ok(head.score_and_gradient(&self.loss, &[Wanted { x, weight }], bias))
            })?;
        let (scores, losses): (Vec<_>, Vec<f64>) = rows.into_iter().unzip();
        let both = self.inner.scoring.values::<T>(&scores);
        let both = Tensor::from_vec(both, (2, scores.len()), &Device::Cpu)?;
        let [dx, dw] = terms.pop().map_or([vec![], vec![]], |term| [term.x, term.weight]);
        let tensor = |values: Vec<T>, which: usize| {
            let some = (!values.is_empty()).then_some(values);
            some.map(|values| Tensor::from_vec(values, shapes[which], &Device::Cpu)).transpose()
        };
        let gradients = [tensor(dx, 0)?, tensor(dw, 1)?, tensor(db, 2)?];
        self.found.get_or_init(|| Found { both, gradients });
        Ok(T::to_cpu_storage_owned(vec![T::from_f64(losses.iter().sum())]))
    }
}

impl CustomOp3 for LinearTokenLoss {
    fn name(&self) -> &'static str {
        "linear_token_loss"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let shapes = [lx.shape(), lw.shape(), lb.shape()];
        let out = with_real!(candle_core::backend::BackendStorage::dtype(x), "linear_token_loss", T => {
            self.forward::<T>([slice_of(x, lx)?, slice_of(w, lw)?, slice_of(b, lb)?], shapes)
        })?;
        Ok((out, ().into()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Gradients3> {
        let factor = grad.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let Some(Found { gradients, .. }) = self.found.get() else {
            candle_core::bail!("linear_token_loss: backward before forward");
        };
        let [dx, dw, db] = gradients.clone().map(|gradient| match gradient {
            Some(gradient) if factor != 1.0 => (gradient * factor).map(Some),
            gradient => Ok(gradient),
        });
        Ok((dx?, dw?, db?))
    }
}
