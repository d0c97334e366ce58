//! Attention of one query per head over cached keys and values, as in each step of decoding.
//!
//! It is bound by memory. The keys and values of all heads are read once, in memory order, while
//! the next block is prefetched.

use crate::kernels::cpu::float::{lane_sum, prefetch, vectorised, Float};
use crate::kernels::decode::gemv::LINE;
use crate::kernels::decode::scratch::Scratch;
use crate::kernels::layers::attention::softmax_in_place;

/// Positions per block; the next block is prefetched meanwhile. With 128 features a block is one
/// page of memory.
const BLOCK: usize = 8;

/// Cached keys and values `[n, K·d]` of all positions, in two parts: a shared prefix and the row's
/// own.
pub(crate) type Past<'a> = [(&'a [f32], &'a [f32]); 2];

/// Query heads per key/value head, key/value heads, and features per head.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    group: usize,
    kv: usize,
    d: usize,
}

/// Computes attention of one query `[H·d]` of (H, K, d) heads over all positions.
pub(crate) fn attend_one(
    q: &[f32],
    past: Past<'_>,
    (heads, kv, d): (usize, usize, usize),
    out: &mut [f32],
) {
    let dims = Heads { group: heads / kv, kv, d };
    let [(shared_keys, shared_values), (keys, values)] = past;
    let shared = shared_keys.len() / (kv * d);
    let own = keys.len() / (kv * d);
    let len = shared + own;
    let first_value = if shared > 0 { shared_values } else { values }.as_ptr();
    let mut tile = Scratch::new(heads * len);
    if shared > 0 {
        score(
            q,
            shared_keys,
            dims,
            &mut tile,
            len,
            if own > 0 { keys.as_ptr() } else { first_value },
        );
    }
    score(q, keys, dims, &mut tile[shared..], len, first_value);
    tile.chunks_exact_mut(len).for_each(|row| softmax_in_place(row, len));
    mix(&tile, len, shared_values, dims, values.as_ptr(), out);
    mix(&tile[shared..], len, values, dims, std::ptr::null(), out);
}

/// Prefetches the part of the next block that belongs to key/value head `head`. The next block
/// begins after `before` elements of `all`, or, at the end of `all`, at `next`.
#[inline(always)]
fn look_ahead<T>(all: &[T], before: usize, next: *const T, dims: Heads, head: usize) {
    let start = if before < all.len() { all.as_ptr().wrapping_add(before) } else { next };
    if start.is_null() {
        return;
    }
    let part = BLOCK * dims.d;
    (head * part..(head + 1) * part).step_by(LINE).for_each(|at| prefetch(start.wrapping_add(at)));
}

vectorised! {
    /// Computes the scores q k / √d of all heads with consecutive keys; `len` is the row stride of
    /// `scores`.
    fn score<T, FMA>(
        q: &[T],
        keys: &[T],
        dims: Heads,
        scores: &mut [T],
        len: usize,
        next: *const T,
    ) {
        let Heads { group, kv, d } = dims;
        let stride = kv * d;
        let scale = T::from_f64(1.0 / (d as f64).sqrt());
        // Lanes are summed afterwards: inside the loop the compiler would split them up.
        let mut lanes = [[T::from_f64(0.0); 8]; 4 * BLOCK];
        for (start, block) in (0..len).step_by(BLOCK).zip(keys.chunks(BLOCK * stride)) {
            let count = block.len() / stride;
            for head in 0..kv {
                look_ahead(keys, (start + BLOCK) * stride, next, dims, head);
                for first in (head * group..(head + 1) * group).step_by(4) {
                    let queries = &q[first * d..(first + 4).min((head + 1) * group) * d];
                    let keys = &block[head * d..];
                    match queries.len() / d {
                        1 => dots::<T, 1, 4, FMA>(queries, keys, d, stride, &mut lanes),
                        2 => dots::<T, 2, 4, FMA>(queries, keys, d, stride, &mut lanes),
                        3 => dots::<T, 3, 2, FMA>(queries, keys, d, stride, &mut lanes),
                        _ => dots::<T, 4, 2, FMA>(queries, keys, d, stride, &mut lanes),
                    }
                    let rows = scores[first * len..].chunks_mut(len).take(queries.len() / d);
                    for (row, lanes) in rows.zip(lanes.chunks_exact(BLOCK)) {
                        sum_lanes::<T, FMA>(&lanes[..count], scale, &mut row[start..start + count]);
                    }
                }
            }
        }
    }
}

/// scores = scale · the sums of `lanes`, in the order of [`lane_sum`].
#[inline(always)]
fn sum_lanes<T: Float, const FMA: bool>(lanes: &[[T; 8]], scale: T, scores: &mut [T]) {
    if let (Ok(&block), Ok(scores)) =
        (<&[_; 8]>::try_from(lanes), <&mut [T; 8]>::try_from(&mut *scores))
    {
        let lanes = T::transposed::<FMA>(block);
        for (i, score) in scores.iter_mut().enumerate() {
            *score = lane_sum(lanes.map(|lane| lane[i])) * scale;
        }
        return;
    }
    for (score, &lanes) in scores.iter_mut().zip(lanes) {
        *score = lane_sum(lanes) * scale;
    }
}

/// Computes the products of `G` queries with up to [`BLOCK`] keys, in eight lanes each: lanes `[g,
/// BLOCK]`.
#[inline(always)]
fn dots<T: Float, const G: usize, const K: usize, const FMA: bool>(
    q: &[T],
    keys: &[T],
    d: usize,
    stride: usize,
    lanes: &mut [[T; 8]],
) {
    let queries: [_; G] = std::array::from_fn(|g| &q[g * d..(g + 1) * d]);
    let key = |j: usize| &keys[j * stride..j * stride + d];
    let count = keys.len().div_ceil(stride);
    let whole = count / K * K;
    for j in (0..whole).step_by(K) {
        let products = cross::<T, G, K, FMA>(queries, std::array::from_fn(|k| key(j + k)));
        (0..G).for_each(|g| lanes[g * BLOCK + j..][..K].copy_from_slice(&products[g]));
    }
    for j in whole..count {
        let products = cross::<T, G, 1, FMA>(queries, [key(j)]);
        (0..G).for_each(|g| lanes[g * BLOCK + j] = products[g][0]);
    }
}

#[inline(always)]
fn cross<T: Float, const G: usize, const K: usize, const FMA: bool>(
    q: [&[T]; G],
    keys: [&[T]; K],
) -> [[[T; 8]; K]; G] {
    let whole_q = q.map(|q| q.as_chunks::<8>().0);
    let whole_k = keys.map(|k| k.as_chunks::<8>().0);
    let chunks = whole_q[0].len();
    let whole_q = whole_q.map(|q| &q[..chunks]);
    let whole_k = whole_k.map(|k| &k[..chunks]);
    let mut lanes = [[[T::from_f64(0.0); 8]; K]; G];
    for c in 0..chunks {
        for g in 0..G {
            for k in 0..K {
                for l in 0..8 {
                    lanes[g][k][l] =
                        whole_q[g][c][l].mul_add::<FMA>(whole_k[k][c][l], lanes[g][k][l]);
                }
            }
        }
    }
    for rest in 8 * chunks..q[0].len() {
        for g in 0..G {
            for k in 0..K {
                lanes[g][k][rest % 8] =
                    q[g][rest].mul_add::<FMA>(keys[k][rest], lanes[g][k][rest % 8]);
            }
        }
    }
    lanes
}

vectorised! {
    /// out `[H·d]` += Σ_j p_j v_j of all heads over consecutive values; `len` is the row stride of
    /// `probs`.
    fn mix<T, FMA>(
        probs: &[T],
        len: usize,
        values: &[T],
        dims: Heads,
        next: *const T,
        out: &mut [T],
    ) {
        let Heads { group, kv, d } = dims;
        let stride = kv * d;
        let size = (d, stride);
        for (start, block) in (0..len).step_by(BLOCK).zip(values.chunks(BLOCK * stride)) {
            for head in 0..kv {
                look_ahead(values, (start + BLOCK) * stride, next, dims, head);
                for first in (head * group..(head + 1) * group).step_by(4) {
                    let out = &mut out[first * d..(first + 4).min((head + 1) * group) * d];
                    let probs = &probs[first * len + start..];
                    let values = &block[head * d..];
                    match out.len() / d {
                        1 if d.is_multiple_of(64) => {
                            sums::<T, 1, 64, FMA>(probs, len, values, size, out)
                        }
                        1 => sums::<T, 1, 16, FMA>(probs, len, values, size, out),
                        2 if d.is_multiple_of(32) => {
                            sums::<T, 2, 32, FMA>(probs, len, values, size, out)
                        }
                        2 => sums::<T, 2, 16, FMA>(probs, len, values, size, out),
                        3 => sums::<T, 3, 16, FMA>(probs, len, values, size, out),
                        _ => sums::<T, 4, 16, FMA>(probs, len, values, size, out),
                    }
                }
            }
        }
    }
}

/// Sums the values of `F` features at a time in registers.
#[inline(always)]
fn sums<T: Float, const G: usize, const F: usize, const FMA: bool>(
    probs: &[T],
    len: usize,
    values: &[T],
    (d, stride): (usize, usize),
    out: &mut [T],
) {
    let whole = d / F * F;
    for start in (0..whole).step_by(F) {
        let mut acc: [[T; F]; G] = std::array::from_fn(|g| out[g * d + start..].as_chunks().0[0]);
        for (j, value) in values.chunks(stride).enumerate() {
            let value = &value[start..start + F];
            for g in 0..G {
                let p = probs[g * len + j];
                for l in 0..F {
                    acc[g][l] = value[l].mul_add::<FMA>(p, acc[g][l]);
                }
            }
        }
        for g in 0..G {
            out[g * d + start..g * d + start + F].copy_from_slice(&acc[g]);
        }
    }
    for g in 0..G {
        for feature in whole..d {
            let terms = values.chunks(stride).zip(&probs[g * len..]);
            let sum = out[g * d + feature];
            out[g * d + feature] =
                terms.fold(sum, |sum, (v, &p)| v[feature].mul_add::<FMA>(p, sum));
        }
    }
}
