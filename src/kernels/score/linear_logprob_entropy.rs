//! Log-probability and entropy from hidden states, without storing all logits.
//!
//! Shapes: n = tokens, h = hidden width, v = vocabulary, r = rank of a LoRA adapter. The f32 logits
//! of 1024 tokens over a vocabulary of 150,000 take 600 MB. Here they exist one tile at a time.

use crate::kernels::autograd::gradient_sink;
use crate::kernels::cpu::float::{slice_of, with_slices};
use crate::kernels::dispatch::is_cpu;
use crate::kernels::layers::composed;
use crate::kernels::quantized::matrix::QuantizedMatrix;
use crate::kernels::score::head::{Head, HeadGradients, Term, TermWeight, Wanted};
use crate::kernels::score::kept::over_kept;
use crate::kernels::score::logit::Logit;
use crate::kernels::score::logprob_entropy::{
    logprob_entropy_with, pairs, split, stack, with_logit,
};
use crate::kernels::score::scoring::{RowScore, ScoreOptions, Scoring};
use crate::kernels::score::softmax::ScoreGradient;
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Shape, Tensor, WithDType};
use std::any::Any;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// A language-model head: logits = hidden Wᵀ + b, plus s (hidden Aᵀ) Bᵀ with a LoRA adapter.
#[derive(Debug, Clone, Copy)]
pub struct LmHead<'a> {
    /// W `[v, h]`.
    pub weight: &'a Tensor,
    /// b `[v]`.
    pub bias: Option<&'a Tensor>,
    /// A LoRA adapter of the weight (Hu et al. 2021); with it, W and b get no gradient.
    pub low_rank: Option<LowRank<'a>>,
}

/// ΔW = s B A.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// A `[r, h]`.
    pub a: &'a Tensor,
    /// B `[v, r]`.
    pub b: &'a Tensor,
    /// Scale s, which is α/r in the paper.
    pub scale: f64,
}

impl<'a> LmHead<'a> {
    /// Creates a head without bias and LoRA adapter.
    pub fn new(weight: &'a Tensor) -> Self {
        Self { weight, bias: None, low_rank: None }
    }

    /// Computes the logits `[n, v]` with differentiable candle operations.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = composed::linear(hidden, self.weight, self.bias)?;
        let Some(LowRank { a, b, scale }) = self.low_rank else { return Ok(logits) };
        Ok((logits + (hidden.matmul(&a.t()?)?.matmul(&b.t()?)? * scale)?)?)
    }

    /// Returns contiguous hidden states, W and b; a missing bias becomes an empty tensor.
    fn inputs(&self, hidden: &Tensor) -> Result<[Tensor; 3]> {
        let bias = match self.bias {
            Some(bias) => bias.contiguous()?,
            None => Tensor::zeros(0, hidden.dtype(), hidden.device())?,
        };
        Ok([hidden.contiguous()?, self.weight.contiguous()?, bias])
    }

    fn check(&self, hidden: &Tensor) -> Result<(usize, usize)> {
        let (n, h) = hidden.dims2()?;
        let (v, _) = self.weight.dims2()?;
        let expect = |name, tensor: &Tensor, shape: &[usize]| {
            if tensor.dtype() != hidden.dtype() {
                let reason = format!("must be {}, like the hidden states", hidden.dtype().as_str());
                return Err(Error::setting(
                    format!("{name}.dtype"),
                    tensor.dtype().as_str(),
                    reason,
                ));
            }
            if tensor.dims() == shape {
                return Ok(());
            }
            Err(Error::Shape { name, expected: format!("{shape:?}"), got: tensor.dims().to_vec() })
        };
        if v == 0 || h == 0 {
            return Err(Error::Shape {
                name: "weight",
                expected: "[v, h], both > 0".into(),
                got: vec![v, h],
            });
        }
        expect("weight", self.weight, &[v, h])?;
        if let Some(bias) = self.bias {
            expect("bias", bias, &[v])?;
        }
        if let Some(LowRank { a, b, .. }) = self.low_rank {
            expect("a", a, &[a.dim(0)?, h])?;
            expect("b", b, &[v, a.dim(0)?])?;
        }
        Ok((n, v))
    }
}

/// Computes log p(id) `[n]` and entropy `[n]` in nats of softmax(logits/τ), with logits from
/// `hidden` `[n, h]` through `head`.
///
/// Same values and gradients as [`crate::kernels::logprob_entropy()`] on the head's logits. The
/// logits exist in tiles of `options.chunk_bytes`, which takes four matrix multiplications (one
/// forward, three backward); if all logits fit in one tile, they are kept for the backward pass and
/// three suffice. Skipped rows and gradients that are not needed (a frozen weight) cost nothing.
/// bf16 and f16 are computed in f32, and every gradient is rounded once.
///
/// # Errors
/// Mismatched shapes or element types, an id outside the vocabulary or its row's support, τ that is
/// not a positive number, and a NaN or +∞ among the logits.
pub fn linear_logprob_entropy(
    hidden: &Tensor,
    head: &LmHead<'_>,
    ids: &Tensor,
    options: &ScoreOptions,
) -> Result<(Tensor, Tensor)> {
    let (n, v) = head.check(hidden)?;
    let scoring = Scoring::checked(n, v, ids, options)?;
    #[cfg(any(test, feature = "cuda", feature = "metal"))]
    if crate::kernels::gpu::operator::serves(hidden)
        && head.bias.is_none()
        && head.low_rank.is_none()
    {
        return over_kept(hidden, scoring, |hidden, scoring| {
            let (weight, bytes) = (head.weight, options.chunk_bytes);
            crate::kernels::gpu::head::linear_logprob_entropy(hidden, weight, &scoring, bytes)
        });
    }
    if !is_cpu(hidden) {
        return logprob_entropy_with(&head.logits(hidden)?, ids, options);
    }
    over_kept(hidden, scoring, |hidden, scoring| apply(hidden, head, scoring, options.chunk_bytes))
}

/// Computes the values of [`linear_logprob_entropy`] without autograd, for hidden states and a head
/// on the CPU.
///
/// [`LinearEvaluation::gradient`] allocates the gradients and one tile of logits. Candle's autograd
/// holds up to three copies of every gradient for a moment.
///
/// # Errors
/// The errors of [`linear_logprob_entropy`], a head with a LoRA adapter, and tensors on another
/// device.
pub fn evaluate_linear(
    hidden: &Tensor,
    head: &LmHead<'_>,
    ids: &Tensor,
    options: &ScoreOptions,
) -> Result<LinearEvaluation> {
    let (n, v) = head.check(hidden)?;
    if !is_cpu(hidden) || head.low_rank.is_some() {
        let reason = "must be on the CPU and without a LoRA adapter";
        return Err(Error::setting("head", "unsupported", reason));
    }
    let scoring = Scoring::checked(n, v, ids, options)?;
    let inputs = head.inputs(hidden)?.map(|input| input.detach());
    let op = LinearLogprobEntropy::new(scoring, options.chunk_bytes, Frozen::Nothing);
    let (log_probs, entropies) = split(&inputs[0].apply_op3_no_bwd(&inputs[1], &inputs[2], &op)?)?;
    Ok(LinearEvaluation { log_probs, entropies, op, inputs })
}

/// Scores of tokens, and the gradient of their head on demand; returned by [`evaluate_linear`].
pub struct LinearEvaluation {
    /// log p `[n]`.
    pub log_probs: Tensor,
    /// H `[n]` in nats.
    pub entropies: Tensor,
    op: LinearLogprobEntropy,
    inputs: [Tensor; 3],
}

/// Gradients of a head's inputs.
#[derive(Debug, Clone)]
pub struct LinearGradients {
    /// `[n, h]`.
    pub hidden: Tensor,
    /// `[v, h]`.
    pub weight: Tensor,
    /// `[v]`, if there is a bias.
    pub bias: Option<Tensor>,
}

impl LinearEvaluation {
    /// Computes the gradients of the inputs from those of `log_probs` and `entropies`, both `[n]`.
    ///
    /// # Errors
    /// Gradients that are not `[n]`.
    pub fn gradient(&self, log_probs: &Tensor, entropies: &Tensor) -> Result<LinearGradients> {
        let grads = pairs(&stack(self.op.scoring.ids.len(), log_probs, entropies)?)?;
        let [x, w, b] = &self.inputs;
        let gradients =
            with_logit!(x.dtype(), T => self.op.backward::<T>([x, w, b], [true; 3], &grads))?;
        let missing = || candle_core::Error::Msg("linear_logprob_entropy: no gradient".into());
        Ok(LinearGradients {
            hidden: gradients.0.ok_or_else(missing)?,
            weight: gradients.1.ok_or_else(missing)?,
            bias: gradients.2,
        })
    }
}

fn apply(
    hidden: &Tensor,
    head: &LmHead<'_>,
    scoring: Scoring,
    chunk_bytes: usize,
) -> Result<Tensor> {
    let [hidden, weight, bias] = head.inputs(hidden)?;
    let op = |inputs: [&Tensor; 3], frozen| {
        let op = LinearLogprobEntropy::new(scoring, chunk_bytes, frozen);
        let [x, y, z] = inputs;
        x.apply_op3(y, z, op.keeping(inputs.into_iter().any(Tensor::track_op)))
    };
    Ok(match head.low_rank {
        None => op([&hidden, &weight, &bias], Frozen::Nothing)?,
        Some(LowRank { a, b, scale }) => {
            let low = (crate::kernels::layers::linear::linear(&hidden, a, None)? * scale)?;
            let frozen = Frozen::Dense([weight.detach(), bias.detach()]);
            op([&hidden, &low, &b.contiguous()?], frozen)?
        }
    })
}

/// The operator on (hidden, W, b), or on the inputs that [`Frozen`] names. An empty bias is none.
pub(super) struct LinearLogprobEntropy {
    scoring: Scoring,
    chunk_bytes: usize,
    frozen: Frozen,
    rows: OnceLock<Vec<RowScore>>,
    /// All logits, a `Vec` in the type of the arithmetic, if one tile held them and a backward pass
    /// will follow.
    kept: Mutex<Option<Box<dyn Any + Send>>>,
    keeps: bool,
}

/// The parts of a head that are no inputs of the operator.
pub(super) enum Frozen {
    /// Nothing: the inputs are (hidden, W, b).
    Nothing,
    /// W and b below a LoRA adapter: the inputs are (hidden, s hidden Aᵀ, B).
    Dense([Tensor; 2]),
    /// W in quantised blocks: the inputs are (hidden, empty, empty).
    Quantized(QuantizedMatrix),
}

/// Gradients of an operator's three inputs.
type Gradients3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl LinearLogprobEntropy {
    pub(super) fn new(scoring: Scoring, chunk_bytes: usize, frozen: Frozen) -> Self {
        Self {
            scoring,
            chunk_bytes,
            frozen,
            rows: OnceLock::new(),
            kept: Mutex::default(),
            keeps: false,
        }
    }

    /// Keeps the logits for a backward pass if one tile holds them all.
    pub(super) fn keeping(self, keeps: bool) -> Self {
        Self { keeps, ..self }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f` with the head over the slices of the three inputs.
    fn with_head<T: Logit, R>(
        &self,
        [x, y, z]: [&[T]; 3],
        f: impl FnOnce(Head<'_, T>) -> candle_core::Result<R>,
    ) -> candle_core::Result<R> {
        let n = self.scoring.ids.len().max(1);
        let width = x.len() / n;
        match &self.frozen {
            Frozen::Nothing => {
                let own = Term { x, weight: TermWeight::Dense(y), width };
                f(self.head(vec![own], z))
            }
            Frozen::Quantized(matrix) => {
                let own = Term { x, weight: TermWeight::Quantized(matrix), width };
                f(self.head(vec![own], z))
            }
            Frozen::Dense([weight, bias]) => with_slices([weight, bias], |[weight, bias]| {
                let own = Term { x, weight: TermWeight::Dense(weight), width };
                let low = Term { x: y, weight: TermWeight::Dense(z), width: y.len() / n };
                f(self.head(vec![own, low], bias))
            }),
        }
    }

    fn head<'a, T>(&'a self, terms: Vec<Term<'a, T>>, bias: &'a [T]) -> Head<'a, T> {
        let bias = (!bias.is_empty()).then_some(bias);
        Head { terms, bias, scoring: &self.scoring, chunk_bytes: self.chunk_bytes }
    }
}

/// Returns `values` as a tensor of the shape of `like`, if requested.
fn tensor<T: WithDType>(
    values: Vec<T>,
    like: &Tensor,
    wanted: bool,
) -> candle_core::Result<Option<Tensor>> {
    wanted.then(|| Tensor::from_vec(values, like.shape(), &Device::Cpu)).transpose()
}

impl LinearLogprobEntropy {
    fn forward<T: Logit>(&self, inputs: [&[T]; 3]) -> candle_core::Result<CpuStorage> {
        let (scored, logits) = self.with_head(inputs, |head| Ok(head.score()))?;
        if let Some(logits) = logits.filter(|_| self.keeps) {
            *self.kept() = Some(Box::new(logits));
        }
        let out = self.scoring.values::<T::Float>(&scored);
        self.rows.get_or_init(|| scored);
        Ok(<T::Float as WithDType>::to_cpu_storage_owned(out))
    }

    fn backward<T: Logit>(
        &self,
        inputs: [&Tensor; 3],
        [x, y, z]: [bool; 3],
        grads: &[ScoreGradient],
    ) -> candle_core::Result<Gradients3> {
        let Some(scored) = self.rows.get() else {
            candle_core::bail!("linear_logprob_entropy: backward before forward");
        };
        let wanted = match self.frozen {
            Frozen::Nothing | Frozen::Quantized(_) => vec![Wanted { x, weight: y }],
            Frozen::Dense(_) => vec![Wanted { x, weight: false }, Wanted { x: y, weight: z }],
        };
        let kept = self.kept().take().and_then(|kept| kept.downcast().ok()).map(|logits| *logits);
        let HeadGradients { terms, bias } = with_slices(inputs, |slices| {
            self.with_head::<T, _>(slices, |head| {
                let bias = z && matches!(self.frozen, Frozen::Nothing) && head.bias.is_some();
                Ok(head.gradient(kept, scored, grads, &wanted, bias))
            })
        })?;
        let mut terms = terms.into_iter();
        let (Some(first), second) = (terms.next(), terms.next()) else {
            return Ok((None, None, None));
        };
        let dx = tensor(first.x, inputs[0], x)?;
        Ok(match second {
            None => (
                dx,
                gradient_sink::offer(inputs[1], tensor(first.weight, inputs[1], y)?)?,
                tensor(bias, inputs[2], z && inputs[2].elem_count() > 0)?,
            ),
            Some(low) => (dx, tensor(low.x, inputs[1], y)?, tensor(low.weight, inputs[2], z)?),
        })
    }
}

impl CustomOp3 for LinearLogprobEntropy {
    fn name(&self) -> &'static str {
        "linear_logprob_entropy"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        y: &CpuStorage,
        ly: &Layout,
        z: &CpuStorage,
        lz: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = with_logit!(BackendStorage::dtype(x), T => {
            self.forward::<T>([slice_of(x, lx)?, slice_of(y, ly)?, slice_of(z, lz)?])
        })?;
        Ok((out, (2, self.scoring.ids.len()).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        z: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Gradients3> {
        let grads = pairs(grad)?;
        let wanted = [x, y, z].map(Tensor::track_op);
        with_logit!(x.dtype(), T => self.backward::<T>([x, y, z], wanted, &grads))
    }
}
