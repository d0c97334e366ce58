//! A frozen affine map with a trainable LoRA adapter (Hu et al. 2021).

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{on_cpu, slice_of, with_float, with_slice, Float};
use crate::kernels::cpu::matmul::matmul;
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::layers::composed;
use crate::kernels::layers::linear::{add_input_gradient, product, weight_gradient, when};
use crate::kernels::quantized::weight::{biases, check_device, Weight};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// Computes y = x Wᵀ + b + s (x Aᵀ) Bᵀ for x `[n, i]`, frozen W `[o, i]` and b `[o]`, A `[r, i]`, B
/// `[o, r]`; y `[n, o]`.
///
/// Backward with u = x Aᵀ and e = s g B: dB = s gᵀ u, dA = eᵀ x, dx = g W + e A. Nothing is
/// computed for W, b, and inputs that need no gradient. Only u `[n, r]` is kept.
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
        return composed::linear_lora(x, weight, bias, (a, b), scale);
    }
    let weight = match weight {
        Weight::Dense(weight) => Weight::Dense(weight.contiguous()?),
        Weight::Quantized(matrix) => Weight::Quantized(matrix.clone()),
    };
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let op = LinearLora { weight, bias, scale, inner: OnceLock::new() };
    x.contiguous()?.apply_op3(&a.contiguous()?, &b.contiguous()?, op)
}

struct LinearLora {
    weight: Weight,
    bias: Option<Tensor>,
    scale: f64,
    /// u = x Aᵀ, kept for the backward pass.
    inner: OnceLock<Tensor>,
}

type Inputs3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl LinearLora {
    fn forward<T: Float>(
        &self,
        x: &[T],
        a: &[T],
        b: &[T],
        (n, i, o): (usize, usize, usize),
    ) -> Result<Vec<T>> {
        let r = a.len() / i.max(1);
        let mut y = biases(self.bias.as_ref(), n, o)?;
        self.weight.product(x, &mut y, n, self.bias.is_some())?;
        let u = product(x, a, None, (n, i, r));
        let left = View::new(&u, n, r, r);
        let right = View::new(b, o, r, r).t();
        let out = ViewMut::new(&mut y, n, o, o);
        matmul(out, left, right, T::from_f64(self.scale), true, rayon::current_num_threads());
        let u = Tensor::from_vec(u, (n, r), &candle_core::Device::Cpu)?;
        self.inner.get_or_init(|| u);
        Ok(y)
    }

    fn backward<T: Float>(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        grad: &Tensor,
    ) -> Result<Inputs3> {
        let Some(u) = self.inner.get() else {
            candle_core::bail!("linear_lora: backward before forward");
        };
        let (n, i) = x.dims2()?;
        let r = a.dim(0)?;
        let inner = when(x.track_op() || a.track_op(), || {
            let mut e = vec![T::from_f64(0.0); n * r];
            add_input_gradient(grad, b, &mut e, false)?;
            for e in &mut e {
                *e *= T::from_f64(self.scale);
            }
            Tensor::from_vec(e, (n, r), x.device())
        })?;
        let dx = when(x.track_op(), || {
            let mut dx = zeros::<T>(n * i);
            with_slice(grad, |g| self.weight.add_input_gradient(g, &mut dx, n, false))?;
            inner.iter().try_for_each(|e| add_input_gradient(e, a, &mut dx, true))?;
            Tensor::from_vec(dx, (n, i), x.device())
        })?;
        let of_a = inner.as_ref().filter(|_| a.track_op());
        let da = of_a.map(|e| weight_gradient::<T>(e, x)).transpose()?;
        let db = when(b.track_op(), || weight_gradient::<T>(grad, u)? * self.scale)?;
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
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, i) = lx.shape().dims2()?;
        let o = lb.shape().dims2()?.0;
        let y = with_float!(BackendStorage::dtype(x), "linear_lora", T => {
            let x = slice_of::<T>(x, lx)?;
            let y = self.forward(x, slice_of(a, la)?, slice_of(b, lb)?, (n, i, o))?;
            Ok(candle_core::WithDType::to_cpu_storage_owned(y))
        })?;
        Ok((y, (n, o).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Inputs3> {
        let grad = grad.contiguous()?;
        with_float!(grad.dtype(), "linear_lora", T => self.backward::<T>(x, a, b, &grad))
    }
}
