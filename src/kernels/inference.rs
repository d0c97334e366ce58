//! The operators of decoding: the training kernels' arithmetic on plain slices, without gradients.

use super::attention::softmax_in_place;
use super::logit::Inline;
use super::matmul::{matmul, View, ViewMut};
use super::real::{lane_sum, sum_of, vectorised, with_slice, Real};
use super::rms_norm::rms_norm_row;
use super::swiglu::swiglu_in_place;
use crate::Result;
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;

/// Query rows per tile of scores.
const BLOCK: usize = 64;

/// Rows up to which the own product beats packing the weights for a general one.
const SKINNY: usize = 16;

/// x Wᵀ + b for x `[n, i]`, added to `onto` (`[n, o]`) where given; W and b f32, bf16 or f16.
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
    match weight.dtype() {
        DType::BF16 => with_slice::<bf16, _>(weight, |w| {
            add_product(x, w, i, &mut y);
            Ok(())
        })?,
        _ => with_slice::<f32, _>(weight, |w| {
            add_product(x, w, i, &mut y);
            Ok(())
        })?,
    }
    Ok(y)
}

/// y (`[n, o]`) += x Wᵀ.
fn add_product<L: Inline<Real = f32>>(x: &[f32], w: &[L], i: usize, y: &mut [f32]) {
    let (n, o) = (x.len() / i, w.len() / i);
    if n <= SKINNY {
        return add_skinny_product(x, w, i, y);
    }
    // Rows of W at a time, widened where they are narrow: all of them where they are not.
    let rows = if L::DTYPE == DType::F32 { o } else { WIDENED.min(o) };
    let mut buffer = Vec::new();
    if L::DTYPE != DType::F32 {
        buffer.resize(rows * i, 0.0);
    }
    for (start, w) in (0..o).step_by(rows.max(1)).zip(w.chunks(rows.max(1) * i)) {
        let width = w.len() / i;
        let w = L::load(w, if buffer.is_empty() { &mut buffer } else { &mut buffer[..width * i] });
        let out = ViewMut::new(&mut y[start..], n, width, o);
        let (x, w) = (View::new(x, n, i, i), View::new(w, width, i, i));
        matmul(out, x, w.t(), 1.0, true, rayon::current_num_threads());
    }
}

/// Rows of a bf16 matrix that are widened for one product.
const WIDENED: usize = 1024;

/// The product for few rows of x, by several threads where it is worth waking them.
fn add_skinny_product<L: Inline<Real = f32>>(x: &[f32], w: &[L], i: usize, y: &mut [f32]) {
    let (n, o, threads) = (x.len() / i, w.len() / i, rayon::current_num_threads());
    if threads == 1 || n * w.len() < 1 << 19 {
        return skinny_product(x, w, i, y);
    }
    // Every element is computed alone, so the parts do not change it.
    let rows = (o / (2 * threads)).clamp(64, 1024).next_multiple_of(2);
    let part = |w: &[L]| {
        let mut part = vec![0.0; n * (w.len() / i)];
        skinny_product(x, w, i, &mut part);
        part
    };
    let parts: Vec<Vec<f32>> = w.par_chunks(rows * i).map(part).collect();
    for (start, part) in (0..o).step_by(rows).zip(parts) {
        let width = part.len() / n;
        for (row, part) in y.chunks_exact_mut(o).zip(part.chunks_exact(width)) {
            row[start..start + width].iter_mut().zip(part).for_each(|(y, p)| *y += p);
        }
    }
}

#[inline(always)]
fn multiply_add<T: Real, const FMA: bool>(acc: &mut [T; 8], x: &[T; 8], w: &[T; 8]) {
    for l in 0..8 {
        acc[l] = x[l].mul_add::<FMA>(w[l], acc[l]);
    }
}

#[inline(always)]
fn wide<L: Inline>(w: &[L; 8]) -> [L::Real; 8] {
    let mut out = [L::Real::from_f32(0.0); 8];
    for l in 0..8 {
        out[l] = w[l].widen();
    }
    out
}

/// The dot product of a row of x with a row of W: eight lanes, then the rest.
#[inline(always)]
fn dot<L: Inline, const FMA: bool>(x: &[L::Real], w: &[L]) -> L::Real {
    let ((xs, x_tail), (ws, w_tail)) = (x.as_chunks::<8>(), w.as_chunks::<8>());
    let mut lanes = [L::Real::from_f32(0.0); 8];
    for (x, w) in xs.iter().zip(ws) {
        multiply_add::<L::Real, FMA>(&mut lanes, x, &wide(w));
    }
    rest::<L, FMA>(lane_sum(lanes), x_tail, w_tail)
}

#[inline(always)]
fn rest<L: Inline, const FMA: bool>(sum: L::Real, x: &[L::Real], w: &[L]) -> L::Real {
    x.iter().zip(w).fold(sum, |sum, (x, w)| x.mul_add::<FMA>(w.widen(), sum))
}

/// [`dot`] of four rows of x with two of W; named accumulators stay in registers.
#[inline(always)]
fn eight_dots<L: Inline, const FMA: bool>(x: [&[L::Real]; 4], w: [&[L]; 2]) -> [[L::Real; 4]; 2] {
    let [(x0, t0), (x1, t1), (x2, t2), (x3, t3)] = x.map(|x| x.as_chunks::<8>());
    let [(w0, u0), (w1, u1)] = w.map(|w| w.as_chunks::<8>());
    let n = w0.len();
    let (x0, x1, x2, x3, w1) = (&x0[..n], &x1[..n], &x2[..n], &x3[..n], &w1[..n]);
    let zero = [L::Real::from_f32(0.0); 8];
    let (mut a0, mut a1, mut a2, mut a3) = (zero, zero, zero, zero);
    let (mut b0, mut b1, mut b2, mut b3) = (zero, zero, zero, zero);
    for k in 0..n {
        let (w0, w1) = (wide(&w0[k]), wide(&w1[k]));
        multiply_add::<L::Real, FMA>(&mut a0, &x0[k], &w0);
        multiply_add::<L::Real, FMA>(&mut b0, &x0[k], &w1);
        multiply_add::<L::Real, FMA>(&mut a1, &x1[k], &w0);
        multiply_add::<L::Real, FMA>(&mut b1, &x1[k], &w1);
        multiply_add::<L::Real, FMA>(&mut a2, &x2[k], &w0);
        multiply_add::<L::Real, FMA>(&mut b2, &x2[k], &w1);
        multiply_add::<L::Real, FMA>(&mut a3, &x3[k], &w0);
        multiply_add::<L::Real, FMA>(&mut b3, &x3[k], &w1);
    }
    let sum = |lanes, x: &[L::Real], w: &[L]| rest::<L, FMA>(lane_sum(lanes), x, w);
    [
        [sum(a0, t0, u0), sum(a1, t1, u0), sum(a2, t2, u0), sum(a3, t3, u0)],
        [sum(b0, t0, u1), sum(b1, t1, u1), sum(b2, t2, u1), sum(b3, t3, u1)],
    ]
}

vectorised! {
    /// y (`[n, o]`) += x Wᵀ for few rows; every row's sums are the same whatever rows stand beside it.
    fn skinny_product<L: Inline, FMA>(x: &[L::Real], weight: &[L], i: usize, y: &mut [L::Real]) {
        let o = weight.len() / i;
        let paired = o / 2 * 2;
        for (x, y) in x.chunks(4 * i).zip(y.chunks_mut(4 * o)) {
            let rows = x.len() / i;
            let row = |r: usize| &x[r * i..(r + 1) * i];
            let alone = if rows == 4 { paired } else { 0 };
            for (j, w) in weight[..alone * i].chunks_exact(2 * i).enumerate() {
                let (w0, w1) = w.split_at(i);
                let [a, b] = eight_dots::<L, FMA>([row(0), row(1), row(2), row(3)], [w0, w1]);
                for r in 0..4 {
                    y[r * o + 2 * j] += a[r];
                    y[r * o + 2 * j + 1] += b[r];
                }
            }
            for (j, w) in weight.chunks_exact(i).enumerate().skip(alone) {
                for r in 0..rows {
                    y[r * o + j] += dot::<L, FMA>(row(r), w);
                }
            }
        }
    }
}

/// The rows `ids` of a table `[v, h]`.
pub(crate) fn embedding_rows(table: &Tensor, ids: &[u32]) -> Result<Vec<f32>> {
    let (_, h) = table.dims2()?;
    fn rows<L: Inline<Real = f32>>(table: &[L], ids: &[u32], h: usize) -> Vec<f32> {
        let row = |&id: &u32| table[id as usize * h..(id as usize + 1) * h].iter().map(|x| x.widen());
        ids.iter().flat_map(row).collect()
    }
    Ok(match table.dtype() {
        DType::BF16 => with_slice::<bf16, _>(table, |table| Ok(rows(table, ids, h)))?,
        _ => with_slice::<f32, _>(table, |table| Ok(rows(table, ids, h)))?,
    })
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
        let columns = (&q[head * d..], &keys[kv..], &values[kv..]);
        attend_many(columns, (position, count), (d, width, stride), &mut tile, &mut out[head * d..]);
    }
}

/// One head's `count` queries, [`BLOCK`] at a time; rows of queries and outputs are `width` apart, those of keys and values
/// `stride`.
fn attend_many(
    (q, keys, values): (&[f32], &[f32], &[f32]),
    (position, count): (usize, usize),
    (d, width, stride): (usize, usize, usize),
    tile: &mut [f32],
    out: &mut [f32],
) {
    let scale = 1.0 / (d as f32).sqrt();
    for start in (0..count).step_by(BLOCK) {
        let rows = BLOCK.min(count - start);
        let len = position + start + rows;
        let queries = View::new(&q[start * width..], rows, d, width);
        let keys = View::new(keys, len, d, stride).t();
        matmul(ViewMut::new(tile, rows, len, len), queries, keys, scale, false, 1);
        for (i, row) in tile.chunks_exact_mut(len).take(rows).enumerate() {
            softmax_in_place(row, position + start + i + 1);
        }
        let (probs, values) = (View::new(tile, rows, len, len), View::new(values, len, d, stride));
        matmul(ViewMut::new(&mut out[start * width..], rows, d, width), probs, values, 1.0, false, 1);
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
