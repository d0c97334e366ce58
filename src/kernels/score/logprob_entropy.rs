//! Log-probability of a token and entropy of its distribution in one pass over the logits.
//!
//! Shapes: n = tokens, v = vocabulary. The row arithmetic is in [`crate::kernels::score::softmax`].

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::slice_of;
use crate::kernels::dispatch::{is_cpu, on_device};
use crate::kernels::score::logit::Logit;
use crate::kernels::score::scoring::{RowScore, ScoreOptions, Scoring};
use crate::kernels::score::softmax::ScoreGradient;
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, DType, Device, InplaceOp1, InplaceOp2, Layout, Shape, Tensor, Var,
    WithDType,
};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Computes log p(id) `[n]` and entropy H `[n]` in nats of softmax(logits/τ), for logits `[n, v]`
/// and ids `[n]` (u32).
///
/// Logits may be f32, bf16 or f16 (computed in f32; both outputs are f32) or f64. Both outputs are
/// differentiable: ∂L/∂logits = (1/τ) [ g (1_id − p) + h p (Ē − u) ] with u = z − max z and Ē = Σ p
/// u, where g and h are the gradients of log p and H. A logit of −∞ is outside the support and gets
/// no gradient; a row of −∞ has log p = −∞, H = 0 and gradient 0.
///
/// # Errors
/// Mismatched shapes, an id outside the vocabulary, τ that is not a positive number, and a NaN or
/// +∞ among the logits.
pub fn logprob_entropy(
    logits: &Tensor,
    ids: &Tensor,
    temperature: f64,
) -> Result<(Tensor, Tensor)> {
    logprob_entropy_with(logits, ids, &ScoreOptions::at(temperature))
}

/// [`logprob_entropy()`] with a support per row: only logits within it exist, and skipped rows give
/// 0 and 0.
///
/// # Errors
/// The errors of [`logprob_entropy()`], and a support with another number of rows, an id outside
/// the vocabulary, or without the row's own id.
pub fn logprob_entropy_with(
    logits: &Tensor,
    ids: &Tensor,
    options: &ScoreOptions,
) -> Result<(Tensor, Tensor)> {
    let scoring = Scoring::new(logits, ids, options)?;
    on_device!(logits => {
        let rows = scoring.on(logits.device())?;
        split(&crate::kernels::gpu::logprob_entropy::logprob_entropy(logits, rows)?)
    });
    if is_cpu(logits) {
        return split(
            &rows_of(logits)?.apply_op1(LogprobEntropy { scoring, rows: OnceLock::new() })?,
        );
    }
    split(&scoring.composed(logits)?)
}

/// Computes the values of [`logprob_entropy_with`] without autograd, and keeps the row statistics
/// (32 bytes per row) for their gradient.
///
/// # Errors
/// The errors of [`logprob_entropy_with`].
pub fn evaluate(logits: &Tensor, ids: &Tensor, options: &ScoreOptions) -> Result<Evaluation> {
    let op = LogprobEntropy { scoring: Scoring::new(logits, ids, options)?, rows: OnceLock::new() };
    on_device!(logits => {
        let rows = op.scoring.on(logits.device())?;
        let (both, device) =
            crate::kernels::gpu::logprob_entropy::evaluate(&logits.detach(), rows)?;
        let (log_probs, entropies) = split(&both)?;
        Ok(Evaluation { log_probs, entropies, op, device: Some(device) })
    });
    let both = if is_cpu(logits) {
        rows_of(logits)?.detach().apply_op1_no_bwd(&op)?
    } else {
        op.scoring.composed(&logits.detach())?
    };
    let (log_probs, entropies) = split(&both)?;
    Ok(Evaluation {
        log_probs,
        entropies,
        op,
        #[cfg(any(test, feature = "cuda", feature = "metal"))]
        device: None,
    })
}

/// Scores of tokens, and their gradient on demand; returned by [`evaluate`].
pub struct Evaluation {
    /// log p `[n]`.
    pub log_probs: Tensor,
    /// H `[n]` in nats.
    pub entropies: Tensor,
    op: LogprobEntropy,
    #[cfg(any(test, feature = "cuda", feature = "metal"))]
    device: Option<crate::kernels::gpu::logprob_entropy::Evaluated>,
}

impl Evaluation {
    /// Computes ∂L/∂logits `[n, v]` from the gradients of `log_probs` and `entropies`, both `[n]`,
    /// in a new tensor.
    ///
    /// # Errors
    /// Gradients that are not `[n]`, or logits of another shape than the evaluated ones.
    pub fn gradient(
        &self,
        logits: &Tensor,
        log_probs: &Tensor,
        entropies: &Tensor,
    ) -> Result<Tensor> {
        let grads = stack(self.op.scoring.ids.len(), log_probs, entropies)?;
        self.check("logits", logits)?;
        #[cfg(any(test, feature = "cuda", feature = "metal"))]
        if let Some(device) = &self.device {
            return Ok(device.gradient(logits, &grads)?);
        }
        if is_cpu(logits) {
            return Ok(self.op.gradient(logits, &grads)?);
        }
        let var = Var::from_tensor(logits)?;
        let both = self.op.scoring.composed(&var)?;
        let grads = (both * grads)?.sum_all()?.backward()?;
        Ok(grads.get(&var).map_or_else(|| logits.zeros_like(), |grad| Ok(grad.clone()))?)
    }

    /// Replaces the logits by the gradient of [`Evaluation::gradient`], without further memory.
    /// This overwrites the logits in every tensor that shares their storage.
    ///
    /// # Errors
    /// The errors of [`Evaluation::gradient`], and logits that are not contiguous.
    pub fn gradient_in_place(
        &self,
        logits: &Tensor,
        log_probs: &Tensor,
        entropies: &Tensor,
    ) -> Result<()> {
        let grads = stack(self.op.scoring.ids.len(), log_probs, entropies)?;
        self.check("logits", logits)?;
        #[cfg(any(test, feature = "cuda", feature = "metal"))]
        if let Some(device) = &self.device {
            return Ok(device.gradient_in_place(logits, &grads)?);
        }
        if is_cpu(logits) {
            return Ok(logits.inplace_op1(&InPlace { op: &self.op, grads: pairs(&grads)? })?);
        }
        let gradient = self.gradient(logits, log_probs, entropies)?;
        Ok(logits.slice_set(&gradient, 0, 0)?)
    }

    fn check(&self, name: &'static str, tensor: &Tensor) -> Result<()> {
        let Scoring { ids, vocabulary, .. } = &self.op.scoring;
        if tensor.dims() == [ids.len(), *vocabulary] {
            return Ok(());
        }
        let expected = format!("[{}, {vocabulary}]", ids.len());
        Err(Error::Shape { name, expected, got: tensor.dims().to_vec() })
    }
}

/// Returns the tensor itself if its rows are contiguous and evenly spaced, otherwise a contiguous
/// copy.
fn rows_of(logits: &Tensor) -> Result<Tensor> {
    let (_, v) = logits.dims2()?;
    let even = logits.stride()[1] == 1 && logits.stride()[0] >= v;
    Ok(if even { logits.clone() } else { logits.contiguous()? })
}

/// Stacks the gradients of both outputs to `[2, n]`.
pub(crate) fn stack(n: usize, log_probs: &Tensor, entropies: &Tensor) -> Result<Tensor> {
    for (name, grad) in [("log_probs", log_probs), ("entropies", entropies)] {
        if grad.dims() != [n] {
            return Err(Error::Shape {
                name,
                expected: format!("[{n}]"),
                got: grad.dims().to_vec(),
            });
        }
    }
    Ok(Tensor::stack(&[log_probs, entropies], 0)?)
}

/// Splits a stacked `[2, n]` into both outputs; a NaN, which stems from the logits, is an error.
pub(crate) fn split(both: &Tensor) -> Result<(Tensor, Tensor)> {
    let entropies = both.get(1)?;
    let host = entropies.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    if let Some(row) = host.iter().position(|h| h.is_nan()) {
        return Err(Error::NonFinite {
            name: "logits".into(),
            value: f64::NAN,
            at: format!("row {row}"),
        });
    }
    Ok((both.get(0)?, entropies))
}

struct LogprobEntropy {
    scoring: Scoring,
    rows: OnceLock<Vec<RowScore>>,
}

/// Runs `$body` with `$T` bound to the logits' element type.
macro_rules! with_logit {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            candle_core::DType::F16 => {
                type $T = half::f16;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other, "logprob_entropy")),
        }
    };
}
pub(crate) use with_logit;

/// Returns (first element, row stride) of logits with evenly spaced rows.
fn even_rows(layout: &Layout) -> candle_core::Result<(usize, usize)> {
    let (_, v) = layout.shape().dims2()?;
    match layout.stride() {
        &[apart, 1] if apart >= v => Ok((layout.start_offset(), apart)),
        _ => Err(candle_core::Error::RequiresContiguous { op: "logprob_entropy" }),
    }
}

/// Returns (∂L/∂log p, ∂L/∂H) of every row of a stacked `[2, n]`.
pub(crate) fn pairs(grads: &Tensor) -> candle_core::Result<Vec<ScoreGradient>> {
    let [g, h] = [0, 1].map(|i| grads.get(i)?.to_dtype(DType::F64)?.to_vec1::<f64>());
    Ok(g?
        .into_iter()
        .zip(h?)
        .map(|(log_prob, entropy)| ScoreGradient { log_prob, entropy })
        .collect())
}

impl LogprobEntropy {
    fn forward<T: Logit>(&self, logits: &[T], layout: &Layout) -> candle_core::Result<CpuStorage> {
        let v = self.scoring.vocabulary;
        let (start, apart) = even_rows(layout)?;
        let n = self.scoring.ids.len();
        let row = |i: usize| &logits[start + i * apart..][..v];
        let rows: Vec<RowScore> =
            (0..n).into_par_iter().map(|i| self.scoring.score(i, row(i))).collect();
        let out = self.scoring.values::<T::Float>(&rows);
        self.rows.get_or_init(|| rows);
        Ok(<T::Float as WithDType>::to_cpu_storage_owned(out))
    }

    fn gradient(&self, logits: &Tensor, grads: &Tensor) -> candle_core::Result<Tensor> {
        let dx = with_logit!(logits.dtype(), T => {
            Tensor::from_vec(zeros::<T>(logits.elem_count()), logits.shape(), &Device::Cpu)
        })?;
        let op = Apart(InPlace { op: self, grads: pairs(grads)? });
        dx.inplace_op2(&logits.contiguous()?, &op)?;
        Ok(dx)
    }

    /// Replaces rows of a given stride by their gradients, a few elements at a time, each time
    /// after `prepare(first element, elements)`.
    fn for_rows<T: Logit>(
        &self,
        rows: &mut [T],
        apart: usize,
        grads: &[ScoreGradient],
        prepare: impl Fn(usize, &mut [T]) + Sync,
    ) {
        /// Elements that stay in the L1 cache.
        const PIECE: usize = 4096;
        let v = self.scoring.vocabulary;
        let scores = self.rows.get().map(Vec::as_slice).unwrap_or_default();
        let work = rows.par_chunks_mut(apart.max(1)).zip(scores).zip(grads).enumerate();
        work.for_each(|(i, ((row, (s, _)), &grad))| {
            for (j, piece) in row[..v].chunks_mut(PIECE).enumerate() {
                prepare(i * v + j * PIECE, piece);
                self.scoring.gradient_part(i, piece, j * PIECE, s, grad);
            }
        });
    }
}

impl CustomOp1 for LogprobEntropy {
    fn name(&self) -> &'static str {
        "logprob_entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = with_logit!(BackendStorage::dtype(logits), T => {
            self.forward::<T>(T::cpu_storage_as_slice(logits)?, layout)
        })?;
        Ok((out, (2, self.scoring.ids.len()).into()))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(self.gradient(logits, grad)?))
    }
}

struct InPlace<'a> {
    op: &'a LogprobEntropy,
    grads: Vec<ScoreGradient>,
}

/// Runs `$body` with `$data` bound to the elements of a storage of logits.
macro_rules! with_elements {
    ($storage:expr, $data:ident => $body:expr) => {
        match $storage {
            CpuStorage::F32($data) => $body,
            CpuStorage::BF16($data) => $body,
            CpuStorage::F16($data) => $body,
            CpuStorage::F64($data) => $body,
            other => {
                let dtype = BackendStorage::dtype(other);
                Err(candle_core::Error::UnsupportedDTypeForOp(dtype, "logprob_entropy"))
            }
        }
    };
}

impl InplaceOp1 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "logprob_entropy gradient"
    }

    fn cpu_fwd(&self, logits: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (start, apart) = even_rows(layout)?;
        with_elements!(logits, data => {
            self.op.for_rows(&mut data[start..], apart, &self.grads, |_, _| ());
            Ok(())
        })
    }
}

/// The gradient in a new buffer, from logits that are kept.
struct Apart<'a>(InPlace<'a>);

impl InplaceOp2 for Apart<'_> {
    fn name(&self) -> &'static str {
        "logprob_entropy gradient"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        layout: &Layout,
        logits: &CpuStorage,
        logits_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (start, apart) = even_rows(layout)?;
        with_elements!(out, out => {
            let x = slice_of(logits, logits_layout)?;
            let copy = |first: usize, piece: &mut [_]| {
                piece.copy_from_slice(&x[first..][..piece.len()]);
            };
            self.0.op.for_rows(&mut out[start..], apart, &self.0.grads, copy);
            Ok(())
        })
    }
}
