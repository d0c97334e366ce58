//! What the residual branches x + f(norm(x)) share: operators of many weights, the norm in front, and products of slices.

use crate::kernels::autograd::collect;
use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::matmul::{matmul, View, ViewMut};
use crate::kernels::cpu::real::{vectorised, with_real, Real};
use crate::kernels::layers::linear::{add_rows, sum_over_rows};
use crate::kernels::layers::rms_norm::{add_weight_gradient, backward_row, rms_norm_row};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Gradients of a branch's weights, in their order, on their way from the branch to its [`bundle`].
#[derive(Clone, Default)]
pub(crate) struct Found(Arc<Mutex<Vec<Option<Tensor>>>>);

impl Found {
    pub(crate) fn set(&self, gradients: Vec<Option<Tensor>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = gradients;
    }

    pub(crate) fn take(&self, index: usize) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index)?.take()
    }
}

/// Any number of weights as one input, where candle's operators take at most three.
///
/// Its value, a single zero, means nothing. Backward, which candle calls after the branch's, hands each weight the
/// gradient that the branch has found for it.
pub(crate) fn bundle<'a>(
    weights: impl IntoIterator<Item = &'a Tensor>,
    like: &Tensor,
    found: &Found,
) -> Result<Tensor> {
    let mut bundle = Tensor::zeros(1, like.dtype(), like.device())?;
    for (index, weight) in weights.into_iter().enumerate() {
        bundle = bundle.apply_op2(weight, Link { index, found: found.clone() })?;
    }
    Ok(bundle)
}

/// A bundle with one more weight.
struct Link {
    index: usize,
    found: Found,
}

impl CustomOp2 for Link {
    fn name(&self) -> &'static str {
        "bundle"
    }

    fn cpu_fwd(
        &self,
        bundle: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(candle_core::backend::BackendStorage::dtype(bundle), "bundle", T => {
            Ok((T::to_cpu_storage_owned(zeros(1)), 1.into()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        bundle: &candle_core::CudaStorage,
        layout: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Ok((candle_core::backend::BackendStorage::try_clone(bundle, layout)?, 1.into()))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        bundle: &candle_core::MetalStorage,
        layout: &Layout,
        _: &candle_core::MetalStorage,
        _: &Layout,
    ) -> Result<(candle_core::MetalStorage, Shape)> {
        Ok((candle_core::backend::BackendStorage::try_clone(bundle, layout)?, 1.into()))
    }

    fn bwd(
        &self,
        bundle: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = self.found.take(self.index);
        if weight.track_op() && gradient.is_none() {
            candle_core::bail!("bundle: the weights' backward without the branch's");
        }
        let gradient = collect::offer(weight, gradient);
        Ok((bundle.track_op().then(|| bundle.zeros_like()).transpose()?, gradient))
    }
}

/// A tensor of the shape of `like`.
pub(crate) fn tensor_like<T: WithDType>(data: Vec<T>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(data, like.shape(), like.device())
}

/// out = a b, or out += a b.
pub(crate) fn multiply<T: Real>(
    out: ViewMut<'_, T>,
    a: View<'_, T>,
    b: View<'_, T>,
    accumulate: bool,
) {
    matmul(out, a, b, T::from_f64(1.0), accumulate, rayon::current_num_threads());
}

/// The norms of the rows of x.
pub(crate) fn norm<T: Real>(x: &[T], weight: &[T], eps: f64, out: &mut [T]) {
    let h = weight.len();
    let rows = out.par_chunks_mut(h).zip(x.par_chunks(h)).with_min_len(32);
    rows.for_each(|(out, x)| rms_norm_row(x, weight, T::from_f64(eps), out));
}

vectorised! {
    /// x += y.
    fn add<T>(x: &mut [T], y: &[T]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

/// dx of y = x + f(norm(x)), given the gradients of y and of the norm.
pub(crate) fn norm_gradient<T: Real>(
    x: &[T],
    weight: &[T],
    eps: f64,
    grad: &[T],
    dnormed: &[T],
    dx: &mut [T],
) {
    let h = weight.len();
    let inputs = x.par_chunks(h).zip(grad.par_chunks(h)).zip(dnormed.par_chunks(h));
    dx.par_chunks_mut(h).zip(inputs).with_min_len(32).for_each(|(dx, ((x, g), d))| {
        backward_row(x, weight, d, T::from_f64(eps), dx);
        add(dx, g);
    });
}

/// Adds the norm's weight gradient to `dw`.
pub(crate) fn add_norm_weight_gradient<T: Real>(x: &[T], dnormed: &[T], eps: f64, dw: &mut [T]) {
    let h = dw.len();
    let sum = sum_over_rows(x.len() / h.max(1), h, |rows, acc: &mut [T]| {
        let rows = rows.start * h..rows.end * h;
        for (x, d) in x[rows.clone()].chunks_exact(h).zip(dnormed[rows].chunks_exact(h)) {
            add_weight_gradient(x, d, T::from_f64(eps), acc);
        }
    });
    add(dw, &sum);
}

/// Σ of the rows of `grad`, `width` wide.
pub(crate) fn row_sum<T: Real>(grad: &[T], width: usize) -> Vec<T> {
    let sum = |rows: std::ops::Range<usize>, acc: &mut [T]| {
        add_rows(&grad[rows.start * width..rows.end * width], acc);
    };
    sum_over_rows(grad.len() / width.max(1), width, sum)
}
