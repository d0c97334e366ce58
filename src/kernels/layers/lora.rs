//! A frozen affine map with a trainable LoRA adapter (Hu et al. 2021).

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{on_cpu, slice_of, with_float, with_slice, Float};
use crate::kernels::cpu::narrow::{narrow_product, narrow_product_transposed};
use crate::kernels::cpu::view::View;
use crate::kernels::layers::composed;
use crate::kernels::layers::linear::when;
use crate::kernels::quantized::weight::{biases, check_device, Weight};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// Computes y = x Wᵀ + b + s (x Aᵀ) Bᵀ for x `[n, i]`, frozen W `[o, i]` and b `[o]`, A `[r, i]`, B
/// `[o, r]`; y `[n, o]`.
///
/// Backward with u = s x Aᵀ and e = s g B: dB = gᵀ u, dA = eᵀ x, dx = g W + e A. Nothing is
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
    /// u = s x Aᵀ, kept for the backward pass.
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
        let u = self.scaled_product(View::new(x, n, i, i), View::new(a, r, i, i).t());
        let mut y = biases(self.bias.as_ref(), n, o)?;
        self.weight.product(x, Some((&u, b)), &mut y, n, self.bias.is_some())?;
        let u = Tensor::from_vec(u, (n, r), &candle_core::Device::Cpu)?;
        self.inner.get_or_init(|| u);
        Ok(y)
    }

    /// s x m for a matrix m of few columns.
    fn scaled_product<T: Float>(&self, x: View<'_, T>, m: View<'_, T>) -> Vec<T> {
        let mut out = narrow_product(x, m);
        let scale = T::from_f64(self.scale);
        for value in &mut out {
            *value *= scale;
        }
        out
    }

    fn backward<T: Float>(
        &self,
        (x, a, b): (&Tensor, &Tensor, &Tensor),
        grad: &Tensor,
    ) -> Result<Inputs3> {
        let Some(u) = self.inner.get() else {
            candle_core::bail!("linear_lora: backward before forward");
        };
        let (n, i) = x.dims2()?;
        let (o, r) = b.dims2()?;
        let on_slices = |g: &[T], [x_values, u, a_values, b_values]: [&[T]; 4]| {
            let g_view = View::new(g, n, o, o);
            let e = (x.track_op() || a.track_op())
                .then(|| self.scaled_product(g_view, View::new(b_values, o, r, r)));
            let da = e.as_ref().filter(|_| a.track_op()).map(|e| {
                let x = View::new(x_values, n, i, i);
                transposed(&narrow_product_transposed(x, View::new(e, n, r, r)), r)
            });
            let db = b.track_op().then(|| narrow_product_transposed(g_view, View::new(u, n, r, r)));
            let dx = when(x.track_op(), || {
                let mut dx = zeros::<T>(n * i);
                let adapter = e.as_deref().map(|e| (e, a_values));
                self.weight.add_input_gradient(g, adapter, &mut dx, n, false)?;
                Tensor::from_vec(dx, (n, i), x.device())
            })?;
            let da = da.map(|da| Tensor::from_vec(da, (r, i), a.device())).transpose()?;
            let db = db.map(|db| Tensor::from_vec(db, (o, r), b.device())).transpose()?;
            Ok((dx, da, db))
        };
        with_slice(grad, |g| {
            with_slice(x, |x| {
                with_slice(u, |u| with_slice(a, |a| with_slice(b, |b| on_slices(g, [x, u, a, b]))))
            })
        })
    }
}

/// The transpose of rows `width` wide.
fn transposed<T: Float>(rows: &[T], width: usize) -> Vec<T> {
    let column = |c: usize| rows.iter().skip(c).step_by(width).copied();
    (0..width).flat_map(column).collect()
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
        with_float!(grad.dtype(), "linear_lora", T => self.backward::<T>((x, a, b), &grad))
    }
}
