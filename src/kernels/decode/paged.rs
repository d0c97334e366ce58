//! Decoding on a GPU: the operations over a cache in pages. Devices without kernels have none.

use crate::kernels::dispatch::on_device;
use crate::kernels::layers::attention_rows::AttentionShape;
use crate::kernels::layers::rope_table::RopeTable;
use candle_core::{Result, Tensor};

/// Positions per page.
pub(crate) const PAGE: usize = 16;

/// The places of query tokens in a cache, on its device.
#[cfg_attr(not(any(test, feature = "cuda", feature = "metal")), allow(dead_code))]
pub(crate) struct PagedQueries {
    /// Pages of every row of a call, u32 `[r, width]`.
    pub(crate) tables: Tensor,
    /// Pages per row of `tables`.
    pub(crate) width: usize,
    /// Row of `tables` of each query token, u32 `[n]`.
    pub(crate) rows: Tensor,
    /// Position of each query token in its row, u32 `[n]`; it sees the positions up to its own.
    pub(crate) positions: Tensor,
    /// The largest number of positions that a query sees.
    pub(crate) longest: usize,
}

/// What to sample from rows of logits, and with which draws.
#[cfg_attr(not(any(test, feature = "cuda", feature = "metal")), allow(dead_code))]
pub(crate) struct Draws {
    /// The place in the cumulative distribution, one per row; a negative number takes the lowest id
    /// among the largest logits.
    pub(crate) uniform: Vec<f32>,
    /// First id of each row's support in `allowed`, and the number of its ids or
    /// [`Draws::WHOLE`].
    pub(crate) start: Vec<u32>,
    pub(crate) count: Vec<u32>,
    pub(crate) allowed: Vec<u32>,
    /// 1/τ.
    pub(crate) inverse_temperature: f32,
}

impl Draws {
    /// The count of a row whose support is the whole vocabulary.
    pub(crate) const WHOLE: u32 = u32::MAX;
}

fn unsupported<T>(tensor: &Tensor) -> Result<T> {
    let device = tensor.device().location();
    candle_core::bail!("decoding: no kernels for {:?} on {device:?}", tensor.dtype())
}

/// Row `index[i]` of `into` becomes row i of x, in its memory; the indices (u32) differ.
pub(crate) fn scatter_rows(x: &Tensor, index: &Tensor, into: &Tensor) -> Result<()> {
    let _ = (index, into);
    on_device!(x => crate::kernels::gpu::decode::scatter_rows(x, index, into));
    unsupported(x)
}

/// Computes the attention of q `[n, H·d]` over pages of keys and values `[pages · PAGE, K·d]`.
pub(crate) fn attend_pages(
    q: &Tensor,
    pages: &[Tensor; 2],
    queries: &PagedQueries,
    shape: &AttentionShape,
) -> Result<Tensor> {
    let _ = (pages, queries, shape);
    on_device!(q => crate::kernels::gpu::decode::attend_pages(q, pages, queries, shape));
    unsupported(q)
}

/// Rotates the heads of x `[n, heads·d]` by the angles of `positions` (u32 `[n]`).
pub(crate) fn rope_at(x: &Tensor, table: &RopeTable, positions: &Tensor) -> Result<Tensor> {
    let _ = (table, positions);
    on_device!(x => {
        crate::kernels::gpu::rope::rope(x, table.on(x.device())?, positions.clone())
    });
    unsupported(x)
}

/// Computes x Wᵀ in f32.
pub(crate) fn wide_logits(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let _ = weight;
    on_device!(x => {
        use crate::kernels::gpu::product::{product, Factor};
        let dtype = candle_core::DType::F32;
        product(Factor::of(x), Factor::transpose_of(weight), 1.0, dtype)
    });
    unsupported(x)
}

/// Samples a token of every row of logits f32 `[n, v]`. Returns its id, its log p and the entropy
/// of its distribution in nats; the id is -1 if a logit is NaN or the largest is infinite.
pub(crate) fn sample_rows(logits: &Tensor, draws: &Draws) -> Result<Vec<[f32; 3]>> {
    let _ = draws;
    on_device!(logits => crate::kernels::gpu::decode::sample_rows(logits, draws));
    unsupported(logits)
}
