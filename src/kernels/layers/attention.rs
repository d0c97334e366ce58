//! Causal grouped-query attention over packed sequences, with a backward pass that recomputes the
//! probabilities.
//!
//! Shapes: n = total tokens, H = query heads, K = key/value heads, d = head features, L = length of
//! one sequence. Only one [`BLOCK`]`·L` tile of scores exists at a time, as in FlashAttention-2
//! (Dao 2023). An online softmax is not needed: whole rows of a tile fit in a CPU's cache.

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{
    largest, on_cpu, slice_of, sum_of, vectorised, with_float, with_slices, Float,
};
use crate::kernels::cpu::matmul::matmul;
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::layers::attention_rows::AttentionShape;
use crate::kernels::layers::composed;
use crate::kernels::layers::residual::tensor_like;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

/// Computes o_i = Σ_{j ≤ i} softmax_j(q_i · k_j / √d) v_j within every packed sequence. Query head
/// h reads key/value head ⌊h K / H⌋. q `[n, H·d]`, k and v `[n, K·d]`; o `[n, H·d]`.
///
/// # Errors
/// Mismatched shapes.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
    shape.check(q, k, v)?;
    if !on_cpu(q) {
        return composed::attention(q, k, v, shape);
    }
    let op = Attention { shape: shape.clone() };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

struct Attention {
    shape: AttentionShape,
}

/// Query rows per tile of scores.
const BLOCK: usize = 64;

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

/// Slices of one (sequence, key/value head), and how to index them.
struct Piece<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    len: usize,
    head: usize,
    shape: &'a AttentionShape,
}

impl<'a, T: Float> Piece<'a, T> {
    fn new(
        q: &'a [T],
        k: &'a [T],
        v: &'a [T],
        at: (usize, usize, usize),
        shape: &'a AttentionShape,
    ) -> Self {
        let (start, len, head) = at;
        let rows = |x: &'a [T], heads: usize| {
            &x[start * heads * shape.head_dim..][..len * heads * shape.head_dim]
        };
        let q = rows(q, shape.heads);
        let k = rows(k, shape.kv_heads);
        let v = rows(v, shape.kv_heads);
        Self { q, k, v, len, head, shape }
    }

    /// Returns rows `range` of query-sized data for head `g` of the group.
    fn queries<'b>(&self, data: &'b [T], range: &std::ops::Range<usize>, g: usize) -> View<'b, T> {
        let d = self.shape.head_dim;
        let stride = self.shape.heads * self.shape.head_dim;
        let offset = range.start * stride + (self.head * self.shape.group() + g) * d;
        View::new(&data[offset..], range.len(), d, stride)
    }

    /// Returns the first `rows` rows of key/value-sized data.
    fn keys<'b>(&self, data: &'b [T], rows: usize) -> View<'b, T> {
        let d = self.shape.head_dim;
        View::new(&data[self.head * d..], rows, d, self.shape.kv_heads * d)
    }

    /// Computes softmax(q kᵀ / √d) of a block of query rows into `tile` (`[rows, range.end]`).
    fn probabilities(&self, range: &std::ops::Range<usize>, g: usize, tile: &mut [T]) {
        let rows = range.len();
        let width = range.end;
        let scale = T::from_f64(1.0 / (self.shape.head_dim as f64).sqrt());
        let q = self.queries(self.q, range, g);
        let k = self.keys(self.k, width);
        matmul(ViewMut::new(tile, rows, width, width), q, k.t(), scale, false, 1);
        for (i, row) in tile.chunks_exact_mut(width).take(rows).enumerate() {
            softmax_in_place(row, range.start + i + 1);
        }
    }

    fn blocks(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let len = self.len;
        (0..self.shape.group()).flat_map(move |g| {
            (0..len).step_by(BLOCK).map(move |start| (g, start..len.min(start + BLOCK)))
        })
    }

    fn tile(&self) -> Vec<T> {
        vec![T::from_f64(0.0); BLOCK.min(self.len) * self.len]
    }

    /// Computes the output of the piece's heads, `[len, group·d]`.
    fn forward(&self) -> Vec<T> {
        let d = self.shape.head_dim;
        let stride = self.shape.group() * self.shape.head_dim;
        let mut out = vec![T::from_f64(0.0); self.len * stride];
        let mut tile = self.tile();
        for (g, range) in self.blocks() {
            self.probabilities(&range, g, &mut tile);
            let o = ViewMut::new(&mut out[range.start * stride + g * d..], range.len(), d, stride);
            let p = View::new(&tile, range.len(), range.end, range.end);
            matmul(o, p, self.keys(self.v, range.end), T::from_f64(1.0), false, 1);
        }
        out
    }

    /// Computes (dq `[len, group·d]`, dk `[len, d]`, dv `[len, d]`) of the piece.
    fn backward(&self, grad: &[T]) -> (Vec<T>, Vec<T>, Vec<T>) {
        let d = self.shape.head_dim;
        let stride = self.shape.group() * self.shape.head_dim;
        let zeros = |n: usize| vec![T::from_f64(0.0); n];
        let mut dq = zeros(self.len * stride);
        let mut dk = zeros(self.len * d);
        let mut dv = zeros(self.len * d);
        let mut tile = self.tile();
        let mut dtile = self.tile();
        let one = T::from_f64(1.0);
        let scale = T::from_f64(1.0 / (d as f64).sqrt());
        for (g, range) in self.blocks() {
            let rows = range.len();
            let width = range.end;
            self.probabilities(&range, g, &mut tile);
            let dout = self.queries(grad, &range, g);
            let dp = ViewMut::new(&mut dtile, rows, width, width);
            matmul(dp, dout, self.keys(self.v, width).t(), one, false, 1);
            for (p, dp) in tile.chunks_exact(width).zip(dtile.chunks_exact_mut(width)).take(rows) {
                softmax_backward(p, dp);
            }
            let p = View::new(&tile, rows, width, width);
            let ds = View::new(&dtile, rows, width, width);
            let dq = ViewMut::new(&mut dq[range.start * stride + g * d..], rows, d, stride);
            matmul(dq, ds, self.keys(self.k, width), scale, false, 1);
            matmul(
                ViewMut::new(&mut dk, width, d, d),
                ds.t(),
                self.queries(self.q, &range, g),
                scale,
                true,
                1,
            );
            matmul(ViewMut::new(&mut dv, width, d, d), p.t(), dout, one, true, 1);
        }
        (dq, dk, dv)
    }
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
        let stride = shape.heads * shape.head_dim;
        let grad = &grad[at.0 * stride..(at.0 + at.1) * stride];
        let (dq, dk, dv) = Piece::new(q, k, v, at, shape).backward(grad);
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
