//! Scoring of the rows that are not skipped.

use crate::kernels::layers::rows_at::rows_at;
use crate::kernels::score::logprob_entropy::split;
use crate::kernels::score::scoring::Scoring;
use crate::kernels::score::support::RowSupport;
use crate::Result;
use candle_core::Tensor;
use std::sync::Arc;

/// Applies `op`, which returns `[2, k]` for k hidden states, to those of the rows that are not
/// skipped.
pub(crate) fn over_kept(
    hidden: &Tensor,
    scoring: Scoring,
    op: impl FnOnce(&Tensor, Scoring) -> Result<Tensor>,
) -> Result<(Tensor, Tensor)> {
    let n = scoring.ids.len();
    let kept: Vec<u32> =
        (0..n as u32).filter(|&i| scoring.row(i as usize) != RowSupport::Skipped).collect();
    if kept.len() == n {
        return split(&op(hidden, scoring)?);
    }
    if kept.is_empty() {
        let zero = (hidden.narrow(1, 0, 1)?.flatten_all()? * 0.0)?;
        return Ok((zero.clone(), zero));
    }
    let kept: Arc<[u32]> = kept.into();
    let both = op(&rows_at(hidden, &kept)?, scoring.select(&kept))?;
    split(&spread(&both, &kept, n)?)
}

/// Places the columns of `both` `[2, k]` at rows `kept` of n, with 0 at all others.
fn spread(both: &Tensor, kept: &[u32], n: usize) -> Result<Tensor> {
    let mut places = vec![kept.len() as u32; n];
    kept.iter().enumerate().for_each(|(i, &row)| places[row as usize] = i as u32);
    let zero = Tensor::zeros((2, 1), both.dtype(), both.device())?;
    let by_row = Tensor::cat(&[both, &zero], 1)?.t()?.contiguous()?;
    Ok(rows_at(&by_row, &places.into())?.t()?.contiguous()?)
}
