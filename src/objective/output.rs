//! The result of every loss term.

use candle_core::Tensor;

use crate::objective::metrics::Metrics;
use crate::objective::tensors::widened;
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
    /// A zero loss without gradient or metrics, for a term that does not apply to a batch; of the
    /// dtype and device that a loss of `like` has.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if the device refuses the allocation.
    pub fn zero(like: &Tensor) -> Result<Self> {
        let dtype = widened(like.dtype());
        let loss = Tensor::zeros((), dtype, like.device())?;
        Ok(Self { loss, metrics: Metrics::new() })
    }

    /// Adds two terms and merges their metrics. The sum has the dtype of this term.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if the devices differ.
    pub fn plus(mut self, other: LossOutput) -> Result<Self> {
        self.loss = self.loss.add(&other.loss.to_dtype(self.loss.dtype())?)?;
        self.metrics.merge(&other.metrics);
        Ok(self)
    }
}
