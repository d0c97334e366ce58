//! [`crate::kernels::linear_logprob_entropy()`] on a device: logits in f32, one tile of rows at a
//! time, computed again for the backward pass.

use crate::kernels::autograd::existing::existing_value;
use crate::kernels::gpu::linear::settled;
use crate::kernels::gpu::logprob_entropy::{evaluate, Evaluated};
use crate::kernels::gpu::product::{add_product, product, Factor};
use crate::kernels::score::scoring::Scoring;
use crate::Result;
use candle_core::{CustomOp2, DType, Tensor};
use std::sync::{Mutex, PoisonError};

/// Rows of a tile, at least: enough for products at full speed.
const LEAST: usize = if cfg!(test) { 2 } else { 1024 };

/// Computes (log p, H) stacked `[2, n]` in f32 of hidden states `[n, h]` and a head `[v, h]`.
/// `chunk_bytes` of logits exist at a time, or [`LEAST`] rows of them.
pub(crate) fn linear_logprob_entropy(
    hidden: &Tensor,
    weight: &Tensor,
    scoring: &Scoring,
    chunk_bytes: usize,
) -> Result<Tensor> {
    let hidden = hidden.contiguous()?;
    let weight = weight.contiguous()?;
    let n = hidden.dim(0)?;
    let rows = (chunk_bytes / (4 * scoring.vocabulary)).max(LEAST);
    let keep = n <= rows && (hidden.track_op() || weight.track_op());
    let mut values = Vec::new();
    let mut tiles = Vec::new();
    for start in (0..n).step_by(rows) {
        let end = n.min(start + rows);
        let ids: Vec<u32> = (start as u32..end as u32).collect();
        let x = hidden.detach().narrow(0, start, end - start)?;
        let logits = logits_of(&x, &weight.detach())?;
        let (value, evaluated) = evaluate(&logits, scoring.select(&ids).on(x.device())?)?;
        values.push(value);
        let kept = Mutex::new(keep.then_some(logits));
        tiles.push(Tile { start, rows: end - start, evaluated, kept });
    }
    let value = Tensor::cat(&values, 1)?;
    Ok(hidden.apply_op2(&weight, Head { value, tiles })?)
}

/// x Wᵀ in f32.
fn logits_of(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    product(Factor::of(x), Factor::transpose_of(weight), 1.0, DType::F32)
}

/// Consecutive rows.
struct Tile {
    start: usize,
    rows: usize,
    evaluated: Evaluated,
    /// The logits, if all rows are one tile; the first backward pass uses them up.
    kept: Mutex<Option<Tensor>>,
}

impl Tile {
    /// ∂L/∂logits in the type of `x`, the tile's hidden states.
    fn gradient(&self, x: &Tensor, weight: &Tensor, grad: &Tensor) -> candle_core::Result<Tensor> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let logits = match kept {
            Some(logits) => logits,
            None => logits_of(x, weight)?,
        };
        let grad = grad.narrow(1, self.start, self.rows)?.contiguous()?;
        self.evaluated.gradient_in_place(&logits, &grad)?;
        logits.to_dtype(x.dtype())
    }
}

struct Head {
    value: Tensor,
    tiles: Vec<Tile>,
}

impl CustomOp2 for Head {
    fn name(&self) -> &'static str {
        "linear_logprob_entropy"
    }

    existing_value!();

    fn bwd(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let w = weight.detach();
        let mut dx = Vec::new();
        let mut dw: Option<Tensor> = None;
        for tile in &self.tiles {
            let x = hidden.detach().narrow(0, tile.start, tile.rows)?;
            let g = tile.gradient(&x, &w, grad)?;
            if hidden.track_op() {
                dx.push(product(Factor::of(&g), Factor::of(&w), 1.0, x.dtype())?);
            }
            match &dw {
                _ if !weight.track_op() => {}
                Some(sum) => add_product(sum, Factor::transpose_of(&g), Factor::of(&x), 1.0)?,
                None => {
                    let (g, x) = (Factor::transpose_of(&g), Factor::of(&x));
                    dw = Some(product(g, x, 1.0, DType::F32)?);
                }
            }
        }
        let dx = hidden.track_op().then(|| Tensor::cat(&dx, 0)).transpose()?;
        let dw = match dw {
            Some(dw) => settled(weight, dw)?,
            None => None,
        };
        Ok((dx, dw))
    }
}
