//! Rows of a matrix by their numbers, and sums of rows: each the other's gradient.

use crate::kernels::dispatch::on_device;
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// Returns rows `index` of x `[m, h]`. Backward: the sum of the gradients of a row's copies.
pub(crate) fn rows_at(x: &Tensor, index: &Arc<[u32]>) -> Result<Tensor> {
    on_device!(x => crate::kernels::gpu::rows::gather_rows(x, index));
    x.index_select(&Tensor::new(&index[..], x.device())?, 0)
}

/// Adds each row i of x `[n, h]` to row `index[i]` of `[count, h]`, in order.
pub(crate) fn row_sums(x: &Tensor, index: &Arc<[u32]>, count: usize) -> Result<Tensor> {
    on_device!(x => crate::kernels::gpu::rows::sum_rows(x, index, count));
    let zeros = Tensor::zeros((count, x.dim(1)?), x.dtype(), x.device())?;
    zeros.index_add(&Tensor::new(&index[..], x.device())?, x, 0)
}
