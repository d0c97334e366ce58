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
        let inputs = [qs?, ks?, vs?, gs?];
        let device = inputs[0].0.device();
        let dtype = q.dtype();
        let AttentionShape { kv_heads, head_dim, .. } = self.shape;
        let tiles = self.tiles();
        let mut buffers = self.buffers::<S>(device, dtype, &tiles)?;
        let mut dq = S::unfilled(device, q.elem_count(), dtype)?;
        let mut dk = S::unfilled(device, k.elem_count(), dtype)?;
        let mut dv = S::unfilled(device, v.elem_count(), dtype)?;
        // The last tile of a sequence sees all keys, so that it may overwrite what others add to.
        for tile in tiles.into_iter().rev() {
            self.tile_gradients(device, inputs, tile, &mut buffers)?;
            self.heads_last(device, &buffers.dq, tile, &mut dq)?;
            if tile.first == 0 {
                let to = tile.start * kv_heads * head_dim;
                let dims = [kv_heads, tile.length, head_dim];
                narrow_swap(device, &buffers.dk, Argument::Out(&mut dk, to), dims, dtype)?;
                narrow_swap(device, &buffers.dv, Argument::Out(&mut dv, to), dims, dtype)?;
            }
        }
        Ok([dq.tensor(q.shape()), dk.tensor(k.shape()), dv.tensor(v.shape())])
    }

    fn buffers<S: DeviceStorage>(
        &self,
        device: &S::Device,
        dtype: DType,
        tiles: &[Tile],
    ) -> Result<Backward<S>> {
        let (queries, scores) = self.room(tiles);
        let longest = self.shape.lengths.iter().max().copied().unwrap_or(0);
        let sums = self.shape.kv_heads * longest * self.shape.head_dim;
        let unfilled = |count, dtype| S::unfilled(device, count, dtype);
        Ok(Backward {
            q: unfilled(queries, dtype)?,
            grad: unfilled(queries, dtype)?,
            dq: unfilled(queries, dtype)?,
            wide: unfilled(scores, DType::F32)?,
            dp: unfilled(scores, DType::F32)?,
            p: unfilled(scores, dtype)?,
            dk: unfilled(sums, DType::F32)?,
            dv: unfilled(sums, DType::F32)?,
        })
    }

    /// Computes dq of a tile and adds to its sequence's dk and dv.
    fn tile_gradients<S: DeviceStorage>(
        &self,
        device: &S::Device,
        [q, k, v, grad]: [Placed<'_, S>; 4],
        tile: Tile,
        b: &mut Backward<S>,
    ) -> Result<()> {
        let d = self.shape.head_dim;
        let rows = self.group() * tile.rows;
        let keys = tile.keys();
        let batch = tile.length * d;
        let sum =
            Multiplication { accumulate: keys < tile.length, ..self.multiplication(keys, d, rows) };
        self.heads_first(device, q, tile, &mut b.q)?;
        self.heads_first(device, grad, tile, &mut b.grad)?;
        self.probabilities(device, (&b.q, k), tile, (&mut b.wide, &mut b.p), true)?;
        let p = self.by_key_head(&b.p, tile, keys, true);
        let g = self.by_key_head(&b.grad, tile, d, false);
        let dv = MatricesMut { storage: &mut b.dv, start: 0, batch };
        S::multiply(device, dv, p, g, sum)?;

        let dp = MatricesMut { storage: &mut b.dp, start: 0, batch: rows * keys };
        let g = self.by_key_head(&b.grad, tile, d, false);
        let size_of_dp = self.multiplication(rows, keys, d);
        S::multiply(device, dp, g, self.keys(v, tile, true), size_of_dp)?;
        self.score_gradients(device, tile, b)?;

        let ds = self.by_key_head(&b.p, tile, keys, true);
        let q = self.by_key_head(&b.q, tile, d, false);
        let dk = MatricesMut { storage: &mut b.dk, start: 0, batch };
        S::multiply(device, dk, ds, q, sum)?;
        let dq = MatricesMut { storage: &mut b.dq, start: 0, batch: rows * d };
        let ds = self.by_key_head(&b.p, tile, keys, false);
        let size_of_dq = self.multiplication(rows, d, keys);
        S::multiply(device, dq, ds, self.keys(k, tile, false), size_of_dq)
    }

    /// Replaces the probabilities by the gradients of the scores.
    fn score_gradients<S: DeviceStorage>(
        &self,
        device: &S::Device,
        tile: Tile,
        b: &mut Backward<S>,
    ) -> Result<()> {
        let dtype = b.p.dtype();
        let arguments = vec![
            Argument::In(&b.wide, 0),
            Argument::In(&b.dp, 0),
            Argument::Out(&mut b.p, 0),
            size(tile.keys())?,
            Argument::F32(self.scale()),
        ];
        let groups = self.shape.heads * tile.rows;
        S::launch(device, Launch { kernel: "softmax_gradient", dtype, groups, arguments })
    }
}

/// Buffers of the backward pass.
struct Backward<S> {
    /// A tile's queries, and the gradients of its output and of its queries, `[H, r, d]`.
    q: S,
    grad: S,
    dq: S,
    /// A tile's probabilities and their gradients in f32, `[H, r, keys]`.
    wide: S,
    dp: S,
    /// The probabilities as factors, then the gradients of the scores.
    p: S,
    /// Sums over the tiles of a sequence in f32, `[K, length, d]`.
    dk: S,
    dv: S,
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
