//! Parts that the residual branches x + f(norm(x)) share: the norm in front, and products of
//! slices.

use crate::kernels::cpu::float::{vectorised, Float};
use crate::kernels::cpu::matmul::matmul;
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::layers::linear::{add_rows, sum_over_rows};
use crate::kernels::layers::rms_norm::{add_weight_gradient, backward_row, rms_norm_row};
use candle_core::{Result, Tensor, WithDType};
use rayon::prelude::*;

/// Creates a tensor of the shape of `like`.
pub(crate) fn tensor_like<T: WithDType>(data: Vec<T>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(data, like.shape(), like.device())
}

/// out = a b, or out += a b if `accumulate`.
pub(crate) fn multiply<T: Float>(
    out: ViewMut<'_, T>,
    a: View<'_, T>,
    b: View<'_, T>,
    accumulate: bool,
) {
    matmul(out, a, b, T::from_f64(1.0), accumulate, rayon::current_num_threads());
}

/// Normalises the rows of x.
pub(crate) fn norm<T: Float>(x: &[T], weight: &[T], eps: f64, out: &mut [T]) {
    let h = weight.len();
    let rows = out.par_chunks_mut(h).zip(x.par_chunks(h)).with_min_len(32);
    rows.for_each(|(out, x)| rms_norm_row(x, weight, T::from_f64(eps), out));
}

vectorised! {
    /// x += y, for as many elements as both have.
    fn add<T>(x: &mut [T], y: &[T]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

/// Computes dx of y = x + f(norm(x)), given the gradients of y and of the norm.
pub(crate) fn norm_gradient<T: Float>(
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
pub(crate) fn add_norm_weight_gradient<T: Float>(x: &[T], dnormed: &[T], eps: f64, dw: &mut [T]) {
    let h = dw.len();
    let sum = sum_over_rows(x.len() / h.max(1), h, |rows, acc: &mut [T]| {
        let rows = rows.start * h..rows.end * h;
        for (x, d) in x[rows.clone()].chunks_exact(h).zip(dnormed[rows].chunks_exact(h)) {
            add_weight_gradient(x, d, T::from_f64(eps), acc);
        }
    });
    add(dw, &sum);
}

/// Returns the sum of the rows of `grad`, `width` wide.
pub(crate) fn row_sum<T: Float>(grad: &[T], width: usize) -> Vec<T> {
    let sum = |rows: std::ops::Range<usize>, acc: &mut [T]| {
        add_rows(&grad[rows.start * width..rows.end * width], acc);
    };
    sum_over_rows(grad.len() / width.max(1), width, sum)
}
