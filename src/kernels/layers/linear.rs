//! Affine maps whose backward pass computes only the gradients that are needed.

use crate::kernels::autograd::gradient_sink;
use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{on_cpu, slice_of, vectorised, with_float, with_slice, Float};
use crate::kernels::cpu::matmul::matmul;
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::dispatch::on_device;
use crate::kernels::layers::composed;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

/// Computes y = x Wᵀ + b for x `[n, i]`, W `[o, i]`, b `[o]`; y `[n, o]`.
///
/// Backward: dx = g W, dW = gᵀ x, db = Σₙ g. Unlike in candle's matmul, an input that needs no
/// gradient (a frozen weight) costs nothing.
///
/// # Errors
/// Mismatched shapes.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (_, i) = x.dims2()?;
    let (o, wi) = weight.dims2()?;
    if i != wi || bias.is_some_and(|b| b.dims() != [o]) {
        candle_core::bail!(
            "linear: mismatched shapes: x {:?}, weight {:?}, bias {:?}",
            x.shape(),
            weight.shape(),
            bias.map(|b| b.dims())
        );
    }
    on_device!(x => crate::kernels::gpu::linear::linear(x, weight, bias));
    if !on_cpu(x) {
        return composed::linear(x, weight, bias);
    }
    let x = x.contiguous()?;
    let weight = weight.contiguous()?;
    match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, Linear),
        None => x.apply_op2(&weight, Linear),
    }
}

struct Linear;

/// Computes x Wᵀ, or `start` + x Wᵀ (`start` `[n, o]`).
pub(crate) fn product<T: Float>(
    x: &[T],
    weight: &[T],
    start: Option<Vec<T>>,
    (n, i, o): (usize, usize, usize),
) -> Vec<T> {
    let accumulate = start.is_some();
    let mut y = start.unwrap_or_else(|| zeros(n * o));
    let x = View::new(x, n, i, i);
    let weight = View::new(weight, o, i, i);
    let out = ViewMut::new(&mut y, n, o, o);
    matmul(out, x, weight.t(), T::from_f64(1.0), accumulate, rayon::current_num_threads());
    y
}

/// Computes y = r + x Wᵀ for r `[n, o]`, x `[n, i]`, W `[o, i]`: the end of a residual branch in
/// one pass.
///
/// Backward: dr = g, dx = g W, dW = gᵀ x.
///
/// # Errors
/// Mismatched shapes.
pub fn linear_residual(residual: &Tensor, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (n, i) = x.dims2()?;
    let (o, wi) = weight.dims2()?;
    if i != wi || residual.dims() != [n, o] {
        candle_core::bail!(
            "linear_residual: mismatched shapes: residual {:?}, x {:?}, weight {:?}",
            residual.shape(),
            x.shape(),
            weight.shape()
        );
    }
    on_device!(x => crate::kernels::gpu::linear::linear_residual(residual, x, weight));
    if !on_cpu(x) {
        return residual + composed::linear(x, weight, None)?;
    }
    residual.contiguous()?.apply_op3(&x.contiguous()?, &weight.contiguous()?, LinearResidual)
}

struct LinearResidual;

impl CustomOp3 for LinearResidual {
    fn name(&self) -> &'static str {
        "linear_residual"
    }

    fn cpu_fwd(
        &self,
        r: &CpuStorage,
        lr: &Layout,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let size = sizes(lx, lw)?;
        let y = with_float!(BackendStorage::dtype(x), "linear_residual", T => {
            let start = slice_of::<T>(r, lr)?.to_vec();
            let y = product(slice_of(x, lx)?, slice_of(w, lw)?, Some(start), size);
            Ok(T::to_cpu_storage_owned(y))
        })?;
        Ok((y, lr.shape().clone()))
    }

    fn bwd(
        &self,
        r: &Tensor,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = backward(x, w, &grad.contiguous()?)?;
        Ok((r.track_op().then(|| grad.clone()), dx, dw))
    }
}

fn sizes(x: &Layout, weight: &Layout) -> Result<(usize, usize, usize)> {
    let (n, i) = x.shape().dims2()?;
    let (o, _) = weight.shape().dims2()?;
    Ok((n, i, o))
}

/// dx = g W, or dx += g W if `accumulate`.
pub(crate) fn add_input_gradient<T: Float>(
    grad: &Tensor,
    weight: &Tensor,
    dx: &mut [T],
    accumulate: bool,
) -> Result<()> {
    let (n, o) = grad.dims2()?;
    let (_, i) = weight.dims2()?;
    with_slice::<T, _>(grad, |g| {
        with_slice::<T, _>(weight, |w| {
            let out = ViewMut::new(dx, n, i, i);
            let g = View::new(g, n, o, o);
            let w = View::new(w, o, i, i);
            matmul(out, g, w, T::from_f64(1.0), accumulate, rayon::current_num_threads());
            Ok(())
        })
    })
}

fn input_gradient<T: Float>(grad: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let shape = (grad.dim(0)?, weight.dim(1)?);
    let mut dx = zeros::<T>(shape.0 * shape.1);
    add_input_gradient(grad, weight, &mut dx, false)?;
    Tensor::from_vec(dx, shape, grad.device())
}

/// dW = gᵀ x.
pub(crate) fn weight_gradient<T: Float>(grad: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (n, o) = grad.dims2()?;
    let (_, i) = x.dims2()?;
    let mut dw = vec![T::from_f64(0.0); o * i];
    with_slice::<T, _>(grad, |g| {
        with_slice::<T, _>(x, |x| {
            let out = ViewMut::new(&mut dw, o, i, i);
            let g = View::new(g, n, o, o);
            let x = View::new(x, n, i, i);
            matmul(out, g.t(), x, T::from_f64(1.0), false, rayon::current_num_threads());
            Ok(())
        })
    })?;
    Tensor::from_vec(dw, (o, i), grad.device())
}

vectorised! {
    /// acc += Σ rows of `rows` (`[_, acc.len()]`).
    fn add_rows<T>(rows: &[T], acc: &mut [T]) {
        for row in rows.chunks_exact(acc.len()) {
            for (a, &r) in acc.iter_mut().zip(row) {
                *a += r;
            }
        }
    }
}

/// Rows per partial sum: fixed, so that the order of additions does not depend on the thread count.
const CHUNK: usize = 64;

/// Returns the sum, over chunks of rows in order, of what `partial` adds to its accumulator.
pub(crate) fn sum_over_rows<T: Float>(
    rows: usize,
    width: usize,
    partial: impl Fn(std::ops::Range<usize>, &mut [T]) + Sync,
) -> Vec<T> {
    let zero = || vec![T::from_f64(0.0); width];
    let partials: Vec<Vec<T>> = (0..rows.div_ceil(CHUNK))
        .into_par_iter()
        .map(|chunk| {
            let mut acc = zero();
            partial(chunk * CHUNK..rows.min((chunk + 1) * CHUNK), &mut acc);
            acc
        })
        .collect();
    let mut total = zero();
    for partial in partials {
        add_rows(&partial, &mut total);
    }
    total
}

/// db = Σₙ g.
fn bias_gradient<T: Float>(grad: &Tensor) -> Result<Tensor> {
    let (n, o) = grad.dims2()?;
    let db = with_slice::<T, _>(grad, |g| {
        Ok(sum_over_rows(n, o, |rows, acc: &mut [T]| {
            add_rows(&g[rows.start * o..rows.end * o], acc)
        }))
    })?;
    Tensor::from_vec(db, o, grad.device())
}

/// Calls `f` if its result is needed.
pub(crate) fn when<R>(needed: bool, f: impl FnOnce() -> Result<R>) -> Result<Option<R>> {
    if needed {
        f().map(Some)
    } else {
        Ok(None)
    }
}

fn backward(
    x: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    with_float!(grad.dtype(), "linear", T => {
        let of_weight = when(weight.track_op(), || weight_gradient::<T>(grad, x))?;
        let dx = when(x.track_op(), || input_gradient::<T>(grad, weight))?;
        Ok((dx, gradient_sink::offer(weight, of_weight)?))
    })
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let size = sizes(lx, lw)?;
        with_float!(BackendStorage::dtype(x), "linear", T => {
            let y = product::<T>(slice_of(x, lx)?, slice_of(w, lw)?, None, size);
            Ok((T::to_cpu_storage_owned(y), (size.0, size.2).into()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        backward(x, w, &grad.contiguous()?)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let size = sizes(lx, lw)?;
        with_float!(BackendStorage::dtype(x), "linear", T => {
            let start = slice_of::<T>(b, lb)?.repeat(size.0);
            let y = product(slice_of(x, lx)?, slice_of(w, lw)?, Some(start), size);
            Ok((T::to_cpu_storage_owned(y), (size.0, size.2).into()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dx, dw) = backward(x, w, &grad)?;
        let db = when(
            b.track_op(),
            || with_float!(grad.dtype(), "linear", T => bias_gradient::<T>(&grad)),
        )?;
        Ok((dx, dw, db))
    }
}
