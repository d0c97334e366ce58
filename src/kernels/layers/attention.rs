//! Causal grouped-query attention over packed sequences, with a backward pass that recomputes the
//! probabilities.
//!
//! Shapes: n = total tokens, H = query heads, K = key/value heads, d = head features, L = length of
//! one sequence. Only one tile of scores, [`ROWS`]`·L`, exists at a time, as in FlashAttention-2
//! (Dao 2023). An online softmax is not needed: whole rows of a tile fit in a CPU's cache.

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{
    largest, on_cpu, slice_of, sum_of, vectorised, with_float, with_slices, Float,
};
use crate::kernels::cpu::matmul::matmul;
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::dispatch::on_device;
use crate::kernels::layers::attention_rows::AttentionShape;
use crate::kernels::layers::composed;
use crate::kernels::layers::residual::tensor_like;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;
use std::ops::Range;

/// Computes o_i = Σ_{j ≤ i} softmax_j(q_i · k_j / √d) v_j within every packed sequence. Query head
/// h reads key/value head ⌊h K / H⌋. q `[n, H·d]`, k and v `[n, K·d]`; o `[n, H·d]`.
///
/// # Errors
/// Mismatched shapes.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
    shape.check(q, k, v)?;
    on_device!(q => crate::kernels::gpu::attention::attention(q, k, v, shape));
    if !on_cpu(q) {
        return composed::attention(q, k, v, shape);
    }
    let op = Attention { shape: shape.clone() };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

struct Attention {
    shape: AttentionShape,
}

/// Query rows per tile of scores: enough to make use of packed keys, and a tile fits into the
/// second-level cache.
const ROWS: usize = 192;

vectorised! {
    /// Softmax of `row[..valid]` in place; the rest becomes 0.
    fn softmax_in_place<T>(row: &mut [T], valid: usize) {
        let (row, rest) = row.split_at_mut(valid);
        rest.fill(T::from_f64(0.0));
        let max = largest(row);
        for x in row.iter_mut() {
            *x = (*x - max).exp::<false>();
        }
        let total = sum_of(row, row, |x, _| x);
        let scale = T::from_f64(1.0) / total;
        for x in row.iter_mut() {
            *x *= scale;
        }
    }
}

vectorised! {
    /// dS = P ∘ (dP − Σ P ∘ dP) of one row, written over dP.
    fn softmax_backward<T>(probs: &[T], dprobs: &mut [T]) {
        let delta = sum_of(probs, dprobs, |p, d| p * d);
        for (d, &p) in dprobs.iter_mut().zip(probs) {
            *d = p * (*d - delta);
        }
    }
}

/// Data of one (sequence, key/value head): the rows of queries `[len·group, d]` are those of the
/// group's heads at one position, then at the next.
struct Piece<'a, T> {
    q: Vec<T>,
    k: View<'a, T>,
    v: View<'a, T>,
    group: usize,
    /// Positions per tile of scores.
    step: usize,
}

impl<'a, T: Float> Piece<'a, T> {
    fn new(
        q: &[T],
        k: &'a [T],
        v: &'a [T],
        at: (usize, usize, usize),
        shape: &AttentionShape,
    ) -> Self {
        let (start, len, head) = at;
        let d = shape.head_dim;
        let keys = |x: &'a [T]| {
            let stride = shape.kv_heads * d;
            View::new(&x[start * stride + head * d..], len, d, stride)
        };
        let group = shape.group();
        let step = (ROWS / group).clamp(8, 64);
        Self { q: queries(q, at, shape), k: keys(k), v: keys(v), group, step }
    }

    fn len(&self) -> usize {
        self.k.rows
    }

    fn head_dim(&self) -> usize {
        self.k.cols
    }

    /// Returns the rows of queries at some positions, and where they begin in `[len·group, d]`.
    fn at(&self, positions: &Range<usize>) -> (usize, usize) {
        (positions.len() * self.group, positions.start * self.group * self.head_dim())
    }

    /// Returns the positions of every tile.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> {
        let (len, step) = (self.len(), self.step);
        (0..len).step_by(step).map(move |start| start..len.min(start + step))
    }

    /// Returns room for a tile.
    fn room(&self) -> Vec<T> {
        vec![T::from_f64(0.0); self.step.min(self.len()) * self.group * self.len()]
    }

    /// Computes softmax(q kᵀ / √d) of the queries at some positions into `tile` (`[rows,
    /// positions.end]`).
    fn probabilities(&self, positions: &Range<usize>, tile: &mut [T]) {
        let d = self.head_dim();
        let width = positions.end;
        let (rows, first) = self.at(positions);
        let scale = T::from_f64(1.0 / (d as f64).sqrt());
        let q = View::new(&self.q[first..], rows, d, d);
        let scores = ViewMut::new(tile, rows, width, width);
        matmul(scores, q, self.k.top(width).t(), scale, false, 1);
        for (row, scores) in tile.chunks_exact_mut(width).take(rows).enumerate() {
            softmax_in_place(scores, positions.start + row / self.group + 1);
        }
    }

    /// Computes the output of the piece's heads, `[len, group·d]`.
    fn forward(&self) -> Vec<T> {
        let d = self.head_dim();
        let mut out = vec![T::from_f64(0.0); self.q.len()];
        let mut tile = self.room();
        for positions in self.tiles() {
            self.probabilities(&positions, &mut tile);
            let width = positions.end;
            let (rows, first) = self.at(&positions);
            let out = ViewMut::new(&mut out[first..], rows, d, d);
            let p = View::new(&tile, rows, width, width);
            matmul(out, p, self.v.top(width), T::from_f64(1.0), false, 1);
        }
        out
    }

    /// Computes (dq `[len, group·d]`, dk `[len, d]`, dv `[len, d]`) of the piece, for the gradient
    /// `[len·group, d]` of its output.
    fn backward(&self, grad: &[T]) -> (Vec<T>, Vec<T>, Vec<T>) {
        let d = self.head_dim();
        let zeros = |n: usize| vec![T::from_f64(0.0); n];
        let mut dq = zeros(self.q.len());
        let mut dk = zeros(self.len() * d);
        let mut dv = zeros(self.len() * d);
        let mut tile = self.room();
        let mut dtile = self.room();
        let one = T::from_f64(1.0);
        let scale = T::from_f64(1.0 / (d as f64).sqrt());
        for positions in self.tiles() {
            let width = positions.end;
            let (rows, first) = self.at(&positions);
            self.probabilities(&positions, &mut tile);
            let q = View::new(&self.q[first..], rows, d, d);
            let dout = View::new(&grad[first..], rows, d, d);
            let dp = ViewMut::new(&mut dtile, rows, width, width);
            matmul(dp, dout, self.v.top(width).t(), one, false, 1);
            for (p, dp) in tile.chunks_exact(width).zip(dtile.chunks_exact_mut(width)).take(rows) {
                softmax_backward(p, dp);
            }
            let p = View::new(&tile, rows, width, width);
            let ds = View::new(&dtile, rows, width, width);
            let dq = ViewMut::new(&mut dq[first..], rows, d, d);
            matmul(dq, ds, self.k.top(width), scale, false, 1);
            matmul(ViewMut::new(&mut dk, width, d, d), ds.t(), q, scale, true, 1);
            matmul(ViewMut::new(&mut dv, width, d, d), p.t(), dout, one, true, 1);
        }
        (dq, dk, dv)
    }
}

/// Copies the columns of a piece's group of heads from query-sized data: `[len·group, d]`.
fn queries<T: Float>(
    data: &[T],
    (start, len, head): (usize, usize, usize),
    shape: &AttentionShape,
) -> Vec<T> {
    let width = shape.group() * shape.head_dim;
    let mut out = Vec::with_capacity(len * width);
    for row in data.chunks_exact(shape.heads * shape.head_dim).skip(start).take(len) {
        out.extend_from_slice(&row[head * width..(head + 1) * width]);
    }
    out
}

/// Writes every piece's compact columns (`[len, width]`) to their place in `[n, K·width]`.
fn scatter<T: Float>(parts: &[Vec<T>], shape: &AttentionShape, width: usize) -> Vec<T> {
    let n: usize = shape.lengths.iter().sum();
    let stride = shape.kv_heads * width;
    let mut out = zeros(n * stride);
    for ((start, len, head), part) in shape.pieces().into_iter().zip(parts) {
        let rows = out[start * stride..(start + len) * stride].chunks_exact_mut(stride);
        for (row, values) in rows.zip(part.chunks_exact(width)) {
            row[head * width..(head + 1) * width].copy_from_slice(values);
        }
    }
    out
}

/// Computes the value of [`attention`].
pub(crate) fn attend<T: Float>(q: &[T], k: &[T], v: &[T], shape: &AttentionShape) -> Vec<T> {
    let pieces = shape.pieces();
    let parts: Vec<Vec<T>> =
        pieces.into_par_iter().map(|at| Piece::new(q, k, v, at, shape).forward()).collect();
    scatter(&parts, shape, shape.group() * shape.head_dim)
}

/// Computes (dq, dk, dv) of [`attention`].
pub(crate) fn attend_backward<T: Float>(
    q: &[T],
    k: &[T],
    v: &[T],
    grad: &[T],
    shape: &AttentionShape,
) -> (Vec<T>, Vec<T>, Vec<T>) {
    let parts = shape.pieces().into_par_iter().map(|at| {
        let grad = queries(grad, at, shape);
        let (dq, dk, dv) = Piece::new(q, k, v, at, shape).backward(&grad);
        (dq, (dk, dv))
    });
    let (dq, (dk, dv)): (Vec<_>, (Vec<_>, Vec<_>)) = parts.unzip();
    let d = shape.head_dim;
    (scatter(&dq, shape, shape.group() * d), scatter(&dk, shape, d), scatter(&dv, shape, d))
}

fn backward<T: Float>(
    [q, k, v, grad]: [&Tensor; 4],
    shape: &AttentionShape,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (dq, dk, dv) = with_slices::<T, _, 4>([q, k, v, grad], |[q, k, v, grad]| {
        Ok(attend_backward(q, k, v, grad, shape))
    })?;
    Ok((tensor_like(dq, q)?, tensor_like(dk, k)?, tensor_like(dv, v)?))
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = with_float!(BackendStorage::dtype(q), "attention", T => {
            let q = slice_of::<T>(q, lq)?;
            let k = slice_of::<T>(k, lk)?;
            let v = slice_of::<T>(v, lv)?;
            Ok(T::to_cpu_storage_owned(attend(q, k, v, &self.shape)))
        })?;
        Ok((out, lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dq, dk, dv) = with_float!(grad.dtype(), "attention", T => {
            backward::<T>([q, k, v, &grad], &self.shape)
        })?;
        Ok((Some(dq), Some(dk), Some(dv)))
    }
}
