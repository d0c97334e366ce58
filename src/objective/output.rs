//! The result of every loss term.

use candle_core::Tensor;

use crate::objective::metrics::Metrics;
use crate::Result;

/// A scalar to be minimised, with the metrics that belong to it.
#[derive(Clone, Debug)]
pub struct LossOutput {
    /// The loss; differentiable if the term is.
    pub loss: Tensor,
    /// Metrics that add up over micro-batches.
    pub metrics: Metrics,
}

impl LossOutput {
    /// Adds two terms and merges their metrics.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if dtypes or devices differ.
    pub fn plus(mut self, other: LossOutput) -> Result<Self> {
        self.loss = self.loss.add(&other.loss)?;
        self.metrics.merge(&other.metrics);
        Ok(self)
    }
}
