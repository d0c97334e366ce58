//! The operators of decoding: the training kernels' arithmetic on plain slices, without gradients.

use super::attention::softmax_in_place;
use super::matmul::{matmul, View, ViewMut};
use super::real::{lane_sum, sum_of, vectorised, with_slice, Real};
use super::rms_norm::rms_norm_row;
use super::swiglu::swiglu_in_place;
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Query rows per tile of scores.
const BLOCK: usize = 64;

/// Rows up to which the own product beats packing the weights for a general one.
const SKINNY: usize = 16;

/// x Wᵀ + b for x `[n, i]`, added to `onto` (`[n, o]`) where given.
pub(crate) fn linear_into(
    x: &[f32],
    weight: &Tensor,
    bias: Option<&Tensor>,
    onto: Option<Vec<f32>>,
) -> Result<Vec<f32>> {
    let (o, i) = weight.dims2()?;
    let n = x.len() / i;
    let mut y = match (onto, bias) {
        (None, Some(bias)) => with_slice::<f32, _>(bias, |b| Ok(b.repeat(n)))?,
        (onto, None) => onto.unwrap_or_else(|| vec![0.0; n * o]),
        (Some(mut y), Some(bias)) => with_slice::<f32, _>(bias, |b| {
            y.chunks_exact_mut(o).for_each(|row| row.iter_mut().zip(b).for_each(|(y, &b)| *y += b));
            Ok(y)
        })?,
    };
    with_slice::<f32, _>(weight, |w| {
        if n <= SKINNY {
            skinny_product(x, w, i, &mut y);
            return Ok(());
        }
        let out = ViewMut::new(&mut y, n, o, o);
        matmul(
            out,
            View::new(x, n, i, i),
            View::new(w, o, i, i).t(),
            1.0,
            true,
            rayon::current_num_threads(),
        );
        Ok(())
    })?;
    Ok(y)
}

#[inline(always)]
fn multiply_add<T: Real>(acc: &mut [T; 8], x: &[T; 8], w: &[T; 8]) {
    for l in 0..8 {
        acc[l] += x[l] * w[l];
    }
}

/// Dot products of four rows of x with one row of W; named accumulators stay in registers.
#[inline(always)]
fn four_dots<T: Real>(x: &[T], w: &[T], i: usize) -> [T; 4] {
    let (w, tail) = w.as_chunks::<8>();
    let n = w.len();
    let row = |r: usize| &x[r * i..(r + 1) * i].as_chunks::<8>().0[..n];
    let (x0, x1, x2, x3) = (row(0), row(1), row(2), row(3));
    let zero = [T::from_f64(0.0); 8];
    let (mut a, mut b, mut c, mut d) = (zero, zero, zero, zero);
    for k in 0..n {
        multiply_add(&mut a, &x0[k], &w[k]);
        multiply_add(&mut b, &x1[k], &w[k]);
        multiply_add(&mut c, &x2[k], &w[k]);
        multiply_add(&mut d, &x3[k], &w[k]);
    }
    let mut sums = [lane_sum(a), lane_sum(b), lane_sum(c), lane_sum(d)];
    for (r, sum) in sums.iter_mut().enumerate() {
        for (&x, &w) in x[r * i + 8 * n..(r + 1) * i].iter().zip(tail) {
            *sum += x * w;
        }
    }
    sums
}

vectorised! {
    /// y (`[n, o]`) += x Wᵀ for few rows; every row's sums are the same whatever rows stand beside it.
    fn skinny_product<T>(x: &[T], weight: &[T], i: usize, y: &mut [T]) {
        let o = weight.len() / i;
        for (x, y) in x.chunks(4 * i).zip(y.chunks_mut(4 * o)) {
            for (j, w) in weight.chunks_exact(i).enumerate() {
                if x.len() == 4 * i {
                    for (r, dot) in four_dots(x, w, i).into_iter().enumerate() {
                        y[r * o + j] += dot;
                    }
                    continue;
                }
                for (r, x) in x.chunks_exact(i).enumerate() {
                    y[r * o + j] += sum_of(x, w, |x, w| x * w);
                }
            }
        }
    }
}

/// RMSNorm of every row of x `[n, h]`.
pub(crate) fn norm_rows(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let h = weight.len();
    let rows = x.par_chunks_exact(h).zip(y.par_chunks_exact_mut(h)).with_min_len(128);
    rows.for_each(|(x, y)| rms_norm_row(x, weight, eps, y));
    y
}

/// gate ← silu(gate) · up.
pub(crate) fn swiglu_rows(gate: &mut [f32], up: &[f32]) {
    const CHUNK: usize = 1 << 14;
    gate.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK)).for_each(|(g, u)| swiglu_in_place(g, u));
}

/// Attention of consecutive queries `[c, H·d]`, the first at `position`, over cached keys and values
/// `[≥ position + c, K·d]`, for (H, K, d) heads.
pub(crate) fn attend(
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    position: usize,
    (heads, kv_heads, d): (usize, usize, usize),
    out: &mut [f32],
) {
    let (width, stride) = (heads * d, kv_heads * d);
    let count = q.len() / width;
    let mut tile = vec![0.0f32; BLOCK.min(count) * (position + count)];
    for head in 0..heads {
        let kv = head / (heads / kv_heads) * d;
        if count == 1 {
            let (q, out) = (&q[head * d..(head + 1) * d], &mut out[head * d..(head + 1) * d]);
            attend_one(q, &keys[kv..], &values[kv..], stride, &mut tile, out);
            continue;
        }
        for start in (0..count).step_by(BLOCK) {
            let rows = BLOCK.min(count - start);
            let len = position + start + rows;
            let queries = View::new(&q[start * width + head * d..], rows, d, width);
            let scores = ViewMut::new(&mut tile, rows, len, len);
            matmul(
                scores,
                queries,
                View::new(&keys[kv..], len, d, stride).t(),
                1.0 / (d as f32).sqrt(),
                false,
                1,
            );
            for (i, row) in tile.chunks_exact_mut(len).take(rows).enumerate() {
                softmax_in_place(row, position + start + i + 1);
            }
            let out = ViewMut::new(&mut out[start * width + head * d..], rows, d, width);
            matmul(
                out,
                View::new(&tile, rows, len, len),
                View::new(&values[kv..], len, d, stride),
                1.0,
                false,
                1,
            );
        }
    }
}

/// One query against `scores.len()` cached positions.
fn attend_one(q: &[f32], keys: &[f32], values: &[f32], stride: usize, scores: &mut [f32], out: &mut [f32]) {
    scores_of(q, keys, stride, 1.0 / (q.len() as f32).sqrt(), scores);
    let len = scores.len();
    softmax_in_place(scores, len);
    mix(scores, values, stride, out);
}

vectorised! {
    /// scores_j = scale · q · k_j.
    fn scores_of<T>(q: &[T], keys: &[T], stride: usize, scale: T, scores: &mut [T]) {
        for (score, key) in scores.iter_mut().zip(keys.chunks(stride)) {
            *score = sum_of(q, &key[..q.len()], |x, y| x * y) * scale;
        }
    }
}

vectorised! {
    /// out = Σ_j p_j v_j, sixteen features at a time.
    fn mix<T>(probs: &[T], values: &[T], stride: usize, out: &mut [T]) {
        let (whole, rest) = out.as_chunks_mut::<16>();
        let tail = whole.len() * 16;
        for (c, out) in whole.iter_mut().enumerate() {
            let mut acc = [T::from_f64(0.0); 16];
            for (j, &p) in probs.iter().enumerate() {
                let at = j * stride + c * 16;
                for (a, &v) in acc.iter_mut().zip(&values[at..at + 16]) {
                    *a += p * v;
                }
            }
            *out = acc;
        }
        for (c, out) in rest.iter_mut().enumerate() {
            let mut acc = T::from_f64(0.0);
            for (j, &p) in probs.iter().enumerate() {
                acc += p * values[j * stride + tail + c];
            }
            *out = acc;
        }
    }
}
