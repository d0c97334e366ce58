//! Root-mean-square normalisation (Zhang & Sennrich 2019).

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{
    on_cpu, slice_of, sum_of, vectorised, with_float, with_slice, Float,
};
use crate::kernels::dispatch::on_device;
use crate::kernels::layers::composed;
use crate::kernels::layers::linear::{sum_over_rows, when};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Computes y = x / √(mean x² + ε) · w over the last dimension of x `[n, h]`, w `[h]`.
///
/// Backward with r = 1/√(mean x² + ε) and a = g ∘ w: dx = r (a − x r² mean(a ∘ x)), dw = Σₙ g ∘ x
/// r.
///
/// # Errors
/// Mismatched shapes.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (_, h) = x.dims2()?;
    if weight.dims() != [h] {
        candle_core::bail!(
            "rms_norm: mismatched shapes: x {:?}, weight {:?}",
            x.shape(),
            weight.shape()
        );
    }
    on_device!(x => crate::kernels::gpu::rms_norm::rms_norm(x, weight, eps));
    if !on_cpu(x) {
        return composed::rms_norm(x, weight, eps);
    }
    x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps })
}

struct RmsNorm {
    eps: f64,
}

#[inline(always)]
fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    sum_of(a, b, |x, y| x * y)
}

vectorised! {
    /// One row of the norm: `out` = x r w.
    fn rms_norm_row<T>(x: &[T], weight: &[T], eps: T, out: &mut [T]) {
        let mean = dot(x, x) / T::from_f64(x.len() as f64);
        let r = T::from_f64(1.0) / (mean + eps).sqrt();
        for ((o, &x), &w) in out.iter_mut().zip(x).zip(weight) {
            *o = x * r * w;
        }
    }
}

vectorised! {
    /// One row of the backward pass: writes dx.
    fn backward_row<T>(x: &[T], weight: &[T], grad: &[T], eps: T, dx: &mut [T]) {
        let inverse_width = T::from_f64(1.0 / x.len() as f64);
        let r = T::from_f64(1.0) / (dot(x, x) * inverse_width + eps).sqrt();
        for ((d, &g), &w) in dx.iter_mut().zip(grad).zip(weight) {
            *d = g * w;
        }
        let c = dot(dx, x) * inverse_width * r * r;
        for (d, &x) in dx.iter_mut().zip(x) {
            *d = r * (*d - x * c);
        }
    }
}

vectorised! {
    /// Adds g x r of one row to `dw`.
    fn add_weight_gradient<T>(x: &[T], grad: &[T], eps: T, dw: &mut [T]) {
        let r = T::from_f64(1.0) / (dot(x, x) / T::from_f64(x.len() as f64) + eps).sqrt();
        for ((d, &x), &g) in dw.iter_mut().zip(x).zip(grad) {
            *d += g * x * r;
        }
    }
}

fn input_gradient<T: Float>(
    x: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let (n, h) = x.dims2()?;
    let mut dx = zeros(n * h);
    with_slice::<T, _>(x, |x| {
        with_slice::<T, _>(weight, |w| {
            with_slice::<T, _>(grad, |g| {
                let rows =
                    dx.par_chunks_mut(h).zip(x.par_chunks(h)).zip(g.par_chunks(h)).with_min_len(32);
                rows.for_each(|((dx, x), g)| backward_row(x, w, g, T::from_f64(eps), dx));
                Ok(())
            })
        })
    })?;
    Tensor::from_vec(dx, (n, h), x.device())
}

fn weight_gradient<T: Float>(x: &Tensor, grad: &Tensor, eps: f64) -> Result<Tensor> {
    let (n, h) = x.dims2()?;
    let dw = with_slice::<T, _>(x, |x| {
        with_slice::<T, _>(grad, |g| {
            Ok(sum_over_rows(n, h, |rows, acc: &mut [T]| {
                let rows = rows.start * h..rows.end * h;
                for (x, g) in x[rows.clone()].chunks_exact(h).zip(g[rows].chunks_exact(h)) {
                    add_weight_gradient(x, g, T::from_f64(eps), acc);
                }
            }))
        })
    })?;
    Tensor::from_vec(dw, h, x.device())
}

fn forward<T: Float>(x: &[T], weight: &[T], eps: f64) -> CpuStorage {
    let h = weight.len();
    let mut y = zeros(x.len());
    let rows = y.par_chunks_mut(h).zip(x.par_chunks(h)).with_min_len(32);
    rows.for_each(|(y, x)| rms_norm_row(x, weight, T::from_f64(eps), y));
    T::to_cpu_storage_owned(y)
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = with_float!(BackendStorage::dtype(x), "rms_norm", T => {
            Ok(forward::<T>(slice_of(x, lx)?, slice_of(w, lw)?, self.eps))
        })?;
        Ok((y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        with_float!(grad.dtype(), "rms_norm", T => Ok((
            when(x.track_op(), || input_gradient::<T>(x, w, &grad, self.eps))?,
            when(w.track_op(), || weight_gradient::<T>(x, &grad, self.eps))?,
        )))
    }
}
