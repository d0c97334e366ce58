//! A frozen affine map with a trainable LoRA adapter (Hu et al. 2021).

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{on_cpu, slice_of, with_float, with_slice, with_slices, Float};
use crate::kernels::dispatch::on_device;
use crate::kernels::layers::affine::{Adapter, Affine, Sums};
use crate::kernels::layers::composed;
use crate::kernels::quantized::weight::{check_device, Weight};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// Computes y = x Wᵀ + b + s (x Aᵀ) Bᵀ for x `[n, i]`, frozen W `[o, i]` and b `[o]`, A `[r, i]`, B
/// `[o, r]`; y `[n, o]`.
///
/// Backward with u = s x Aᵀ and e = s g B: dB = gᵀ u, dA = eᵀ x, dx = g W + e A. Nothing is
/// computed for W, b, and inputs that need no gradient. Only u `[n, r]` is kept. On a GPU, A and B
/// may be f32 beside narrower x and W.
///
/// # Errors
/// Mismatched shapes, or a weight or bias that is not frozen.
pub fn linear_lora(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> Result<Tensor> {
    weight.dims2()?;
    linear_lora_over(x, &Weight::Dense(weight.clone()), bias, (a, b), scale)
}

/// [`linear_lora`] for a weight that may be quantised.
pub(crate) fn linear_lora_over(
    x: &Tensor,
    weight: &Weight,
    bias: Option<&Tensor>,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> Result<Tensor> {
    let (_, i) = x.dims2()?;
    let (o, wi) = weight.dims2()?;
    let (r, _) = a.dims2()?;
    let bias_fits = bias.is_none_or(|bias| bias.dims() == [o]);
    if wi != i || a.dims() != [r, i] || b.dims() != [o, r] || !bias_fits {
        let bias = bias.map(|b| b.dims());
        let x = x.dims();
        let weight = [o, wi];
        let a = a.dims();
        let b = b.dims();
        candle_core::bail!(
            "linear_lora: mismatched shapes: \
             x {x:?}, weight {weight:?}, bias {bias:?}, a {a:?}, b {b:?}"
        );
    }
    if weight.track_op() || bias.is_some_and(Tensor::track_op) {
        candle_core::bail!("linear_lora: weight and bias must be frozen (detached)");
    }
    check_device(x, weight)?;
    if let (false, Some(weight)) = (on_cpu(x), weight.dense()) {
        on_device!(x => crate::kernels::gpu::linear::linear_lora(x, weight, bias, (a, b), scale));
        let a = a.to_dtype(x.dtype())?;
        let b = b.to_dtype(x.dtype())?;
        return composed::linear_lora(x, weight, bias, (&a, &b), scale);
    }
    let adapter = Adapter { a: a.clone(), b: b.clone(), scale };
    let map = Affine { weight: weight.clone(), bias: bias.cloned(), adapter: Some(adapter) };
    let map = map.contiguous()?;
    let op = LinearLora { map, inner: OnceLock::new() };
    x.contiguous()?.apply_op3(a, b, op)
}

struct LinearLora {
    map: Affine,
    /// u = s x Aᵀ, kept for the backward pass.
    inner: OnceLock<Tensor>,
}

type Inputs3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl LinearLora {
    fn forward<T: Float>(&self, x: &[T], (n, o): (usize, usize)) -> Result<Vec<T>> {
        let mut y = zeros(n * o);
        let u = self.map.forward(x, &mut y, n, false)?;
        let len = u.len();
        let u = Tensor::from_vec(u, len, &Device::Cpu)?;
        self.inner.get_or_init(|| u);
        Ok(y)
    }

    fn backward<T: Float>(&self, x: &Tensor, grad: &Tensor) -> Result<Inputs3> {
        let Some(u) = self.inner.get() else {
            candle_core::bail!("linear_lora: backward before forward");
        };
        let (n, _) = x.dims2()?;
        let mut dx = x.track_op().then(|| zeros::<T>(x.elem_count()));
        let mut sums = Sums::new(&self.map);
        with_slice(grad, |g: &[T]| {
            let e = self.map.input_gradient(g, dx.as_deref_mut(), n, false)?;
            with_slices([x, u], |[x, u]| {
                sums.add(x, g, (u, &e), n);
                Ok(())
            })
        })?;
        let dx = dx.map(|dx| Tensor::from_vec(dx, x.shape(), x.device())).transpose()?;
        // The adapter's gradients are the last two.
        let mut found = sums.into_tensors(&self.map)?;
        let db = found.pop().flatten();
        let da = found.pop().flatten();
        Ok((dx, da, db))
    }
}

impl CustomOp3 for LinearLora {
    fn name(&self) -> &'static str {
        "linear_lora"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, _) = lx.shape().dims2()?;
        let (o, _) = lb.shape().dims2()?;
        let y = with_float!(BackendStorage::dtype(x), "linear_lora", T => {
            let y = self.forward(slice_of::<T>(x, lx)?, (n, o))?;
            Ok(candle_core::WithDType::to_cpu_storage_owned(y))
        })?;
        Ok((y, (n, o).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Inputs3> {
        let grad = grad.contiguous()?;
        with_float!(grad.dtype(), "linear_lora", T => self.backward::<T>(x, &grad))
    }
}
