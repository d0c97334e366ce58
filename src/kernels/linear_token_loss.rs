//! A loss of the tokens' log-probabilities and entropies, and its gradient, in three products instead of four.
//!
//! Shapes: n = tokens, h = hidden width, v = vocabulary.

use super::head::{Scored, Wanted};
use super::linear_logprob_entropy::{LinearLogprobEntropy, LmHead};
use super::logprob_entropy::{split, ScoreOptions, Scoring};
use super::real::{slice_of, with_real};
use super::rows::{Logit, RowGradient};
use crate::{Error, Result};
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Shape, Tensor, WithDType};
use std::sync::{Arc, Mutex, OnceLock};

/// One token's part of a loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLoss {
    /// ℓ(log p, H).
    pub value: f64,
    /// ∂ℓ/∂log p.
    pub log_prob: f64,
    /// ∂ℓ/∂H.
    pub entropy: f64,
}

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
/// where [`super::linear_logprob_entropy()`] needs four. A loss that needs all entropies first cannot use it.
///
/// # Errors
/// As [`super::linear_logprob_entropy()`]; hidden states that are not f32 or f64 on the CPU; a head with a low-rank
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
    let no_bias = || Tensor::zeros(0, hidden.dtype(), hidden.device());
    let bias = head.bias.map_or_else(no_bias, Tensor::contiguous)?;
    let (hidden, weight) = (hidden.contiguous()?, head.weight.contiguous()?);
    let wanted = [&hidden, &weight, &bias].map(Tensor::track_op);
    let both = Arc::new(OnceLock::new());
    let inner = LinearLogprobEntropy::new(scoring, options.chunk_bytes, None);
    let op = LinearTokenLoss {
        inner,
        loss: Box::new(loss),
        wanted,
        both: both.clone(),
        gradients: Mutex::default(),
    };
    let loss = hidden.apply_op3(&weight, &bias, op)?;
    let missing = || candle_core::Error::Msg("linear_token_loss: no forward pass".into());
    let (log_probs, entropies) = split(both.get().ok_or_else(missing)?)?;
    let value = loss.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
    if !value.is_finite() {
        return Err(Error::NonFinite { name: "loss".into(), value, at: format!("{n} tokens") });
    }
    Ok(TokenLosses { loss, log_probs, entropies })
}

type Gradients3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

struct LinearTokenLoss {
    inner: LinearLogprobEntropy,
    loss: Box<dyn Fn(usize, f64, f64) -> TokenLoss + Send + Sync>,
    wanted: [bool; 3],
    both: Arc<OnceLock<Tensor>>,
    gradients: Mutex<Gradients3>,
}

impl LinearTokenLoss {
    fn forward<T: Logit<Real = T>>(
        &self,
        inputs: [&[T]; 3],
        shapes: [&Shape; 3],
    ) -> candle_core::Result<CpuStorage> {
        let row = |i, log_prob, entropy| {
            let TokenLoss { log_prob, entropy, .. } = (self.loss)(i, log_prob, entropy);
            RowGradient { log_prob, entropy }
        };
        let [x, weight, bias] = self.wanted;
        let wanted = [Wanted { x, weight }];
        let (scored, mut terms, db) = self.inner.with_head(inputs, |head| {
            let bias = bias && head.bias.is_some();
            Ok(head.score_and_gradient(&row, &wanted, bias))
        })?;
        let tensor = |values: Vec<T>, which: usize| -> candle_core::Result<Option<Tensor>> {
            let wanted = self.wanted[which] && !values.is_empty();
            wanted.then(|| Tensor::from_vec(values, shapes[which], &Device::Cpu)).transpose()
        };
        if let Some(term) = terms.pop() {
            let gradients = (tensor(term.x, 0)?, tensor(term.weight, 1)?, tensor(db, 2)?);
            *self.gradients.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = gradients;
        }
        let value = self.record::<T>(&scored)?;
        Ok(T::to_cpu_storage_owned(vec![T::from_f64(value)]))
    }

    /// Keeps both outputs and returns the loss.
    fn record<T: WithDType>(&self, scored: &Scored) -> candle_core::Result<f64> {
        let terms = self.inner.values(scored);
        let counted = (0..terms.len()).filter(|&i| self.inner.counts(i));
        let value = counted.map(|i| (self.loss)(i, terms[i].0, terms[i].1).value).sum();
        let values = terms.iter().map(|t| t.0).chain(terms.iter().map(|t| t.1)).map(T::from_f64).collect();
        let both = Tensor::from_vec::<_, T>(values, (2, scored.len()), &Device::Cpu)?;
        self.both.get_or_init(|| both);
        Ok(value)
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
        let factor = grad.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
        let taken =
            std::mem::take(&mut *self.gradients.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let scaled = |gradient: Option<Tensor>| match gradient {
            Some(gradient) if factor != 1.0 => (gradient * factor).map(Some),
            gradient => Ok(gradient),
        };
        Ok((scaled(taken.0)?, scaled(taken.1)?, scaled(taken.2)?))
    }
}
