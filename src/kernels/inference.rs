//! The operators of decoding: the training kernels' arithmetic on plain slices, without gradients.

use super::attention::softmax_in_place;
use super::few_rows::{Panels, LINE};
use super::logit::Inline;
use super::matmul::{matmul, View, ViewMut};
use super::real::{lane_sum, prefetch, vectorised, with_slice, Real};
use super::rms_norm::rms_norm_row;
use super::scratch::Scratch;
use super::swiglu::swiglu_in_place;
use super::team::Team;
use crate::Result;
use candle_core::{DType, Tensor};
use half::bf16;

/// Query rows per tile of scores.
const BLOCK: usize = 64;

/// Rows up to which [`Panels`] beat packing the weights for a general product. So few have the same bits beside any others.
pub(crate) const FEW: usize = 64;

/// Rows `[n, i]` to be multiplied with weights.
pub(crate) struct Input<'a> {
    x: &'a [f32],
    width: usize,
    panels: Option<Panels>,
}

impl<'a> Input<'a> {
    /// Rows `width` wide.
    pub(crate) fn new(x: &'a [f32], width: usize) -> Self {
        let few = x.len() <= FEW * width;
        Self { x, width, panels: few.then(|| Panels::new(x, width)) }
    }

    /// x Wᵀ + b, added to `onto` (`[n, o]`) where given; W and b f32, bf16 or f16.
    pub(crate) fn linear(
        &self,
        team: Team<'_>,
        weight: &Tensor,
        bias: Option<&Tensor>,
        onto: Option<Scratch>,
    ) -> Result<Scratch> {
        let (n, o) = (self.x.len() / self.width, weight.dim(0)?);
        let accumulate = onto.is_some() || bias.is_some();
        let mut y =
            onto.unwrap_or_else(|| if bias.is_some() { Scratch::zeros(n * o) } else { Scratch::new(n * o) });
        if let Some(bias) = bias {
            with_slice::<f32, _>(bias, |b| {
                y.chunks_exact_mut(o).for_each(|row| row.iter_mut().zip(b).for_each(|(y, &b)| *y += b));
                Ok(())
            })?;
        }
        match weight.dtype() {
            DType::BF16 => with_slice::<bf16, _>(weight, |w| {
                self.product(team, w, &mut y, accumulate);
                Ok(())
            })?,
            _ => with_slice::<f32, _>(weight, |w| {
                self.product(team, w, &mut y, accumulate);
                Ok(())
            })?,
        }
        Ok(y)
    }

    /// y (`[n, o]`) = x Wᵀ, or y += x Wᵀ where `accumulate`.
    fn product<L: Inline<Real = f32>>(&self, team: Team<'_>, w: &[L], y: &mut [f32], accumulate: bool) {
        if let Some(panels) = &self.panels {
            return panels.product(team, w, y, accumulate);
        }
        let i = self.width;
        let (n, o) = (self.x.len() / i, w.len() / i);
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
            let (x, w) = (View::new(self.x, n, i, i), View::new(w, width, i, i));
            matmul(out, x, w.t(), 1.0, accumulate, rayon::current_num_threads());
        }
    }
}

/// Rows of a bf16 matrix that are widened for one product.
const WIDENED: usize = 1024;

/// The rows `ids` of a table `[v, h]`.
pub(crate) fn embedding_rows(table: &Tensor, ids: &[u32]) -> Result<Scratch> {
    let (_, h) = table.dims2()?;
    fn rows<L: Inline<Real = f32>>(table: &[L], ids: &[u32], h: usize) -> Scratch {
        let mut out = Scratch::new(ids.len() * h);
        for (out, &id) in out.chunks_exact_mut(h).zip(ids) {
            let row = &table[id as usize * h..(id as usize + 1) * h];
            out.iter_mut().zip(row).for_each(|(out, x)| *out = x.widen());
        }
        out
    }
    Ok(match table.dtype() {
        DType::BF16 => with_slice::<bf16, _>(table, |table| Ok(rows(table, ids, h)))?,
        _ => with_slice::<f32, _>(table, |table| Ok(rows(table, ids, h)))?,
    })
}

/// RMSNorm of every row of x `[n, h]`.
pub(crate) fn norm_rows(team: Team<'_>, x: &[f32], weight: &[f32], eps: f32) -> Scratch {
    const ROWS: usize = 16;
    let mut y = Scratch::new(x.len());
    let h = weight.len();
    let parts = x.chunks(ROWS * h).zip(y.chunks_mut(ROWS * h)).collect();
    team.each(parts, 4 * x.len(), |(x, y): (&[f32], &mut [f32])| {
        x.chunks_exact(h).zip(y.chunks_exact_mut(h)).for_each(|(x, y)| rms_norm_row(x, weight, eps, y));
    });
    y
}

/// gate ← silu(gate) · up.
pub(crate) fn swiglu_rows(team: Team<'_>, gate: &mut [f32], up: &[f32]) {
    const CHUNK: usize = 1 << 11;
    let multiply_adds = 16 * gate.len();
    let parts = gate.chunks_mut(CHUNK).zip(up.chunks(CHUNK)).collect();
    team.each(parts, multiply_adds, |(g, u)| swiglu_in_place(g, u));
}

/// Cached keys and values `[n, K·d]` of all positions, in two parts.
pub(crate) type Past<'a> = [(&'a [f32], &'a [f32]); 2];

/// Attention of consecutive queries `[c, H·d]`, the first at `position`, over the keys and values of all up to the last, for
/// (H, K, d) heads. How these are parted makes no difference to any bit.
pub(crate) fn attend(
    q: &[f32],
    past: Past<'_>,
    position: usize,
    (heads, kv_heads, d): (usize, usize, usize),
    out: &mut [f32],
) {
    let (width, stride) = (heads * d, kv_heads * d);
    let count = q.len() / width;
    let [(shared_keys, shared_values), (keys, values)] = past;
    if count > 1 && !shared_keys.is_empty() {
        let (keys, values) = ([shared_keys, keys].concat(), [shared_values, values].concat());
        return attend(q, [(&[], &[]), (&keys, &values)], position, (heads, kv_heads, d), out);
    }
    let len = position + count;
    if count == 1 {
        return attend_one(q, past, (heads, kv_heads, d), out);
    }
    let mut tile = Scratch::new(BLOCK.min(count) * len);
    for at in 0..heads {
        let kv = at / (heads / kv_heads);
        let columns = (&q[at * d..], head(keys, kv, d), head(values, kv, d));
        attend_many(columns, (position, count), (d, width, stride), &mut tile, &mut out[at * d..]);
    }
}

/// Rows of several heads' features, from one head's in the first row on.
fn head(rows: &[f32], head: usize, d: usize) -> &[f32] {
    rows.get(head * d..).unwrap_or_default()
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

/// One query of every head, against all positions. Keys and values are read once, as they lie, for all heads.
fn attend_one(q: &[f32], past: Past<'_>, (heads, kv_heads, d): (usize, usize, usize), out: &mut [f32]) {
    let (group, stride) = (heads / kv_heads, kv_heads * d);
    let (keys, values) = (past.map(|(keys, _)| keys), past.map(|(_, values)| values));
    let len = keys.iter().map(|keys| keys.len() / stride).sum::<usize>();
    let mut tile = Scratch::new(heads * len);
    each_block(keys, stride, |start, keys| {
        for (kv, (q, scores)) in q.chunks(group * d).zip(tile.chunks_mut(group * len)).enumerate() {
            for (q, scores) in q.chunks(4 * d).zip(scores.chunks_mut(4 * len)) {
                scores_of(q, head(keys, kv, d), (d, stride), &mut scores[start..], len);
            }
        }
    });
    tile.chunks_exact_mut(len).for_each(|row| softmax_in_place(row, len));
    each_block(values, stride, |start, values| {
        for (kv, (out, probs)) in out.chunks_mut(group * d).zip(tile.chunks(group * len)).enumerate() {
            for (out, probs) in out.chunks_mut(4 * d).zip(probs.chunks(4 * len)) {
                mix(&probs[start..], len, head(values, kv, d), (d, stride), out);
            }
        }
    });
}

/// Calls `f` with up to [`KEYS`] rows at a time and the number of those before, while the next are on their way.
fn each_block<'a>(parts: [&'a [f32]; 2], stride: usize, mut f: impl FnMut(usize, &'a [f32])) {
    let mut start = 0;
    for mut rest in parts {
        while !rest.is_empty() {
            let (block, later) = rest.split_at(rest.len().min(KEYS * stride));
            later.chunks(LINE).take(block.len() / LINE).for_each(|line| prefetch(line.as_ptr()));
            f(start, block);
            (start, rest) = (start + block.len() / stride, later);
        }
    }
}

vectorised! {
    /// Scores of up to four queries: q k / √d, in rows that are `len` apart.
    fn scores_of<T, FMA>(q: &[T], keys: &[T], dims: (usize, usize), scores: &mut [T], len: usize) {
        let (d, stride) = dims;
        let scale = T::from_f64(1.0 / (d as f64).sqrt());
        // Summed over lanes afterwards: within the loop the compiler would take the lanes apart.
        let mut lanes = [[T::from_f64(0.0); 8]; 4 * KEYS];
        for (start, keys) in (0..len).step_by(KEYS).zip(keys.chunks(KEYS * stride)) {
            match q.len() / d {
                1 => dots::<T, 1, 4, FMA>(q, keys, d, stride, &mut lanes),
                2 => dots::<T, 2, 4, FMA>(q, keys, d, stride, &mut lanes),
                3 => dots::<T, 3, 2, FMA>(q, keys, d, stride, &mut lanes),
                _ => dots::<T, 4, 2, FMA>(q, keys, d, stride, &mut lanes),
            }
            let count = keys.len().div_ceil(stride);
            for (row, lanes) in scores.chunks_mut(len).zip(lanes.chunks_exact(KEYS)) {
                sum_lanes::<T, FMA>(&lanes[..count], scale, &mut row[start..start + count]);
            }
        }
    }
}

/// scores = scale · the sums of `lanes`, in the order of [`lane_sum`].
#[inline(always)]
fn sum_lanes<T: Real, const FMA: bool>(lanes: &[[T; 8]], scale: T, scores: &mut [T]) {
    let ((blocks, rest), (eights, last)) = (lanes.as_chunks::<8>(), scores.as_chunks_mut::<8>());
    for (scores, &block) in eights.iter_mut().zip(blocks) {
        let lanes = T::transposed::<FMA>(block);
        for (i, score) in scores.iter_mut().enumerate() {
            *score = lane_sum(lanes.map(|lane| lane[i])) * scale;
        }
    }
    for (score, &lanes) in last.iter_mut().zip(rest) {
        *score = lane_sum(lanes) * scale;
    }
}

/// Keys between two sums over lanes.
const KEYS: usize = 64;

/// The products of `G` queries with up to [`KEYS`] keys, in eight lanes each: lanes `[g, KEYS]`.
#[inline(always)]
fn dots<T: Real, const G: usize, const K: usize, const FMA: bool>(
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
        (0..G).for_each(|g| lanes[g * KEYS + j..][..K].copy_from_slice(&products[g]));
    }
    for j in whole..count {
        let products = cross::<T, G, 1, FMA>(queries, [key(j)]);
        (0..G).for_each(|g| lanes[g * KEYS + j] = products[g][0]);
    }
}

#[inline(always)]
fn cross<T: Real, const G: usize, const K: usize, const FMA: bool>(
    q: [&[T]; G],
    keys: [&[T]; K],
) -> [[[T; 8]; K]; G] {
    let (whole_q, whole_k) = (q.map(|q| q.as_chunks::<8>().0), keys.map(|k| k.as_chunks::<8>().0));
    let chunks = whole_q[0].len();
    let (whole_q, whole_k) = (whole_q.map(|q| &q[..chunks]), whole_k.map(|k| &k[..chunks]));
    let mut lanes = [[[T::from_f64(0.0); 8]; K]; G];
    for c in 0..chunks {
        for g in 0..G {
            for k in 0..K {
                for l in 0..8 {
                    lanes[g][k][l] = whole_q[g][c][l].mul_add::<FMA>(whole_k[k][c][l], lanes[g][k][l]);
                }
            }
        }
    }
    for rest in 8 * chunks..q[0].len() {
        for g in 0..G {
            for k in 0..K {
                lanes[g][k][rest % 8] = q[g][rest].mul_add::<FMA>(keys[k][rest], lanes[g][k][rest % 8]);
            }
        }
    }
    lanes
}

vectorised! {
    /// out `[g, d]` += Σ_j p_j v_j for up to four rows of probabilities, `len` apart.
    fn mix<T, FMA>(probs: &[T], len: usize, values: &[T], dims: (usize, usize), out: &mut [T]) {
        let d = dims.0;
        match out.len() / d {
            1 if d.is_multiple_of(64) => sums::<T, 1, 64, FMA>(probs, len, values, dims, out),
            1 => sums::<T, 1, 16, FMA>(probs, len, values, dims, out),
            2 if d.is_multiple_of(32) => sums::<T, 2, 32, FMA>(probs, len, values, dims, out),
            2 => sums::<T, 2, 16, FMA>(probs, len, values, dims, out),
            3 => sums::<T, 3, 16, FMA>(probs, len, values, dims, out),
            _ => sums::<T, 4, 16, FMA>(probs, len, values, dims, out),
        }
    }
}

/// `F` features at a time, whose sums stay in registers.
#[inline(always)]
fn sums<T: Real, const G: usize, const F: usize, const FMA: bool>(
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
            out[g * d + feature] = terms.fold(sum, |sum, (v, &p)| v[feature].mul_add::<FMA>(p, sum));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::few_rows::tests::numbers;
    use super::*;

    #[test]
    fn attention_over_two_parts_has_the_bits_of_one() {
        for heads in [(4, 2, 8), (7, 1, 24), (12, 2, 64), (3, 3, 16)] {
            let (h, kv_heads, d) = heads;
            let (len, stride) = (70, kv_heads * d);
            let (keys, values) = (numbers(len * stride, 1), numbers(len * stride, 2));
            for count in [1, 5] {
                let q = numbers(count * h * d, 3);
                let attend_at = |border: usize| {
                    let (k, v) = (keys.split_at(border * stride), values.split_at(border * stride));
                    let mut out = vec![0.0; q.len()];
                    attend(&q, [(k.0, v.0), (k.1, v.1)], len - count, heads, &mut out);
                    out
                };
                let whole = attend_at(0);
                assert!(
                    [1, 3, 33, 64, len - count].iter().all(|&border| attend_at(border) == whole),
                    "{heads:?}"
                );
            }
        }
    }
}
