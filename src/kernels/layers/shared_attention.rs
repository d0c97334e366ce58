//! Attention of packed sequences with shared prefixes, from the queries, keys and values of
//! computed tokens.

use crate::kernels::cpu::float::Float;
use crate::kernels::layers::attention::{attend, attend_backward, attention};
use crate::kernels::layers::attention_rows::AttentionRows;
use crate::kernels::layers::rows_at::rows_at;
use candle_core::{Result, Tensor};

impl AttentionRows {
    /// Computes [`attention()`] for the computed tokens.
    pub(crate) fn attend<T: Float>(&self, q: &[T], k: &[T], v: &[T]) -> Vec<T> {
        let Some(shared) = &self.shared else { return attend(q, k, v, &self.shape) };
        let [wide, narrow] = self.widths();
        let q = shared.spread(q, wide);
        let k = shared.spread(k, narrow);
        let v = shared.spread(v, narrow);
        shared.gather(&attend(&q, &k, &v, &self.shape), wide)
    }

    /// Computes (dq, dk, dv) of [`AttentionRows::attend`].
    pub(crate) fn attend_backward<T: Float>(
        &self,
        q: &[T],
        k: &[T],
        v: &[T],
        grad: &[T],
    ) -> (Vec<T>, Vec<T>, Vec<T>) {
        let Some(shared) = &self.shared else { return attend_backward(q, k, v, grad, &self.shape) };
        let [wide, narrow] = self.widths();
        let q = shared.spread(q, wide);
        let k = shared.spread(k, narrow);
        let v = shared.spread(v, narrow);
        let grad = shared.place(grad, wide);
        let (dq, dk, dv) = attend_backward(&q, &k, &v, &grad, &self.shape);
        (shared.sum(&dq, wide), shared.sum(&dk, narrow), shared.sum(&dv, narrow))
    }

    /// Computes [`attention()`] from the queries, keys and values of the computed tokens, with
    /// gradients.
    ///
    /// # Errors
    /// Mismatched shapes.
    pub fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let Some(shared) = &self.shared else { return attention(q, k, v, &self.shape) };
        let [q, k, v] = [q, k, v].map(|x| shared.spread_rows(x));
        rows_at(&attention(&q?, &k?, &v?, &self.shape)?, &shared.first)
    }
}
