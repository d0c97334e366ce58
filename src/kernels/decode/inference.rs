//! The operators of decoding: the arithmetic of the training kernels on plain slices, without
//! gradients.

use crate::kernels::cpu::amx::Precision;
use crate::kernels::cpu::element::{widened, Inline};
use crate::kernels::cpu::float::with_slice;
use crate::kernels::cpu::matmul::{matmul, matmul_sum};
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::decode::amx;
use crate::kernels::decode::decode_attention::{attend_one, Past};
use crate::kernels::decode::gemv::Panels;
use crate::kernels::decode::rows::{with_rows, Rows};
use crate::kernels::decode::scratch::Scratch;
use crate::kernels::decode::team::Team;
use crate::kernels::layers::attention::softmax_in_place;
use crate::kernels::layers::rms_norm::rms_norm_row;
use crate::kernels::layers::swiglu::swiglu_in_place;
use crate::kernels::quantized::unpack::{unpack, unpack_rows};
use crate::kernels::quantized::weight::Weight;
use crate::Result;
use candle_core::Tensor;

/// Query rows per tile of scores.
const BLOCK: usize = 64;

/// Rows up to which [`Panels`] beat packing the weights for a general product. Up to this size a
/// row has the same bits whatever the other rows.
pub(crate) const GEMV_ROWS: usize = 64;

/// Rows `[n, i]` to multiply with weights.
pub(crate) enum Input {
    Small(Panels),
    Large { x: Scratch, width: usize },
}

impl Input {
    /// Prepares rows `width` wide.
    pub(crate) fn new(x: Scratch, width: usize) -> Self {
        if x.len() <= GEMV_ROWS * width {
            Self::Small(Panels::new(&x, width))
        } else {
            Self::Large { x, width }
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Small(panels) => panels.rows(),
            Self::Large { x, width } => x.len() / width,
        }
    }

    /// Computes x Wᵀ + b for every (W, b) in f32, bf16, f16 or quantised.
    pub(crate) fn linear<const N: usize>(
        &self,
        team: Team<'_>,
        maps: [(&Weight, Option<&Tensor>); N],
    ) -> Result<[Scratch; N]> {
        let mut y = maps.map(|(w, _)| Scratch::new(self.rows() * w.rows()));
        for (y, (_, bias)) in y.iter_mut().zip(maps) {
            if let Some(bias) = bias {
                y.fill(0.0);
                add_bias(bias, y)?;
            }
        }
        let mut biased = maps.map(|(_, bias)| bias.is_some()).into_iter();
        let sums = y.each_mut().map(|y| (&mut y[..], biased.next().unwrap_or_default()));
        self.products(team, maps.map(|(w, _)| w), sums)?;
        Ok(y)
    }

    /// y += x Wᵀ + b.
    pub(crate) fn add_linear(
        &self,
        team: Team<'_>,
        (weight, bias): (&Weight, Option<&Tensor>),
        y: &mut [f32],
    ) -> Result<()> {
        bias.map_or(Ok(()), |bias| add_bias(bias, y))?;
        self.products(team, [weight], [(y, true)])
    }

    /// Computes silu(x Gᵀ) ∘ (x Uᵀ) for G and U in f32, bf16, f16 or quantised.
    pub(crate) fn gated(&self, team: Team<'_>, weights: [&Weight; 2]) -> Result<Self> {
        let Self::Small(panels) = self else {
            let [gate, up] = self.linear(team, weights.map(|w| (w, None)))?;
            return Ok(Self::activated(team, gate, &up, weights[0].rows()));
        };
        Ok(Self::Small(with_rows(weights, |[gate, up]| panels.gated(team, gate, up))?))
    }

    /// Computes silu(gate) ∘ up for rows `width` wide.
    pub(crate) fn activated(team: Team<'_>, mut gate: Scratch, up: &[f32], width: usize) -> Self {
        const CHUNK: usize = 1 << 11;
        let len = gate.len();
        let parts = gate.chunks_mut(CHUNK).zip(up.chunks(CHUNK)).collect();
        team.each(parts, 16 * len, |(gate, up): (&mut [f32], _)| swiglu_in_place(gate, up));
        Self::new(gate, width)
    }

    /// y = x Wᵀ, or y += x Wᵀ if `accumulate`, for every W and its (y, `accumulate`).
    fn products<const N: usize>(
        &self,
        team: Team<'_>,
        weights: [&Weight; N],
        y: [(&mut [f32], bool); N],
    ) -> Result<()> {
        with_rows(weights, |w| match self {
            Self::Small(panels) => panels.products(team, w, y),
            Self::Large { x, width } => {
                w.into_iter()
                    .zip(y)
                    .for_each(|(w, (y, accumulate))| product(team, (x, *width), w, y, accumulate));
            }
        })?;
        Ok(())
    }
}

/// Adds b to every row of y.
fn add_bias(bias: &Tensor, y: &mut [f32]) -> Result<()> {
    Ok(with_slice::<f32, _>(bias, |b| {
        y.chunks_exact_mut(b.len())
            .for_each(|row| row.iter_mut().zip(b).for_each(|(y, &b)| *y += b));
        Ok(())
    })?)
}

/// y (`[n, o]`) = x Wᵀ for rows x `i` wide, or y += x Wᵀ if `accumulate`. Rows that are not f32 are
/// converted a few at a time.
fn product(team: Team<'_>, (x, i): (&[f32], usize), w: Rows<'_>, y: &mut [f32], accumulate: bool) {
    let o = w.count(i);
    let few = x.len() < TILED * i;
    if matches!(w, Rows::Blocks(dtype, _) if few && amx::multiplies(dtype)) {
        return Panels::new(x, i).products(team, [w], [(y, accumulate)]);
    }
    let (rows, precision) = match w {
        Rows::F32(_) => (o.max(1), Precision::Full),
        _ => (WIDENED, Precision::Reduced),
    };
    let mut buffer = Vec::new();
    for start in (0..o).step_by(rows) {
        let part = start..o.min(start + rows);
        let count = part.len();
        let values = match w.range(part, i) {
            Rows::F32(w) => w,
            Rows::Bf16(w) => widened(w, &mut buffer),
            Rows::Blocks(dtype, w) => {
                buffer.resize(count * i, 0.0);
                unpack_rows(dtype, w, i, &mut buffer);
                &buffer
            }
        };
        let n = x.len() / i;
        let out = ViewMut::new(&mut y[start..], n, count, o);
        let x = View::new(x, n, i, i);
        let w = View::new(values, count, i, i);
        matmul_sum(out, &[(x, w.t())], accumulate, precision);
    }
}

/// Rows of x from which converting quantised rows to f32 pays off where they could be multiplied in
/// their blocks.
const TILED: usize = 192;

/// Rows that are converted at a time.
const WIDENED: usize = 1024;

/// Looks up the rows `ids` of a table `[v, h]`.
pub(crate) fn embedding_rows(table: &Weight, ids: &[u32]) -> Result<Scratch> {
    let (_, h) = table.dims2()?;
    let mut out = Scratch::new(ids.len() * h);
    with_rows([table], |[table]| {
        for (out, &id) in out.chunks_exact_mut(h).zip(ids) {
            match table.range(id as usize..id as usize + 1, h) {
                Rows::F32(row) => out.copy_from_slice(row),
                Rows::Bf16(row) => out.iter_mut().zip(row).for_each(|(out, x)| *out = x.widen()),
                Rows::Blocks(dtype, row) => unpack(dtype, row, out),
            }
        }
    })?;
    Ok(out)
}

/// Computes RMSNorm of every row of x `[n, h]`.
pub(crate) fn norm_rows(team: Team<'_>, x: &[f32], weight: &[f32], eps: f32) -> Scratch {
    const ROWS: usize = 16;
    let mut y = Scratch::new(x.len());
    let h = weight.len();
    let parts = x.chunks(ROWS * h).zip(y.chunks_mut(ROWS * h)).collect();
    team.each(parts, 4 * x.len(), |(x, y): (&[f32], &mut [f32])| {
        x.chunks_exact(h)
            .zip(y.chunks_exact_mut(h))
            .for_each(|(x, y)| rms_norm_row(x, weight, eps, y));
    });
    y
}

/// Computes attention of consecutive queries `[c, H·d]`, the first at `position`, over the keys and
/// values of all positions up to the last query's, for (H, K, d) heads. The result does not depend
/// on where the two parts of `past` are split.
pub(crate) fn attend(
    q: &[f32],
    past: Past<'_>,
    position: usize,
    (heads, kv_heads, d): (usize, usize, usize),
    out: &mut [f32],
) {
    let width = heads * d;
    let stride = kv_heads * d;
    let count = q.len() / width;
    let [(shared_keys, shared_values), (keys, values)] = past;
    if count > 1 && !shared_keys.is_empty() {
        let keys = [shared_keys, keys].concat();
        let values = [shared_values, values].concat();
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

/// Returns the rows from one head's features on.
fn head(rows: &[f32], head: usize, d: usize) -> &[f32] {
    rows.get(head * d..).unwrap_or_default()
}

/// Computes attention of one head's `count` queries, [`BLOCK`] at a time. `width` is the row stride
/// of queries and outputs, `stride` that of keys and values.
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
        let probs = View::new(tile, rows, len, len);
        let values = View::new(values, len, d, stride);
        matmul(
            ViewMut::new(&mut out[start * width..], rows, d, width),
            probs,
            values,
            1.0,
            false,
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::decode::gemv::tests::numbers;

    #[test]
    fn attention_over_two_parts_has_the_bits_of_one() {
        for heads in [(4, 2, 8), (7, 1, 24), (12, 2, 64), (3, 3, 16)] {
            let (h, kv_heads, d) = heads;
            let len = 70;
            let stride = kv_heads * d;
            let keys = numbers(len * stride, 1);
            let values = numbers(len * stride, 2);
            for count in [1, 5] {
                let q = numbers(count * h * d, 3);
                let attend_at = |border: usize| {
                    let k = keys.split_at(border * stride);
                    let v = values.split_at(border * stride);
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
