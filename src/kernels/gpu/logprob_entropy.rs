//! [`crate::kernels::logprob_entropy()`] on a device: one read of the logits forward; one read and
//! one write backward.

use crate::kernels::decode::paged::Draws;
use crate::kernels::gpu::launch::{size, start_of, Argument, DeviceStorage, Launch, View};
use crate::kernels::gpu::operator::{forward_on_devices, update_on_devices, with_storage};
use candle_core::backend::BackendStorage;
use candle_core::{CustomOp1, DType, Device, InplaceOp2, Layout, Result, Shape, Tensor};
use std::sync::{Arc, OnceLock};

/// Ids and supports of the rows of a call, on the device.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// ids `[n]`; start and length `[n]` of each row's list in `allowed`; all lists, concatenated.
    /// All u32.
    ids: Tensor,
    start: Tensor,
    count: Tensor,
    allowed: Tensor,
    largest: u32,
    inverse_temperature: f32,
}

impl Rows {
    /// Uploads the ids and supports of rows and sets the temperature τ. A support of `None` is the
    /// whole vocabulary, an empty list skips the row.
    ///
    /// # Errors
    /// A number of supports other than that of ids, and a failed copy to the device.
    pub(crate) fn new<'a>(
        ids: &[u32],
        supports: impl IntoIterator<Item = Option<&'a [u32]>>,
        temperature: f64,
        device: &Device,
    ) -> Result<Self> {
        let mut start = Vec::new();
        let mut count = Vec::new();
        let mut allowed = Vec::new();
        for support in supports {
            start.push(allowed.len() as u32);
            count.push(support.map_or(Draws::WHOLE, |list| list.len() as u32));
            allowed.extend_from_slice(support.unwrap_or_default());
        }
        if count.len() != ids.len() || u32::try_from(allowed.len()).is_err() {
            candle_core::bail!(
                "{} ids, {} supports, {} allowed ids",
                ids.len(),
                count.len(),
                allowed.len()
            );
        }
        let scored = ids.iter().zip(&count).filter(|(_, &count)| count > 0).map(|(id, _)| id);
        let largest = scored.chain(&allowed).copied().max().unwrap_or(0);
        if allowed.is_empty() {
            allowed.push(0); // a device takes no empty buffer
        }
        let tensor = |values: &[u32]| Tensor::from_slice(values, values.len(), device);
        Ok(Self {
            ids: tensor(ids)?,
            start: tensor(&start)?,
            count: tensor(&count)?,
            allowed: tensor(&allowed)?,
            largest,
            inverse_temperature: (1.0 / temperature) as f32,
        })
    }

    fn views(&self) -> Result<[View<'_>; 4]> {
        Ok([
            View::of(&self.ids)?,
            View::of(&self.start)?,
            View::of(&self.count)?,
            View::of(&self.allowed)?,
        ])
    }

    /// Converts the gradients of both outputs for the kernel.
    fn gradients(&self, grads: &Tensor) -> Result<Tensor> {
        if grads.dims() != [2, self.ids.elem_count()] {
            candle_core::bail!(
                "logprob_entropy: gradients {:?}, {} ids",
                grads.shape(),
                self.ids.elem_count()
            );
        }
        grads.to_dtype(DType::F32)?.contiguous()
    }

    fn check(&self, layout: &Layout) -> Result<(usize, usize)> {
        let (n, v) = layout.shape().dims2()?;
        if self.ids.elem_count() != n || self.largest as usize >= v {
            let ids = self.ids.elem_count();
            let largest = self.largest;
            candle_core::bail!("logprob_entropy: logits [{n}, {v}] for {ids} ids up to {largest}");
        }
        Ok((n, v))
    }
}

/// Computes (log p, H) stacked `[2, n]` in f32 for logits `[n, v]`, with autograd.
pub(crate) fn logprob_entropy(logits: &Tensor, rows: Rows) -> Result<Tensor> {
    logits.contiguous()?.apply_op1(LogprobEntropy { rows, statistics: Arc::default() })
}

/// Computes log p and H in nats, stacked `[2, n]` in f32, of logits `[n, v]` (f32, bf16 or f16)
/// without autograd. The statistics for the gradient are kept (12 bytes per row). A skipped row
/// gives 0 and 0; a NaN or +∞ among a row's logits gives H = NaN.
///
/// # Errors
/// Logits that are not `[n, v]` or not on the rows' device, and an id outside the vocabulary.
pub(crate) fn evaluate(logits: &Tensor, rows: Rows) -> Result<(Tensor, Evaluated)> {
    let op = LogprobEntropy { rows, statistics: Arc::default() };
    let both = logits.contiguous()?.apply_op1_no_bwd(&op)?;
    Ok((both, Evaluated(op)))
}

/// Rows and statistics of an evaluation; returned by [`evaluate`].
pub(crate) struct Evaluated(LogprobEntropy);

impl Evaluated {
    /// Computes ∂L/∂logits `[n, v]` from the gradients `[2, n]` of both outputs, by the formula of
    /// [`crate::kernels::logprob_entropy()`]; 0 outside a row's support and in skipped rows.
    ///
    /// # Errors
    /// Logits of another shape or device than the evaluated ones, or gradients that are not `[2,
    /// n]`.
    pub(crate) fn gradient(&self, logits: &Tensor, grads: &Tensor) -> Result<Tensor> {
        self.0.gradient(&logits.contiguous()?, grads)
    }

    /// Replaces contiguous logits by their gradient, without further memory. This overwrites the
    /// logits in every tensor that shares their storage.
    ///
    /// # Errors
    /// The errors of [`Evaluated::gradient`], and logits that are not contiguous.
    pub(crate) fn gradient_in_place(&self, logits: &Tensor, grads: &Tensor) -> Result<()> {
        logits.inplace_op2(&self.0.rows.gradients(grads)?, &InPlace(&self.0))
    }
}

struct LogprobEntropy {
    rows: Rows,
    /// (m, ln s, Ē) of every row `[3, n]` in f32, from the forward pass.
    statistics: Arc<OnceLock<Tensor>>,
}

impl LogprobEntropy {
    fn forward<S: DeviceStorage>(&self, logits: &S, layout: &Layout) -> Result<(S, Shape)> {
        let (n, v) = self.rows.check(layout)?;
        let device = logits.device();
        let views = self.rows.views()?;
        let mut out = S::unfilled(device, 2 * n, DType::F32)?;
        let mut statistics = S::unfilled(device, 3 * n, DType::F32)?;
        let mut arguments = vec![Argument::In(logits, start_of(layout)?)];
        for view in &views {
            arguments.push(view.argument()?);
        }
        arguments.extend([
            Argument::Out(&mut out, 0),
            Argument::Out(&mut statistics, 0),
            size(n)?,
            size(v)?,
        ]);
        arguments.push(Argument::F32(self.rows.inverse_temperature));
        let launch =
            Launch { kernel: "logprob_entropy", dtype: logits.dtype(), groups: n, arguments };
        S::launch(device, launch)?;
        self.statistics.get_or_init(|| statistics.tensor((3, n)));
        Ok((out, (2, n).into()))
    }

    fn gradient(&self, logits: &Tensor, grads: &Tensor) -> Result<Tensor> {
        let grads = self.rows.gradients(grads)?;
        with_storage!(logits, S => {
            let logits_view = View::of(logits)?;
            let grads = View::of(&grads)?;
            let storage = logits_view.get::<S>()?;
            let mut out = S::unfilled(storage.device(), logits.elem_count(), logits.dtype())?;
            let place = (Argument::In(storage, logits_view.start), Argument::Out(&mut out, 0));
            let device = storage.device();
            let grads = grads.argument()?;
            self.launch_gradient(device, logits.dtype(), logits.layout(), place, grads)?;
            Ok(out.tensor(logits.shape()))
        })
    }

    /// Launches the gradient kernel; the output may be [`Argument::Same`].
    fn launch_gradient<'a, S: DeviceStorage>(
        &'a self,
        device: &S::Device,
        dtype: DType,
        layout: &Layout,
        (logits, out): (Argument<'a, S>, Argument<'a, S>),
        grads: Argument<'a, S>,
    ) -> Result<()> {
        let (n, v) = self.rows.check(layout)?;
        let Some(statistics) = self.statistics.get() else {
            candle_core::bail!("logprob_entropy: backward before forward");
        };
        let views = self.rows.views()?;
        let statistics = View::of(statistics)?;
        let mut arguments = vec![logits];
        for view in &views {
            arguments.push(view.argument()?);
        }
        arguments.extend([statistics.argument()?, grads, out, size(n)?, size(v)?]);
        arguments.push(Argument::F32(self.rows.inverse_temperature));
        S::launch(
            device,
            Launch { kernel: "logprob_entropy_gradient", dtype, groups: n, arguments },
        )
    }
}

impl CustomOp1 for LogprobEntropy {
    fn name(&self) -> &'static str {
        "logprob_entropy"
    }

    forward_on_devices!(logits layout);

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.gradient(logits, grad).map(Some)
    }
}

/// The gradient as an in-place operation on the logits.
struct InPlace<'a>(&'a LogprobEntropy);

impl InPlace<'_> {
    fn update<S: DeviceStorage>(
        &self,
        logits: &mut S,
        layout: &Layout,
        grads: &S,
        lg: &Layout,
    ) -> Result<()> {
        let device = logits.device().clone();
        let dtype = logits.dtype();
        let place = (Argument::Out(logits, start_of(layout)?), Argument::Same(0));
        self.0.launch_gradient(&device, dtype, layout, place, Argument::In(grads, start_of(lg)?))
    }
}

impl InplaceOp2 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "logprob_entropy_gradient"
    }

    update_on_devices!(grads lg);
}
