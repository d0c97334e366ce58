//! [`crate::kernels::attention()`] on a device: tiles of queries, products of whole groups of
//! heads, and memory that grows with one tile of scores.
//!
//! A tile's queries are laid out `[H, r, d]`, so that the H/K query heads of a key head, with r
//! rows each, are one matrix of r·H/K rows. Scores and their gradients are f32; as factors,
//! probabilities and gradients have the element type. The backward pass computes them again.

use crate::kernels::gpu::launch::{
    element_groups, size, start_of, Argument, DeviceStorage, Launch, Matrices, MatricesMut,
    Multiplication, View,
};
use crate::kernels::gpu::operator::{forward_on_devices, with_storage};
use crate::kernels::layers::attention_rows::AttentionShape;
use candle_core::{CustomOp3, DType, Layout, Result, Shape, Tensor};

/// Computes causal attention within every packed sequence; q `[n, H·d]`, k and v `[n, K·d]`.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape,
) -> Result<Tensor> {
    let op = Attention { shape: shape.clone() };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

struct Attention {
    shape: AttentionShape,
}

/// Most scores of a tile, over all heads.
const SCORES: usize = if cfg!(test) { 96 } else { 16 << 20 };

/// Queries per tile, at least, if the sequence has as many.
const LEAST: usize = if cfg!(test) { 2 } else { 64 };

/// A tile of queries of one sequence.
#[derive(Clone, Copy)]
struct Tile {
    /// First token of the sequence.
    start: usize,
    /// Tokens of the sequence.
    length: usize,
    /// First query of the tile, from the start of the sequence.
    first: usize,
    /// Queries.
    rows: usize,
}

impl Tile {
    /// Number of keys that the tile's last query sees.
    fn keys(&self) -> usize {
        self.first + self.rows
    }
}

/// Storages of a device with the place of their first element.
type Placed<'a, S> = (&'a S, usize);

impl Attention {
    fn tiles(&self) -> Vec<Tile> {
        let mut start = 0;
        let mut tiles = Vec::new();
        for &length in &self.shape.lengths {
            let most = (SCORES / (self.shape.heads * length)).max(LEAST);
            for first in (0..length).step_by(most) {
                tiles.push(Tile { start, length, first, rows: most.min(length - first) });
            }
            start += length;
        }
        tiles
    }

    /// Query heads per key head.
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    /// Elements of the largest tile: of queries `[H, r, d]` and of scores `[H, r, keys]`.
    fn room(&self, tiles: &[Tile]) -> (usize, usize) {
        let heads = self.shape.heads;
        let queries = tiles.iter().map(|tile| heads * tile.rows * self.shape.head_dim).max();
        let scores = tiles.iter().map(|tile| heads * tile.rows * tile.keys()).max();
        (queries.unwrap_or(0), scores.unwrap_or(0))
    }

    /// The keys or values that a tile sees, `[keys, d]` for every key head.
    fn keys<'a, S>(
        &self,
        (x, start): Placed<'a, S>,
        tile: Tile,
        transposed: bool,
    ) -> Matrices<'a, S> {
        let d = self.shape.head_dim;
        let stride = self.shape.kv_heads * d;
        Matrices { storage: x, start: start + tile.start * stride, stride, batch: d, transposed }
    }

    /// A tile of H matrices of r rows, as K matrices of r·H/K rows.
    fn by_key_head<'a, S>(
        &self,
        storage: &'a S,
        tile: Tile,
        width: usize,
        transposed: bool,
    ) -> Matrices<'a, S> {
        let batch = self.group() * tile.rows * width;
        Matrices { storage, start: 0, stride: width, batch, transposed }
    }

    fn multiplication(&self, rows: usize, columns: usize, terms: usize) -> Multiplication {
        let count = self.shape.kv_heads;
        Multiplication { rows, columns, terms, count, alpha: 1.0, accumulate: false }
    }

    /// Copies a tile's rows of x `[n, H·d]` to `[H, r, d]`.
    fn heads_first<S: DeviceStorage>(
        &self,
        device: &S::Device,
        (x, start): Placed<'_, S>,
        tile: Tile,
        out: &mut S,
    ) -> Result<()> {
        let AttentionShape { heads, head_dim, .. } = self.shape;
        let from = start + (tile.start + tile.first) * heads * head_dim;
        let x = Argument::In(x, from);
        swap_axes(device, x, Argument::Out(out, 0), [tile.rows, heads, head_dim])
    }

    /// Copies a tile `[H, r, d]` to its rows of `out` `[n, H·d]`.
    fn heads_last<S: DeviceStorage>(
        &self,
        device: &S::Device,
        x: &S,
        tile: Tile,
        out: &mut S,
    ) -> Result<()> {
        let AttentionShape { heads, head_dim, .. } = self.shape;
        let to = (tile.start + tile.first) * heads * head_dim;
        swap_axes(device, Argument::In(x, 0), Argument::Out(out, to), [heads, tile.rows, head_dim])
    }

    /// Computes a tile's probabilities `[H, r, keys]` from its queries `[H, r, d]`; with `keep`
    /// also in f32, in place of the scores.
    fn probabilities<S: DeviceStorage>(
        &self,
        device: &S::Device,
        (q, k): (&S, Placed<'_, S>),
        tile: Tile,
        (scores, p): (&mut S, &mut S),
        keep: bool,
    ) -> Result<()> {
        let rows = self.group() * tile.rows;
        let keys = tile.keys();
        let d = self.shape.head_dim;
        let scaled = Multiplication { alpha: self.scale(), ..self.multiplication(rows, keys, d) };
        let out = MatricesMut { storage: &mut *scores, start: 0, batch: rows * keys };
        let q = self.by_key_head(q, tile, d, false);
        S::multiply(device, out, q, self.keys(k, tile, true), scaled)?;
        let dtype = candle_core::backend::BackendStorage::dtype(p);
        let arguments = vec![
            Argument::Out(scores, 0),
            Argument::Out(p, 0),
            size(tile.rows)?,
            size(tile.first)?,
            size(keys)?,
            size(keep.into())?,
        ];
        let groups = self.shape.heads * tile.rows;
        S::launch(device, Launch { kernel: "causal_softmax", dtype, groups, arguments })
    }

    fn forward<S: DeviceStorage>(
        &self,
        q: &S,
        lq: &Layout,
        k: &S,
        lk: &Layout,
        v: &S,
        lv: &Layout,
    ) -> Result<(S, Shape)> {
        let device = q.device();
        let dtype = q.dtype();
        let d = self.shape.head_dim;
        let q = (q, start_of(lq)?);
        let k = (k, start_of(lk)?);
        let v = (v, start_of(lv)?);
        let tiles = self.tiles();
        let (queries, scores) = self.room(&tiles);
        let mut out = S::unfilled(device, lq.shape().elem_count(), dtype)?;
        let mut heads = S::unfilled(device, queries, dtype)?;
        let mut mixed = S::unfilled(device, queries, dtype)?;
        let mut wide = S::unfilled(device, scores, DType::F32)?;
        let mut p = S::unfilled(device, scores, dtype)?;
        for tile in tiles {
            let rows = self.group() * tile.rows;
            self.heads_first(device, q, tile, &mut heads)?;
            self.probabilities(device, (&heads, k), tile, (&mut wide, &mut p), false)?;
            let place = MatricesMut { storage: &mut mixed, start: 0, batch: rows * d };
            let p = self.by_key_head(&p, tile, tile.keys(), false);
            let size = self.multiplication(rows, d, tile.keys());
            S::multiply(device, place, p, self.keys(v, tile, false), size)?;
            self.heads_last(device, &mixed, tile, &mut out)?;
        }
        Ok((out, lq.shape().clone()))
    }

    /// (dq, dk, dv)
    fn gradients<S: DeviceStorage>(&self, [q, k, v, grad]: [&Tensor; 4]) -> Result<[Tensor; 3]> {
        let views = [View::of(q)?, View::of(k)?, View::of(v)?, View::of(grad)?];
        let [qs, ks, vs, gs] = views.each_ref().map(placed::<S>);
        let (qs, ks, vs, gs) = (qs?, ks?, vs?, gs?);
        let device = qs.0.device();
        let dtype = q.dtype();
        let AttentionShape { kv_heads, head_dim: d, lengths, .. } = &self.shape;
        let tiles = self.tiles();
        let (queries, scores) = self.room(&tiles);
        let longest = lengths.iter().max().copied().unwrap_or(0);
        let unfilled = |count, dtype| S::unfilled(device, count, dtype);
        let mut dq = unfilled(q.elem_count(), dtype)?;
        let mut dk = unfilled(k.elem_count(), dtype)?;
        let mut dv = unfilled(v.elem_count(), dtype)?;
        let mut heads = unfilled(queries, dtype)?;
        let mut grads = unfilled(queries, dtype)?;
        let mut dq_heads = unfilled(queries, dtype)?;
        let mut wide = unfilled(scores, DType::F32)?;
        let mut dp = unfilled(scores, DType::F32)?;
        let mut p = unfilled(scores, dtype)?;
        // Sums of one sequence over its tiles, [K, length, d].
        let mut dk_heads = unfilled(kv_heads * longest * d, DType::F32)?;
        let mut dv_heads = unfilled(kv_heads * longest * d, DType::F32)?;
        // The last tile of a sequence sees all keys, so that it may overwrite what others add to.
        for tile in tiles.into_iter().rev() {
            let rows = self.group() * tile.rows;
            let keys = tile.keys();
            let accumulate = keys < tile.length;
            self.heads_first(device, qs, tile, &mut heads)?;
            self.heads_first(device, gs, tile, &mut grads)?;
            self.probabilities(device, (&heads, ks), tile, (&mut wide, &mut p), true)?;
            let sum = Multiplication { accumulate, ..self.multiplication(keys, *d, rows) };
            let batch = tile.length * d;
            let place = MatricesMut { storage: &mut dv_heads, start: 0, batch };
            let p_t = self.by_key_head(&p, tile, keys, true);
            S::multiply(device, place, p_t, self.by_key_head(&grads, tile, *d, false), sum)?;

            let place = MatricesMut { storage: &mut dp, start: 0, batch: rows * keys };
            let g = self.by_key_head(&grads, tile, *d, false);
            let size_of_dp = self.multiplication(rows, keys, *d);
            S::multiply(device, place, g, self.keys(vs, tile, true), size_of_dp)?;
            let arguments = vec![
                Argument::In(&wide, 0),
                Argument::In(&dp, 0),
                Argument::Out(&mut p, 0),
                size(keys)?,
                Argument::F32(self.scale()),
            ];
            let groups = self.shape.heads * tile.rows;
            S::launch(device, Launch { kernel: "softmax_gradient", dtype, groups, arguments })?;

            let place = MatricesMut { storage: &mut dk_heads, start: 0, batch };
            let ds_t = self.by_key_head(&p, tile, keys, true);
            S::multiply(device, place, ds_t, self.by_key_head(&heads, tile, *d, false), sum)?;
            let place = MatricesMut { storage: &mut dq_heads, start: 0, batch: rows * d };
            let ds = self.by_key_head(&p, tile, keys, false);
            let size_of_dq = self.multiplication(rows, *d, keys);
            S::multiply(device, place, ds, self.keys(ks, tile, false), size_of_dq)?;
            self.heads_last(device, &dq_heads, tile, &mut dq)?;
            if tile.first == 0 {
                let to = tile.start * kv_heads * d;
                let dims = [*kv_heads, tile.length, *d];
                narrow_swap(device, &dk_heads, Argument::Out(&mut dk, to), dims, dtype)?;
                narrow_swap(device, &dv_heads, Argument::Out(&mut dv, to), dims, dtype)?;
            }
        }
        Ok([dq.tensor(q.shape()), dk.tensor(k.shape()), dv.tensor(v.shape())])
    }
}

fn placed<'a, S: DeviceStorage>(view: &'a View<'_>) -> Result<Placed<'a, S>> {
    Ok((view.get()?, view.start))
}

/// Copies x [a, b, d] to [b, a, d].
fn swap_axes<S: DeviceStorage>(
    device: &S::Device,
    x: Argument<'_, S>,
    y: Argument<'_, S>,
    dims: [usize; 3],
) -> Result<()> {
    let dtype = match &x {
        Argument::In(storage, _) => storage.dtype(),
        _ => candle_core::bail!("swap_axes: no tensor to read"),
    };
    swap(device, "swap_axes", dtype, vec![x, y], dims)
}

/// Copies x [a, b, d] in f32 to [b, a, d] in `dtype`.
fn narrow_swap<S: DeviceStorage>(
    device: &S::Device,
    x: &S,
    y: Argument<'_, S>,
    dims: [usize; 3],
    dtype: DType,
) -> Result<()> {
    swap(device, "swap_axes_narrow", dtype, vec![Argument::In(x, 0), y], dims)
}

fn swap<'a, S: DeviceStorage>(
    device: &S::Device,
    kernel: &'static str,
    dtype: DType,
    mut arguments: Vec<Argument<'a, S>>,
    dims: [usize; 3],
) -> Result<()> {
    for dim in dims {
        arguments.push(size(dim)?);
    }
    let groups = element_groups(dims.iter().product());
    S::launch(device, Launch { kernel, dtype, groups, arguments })
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    forward_on_devices!(q lq, k lk, v lv);

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let [dq, dk, dv] = with_storage!(q, S => self.gradients::<S>([q, k, v, &grad]))?;
        Ok((Some(dq), Some(dk), Some(dv)))
    }
}
