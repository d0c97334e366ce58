//! Operators with any number of weights, where candle's custom operators take at most three inputs.
//!
//! The weights are linked into one bundle, which is a single input. The operator leaves their
//! gradients in [`Found`], and the bundle's backward pass hands them to candle.

use crate::kernels::autograd::gradient_sink;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// Gradients of an operator's weights, in their order, on their way to its [`bundle`]; `None` for a
/// weight whose gradient is not needed or has been collected already.
#[derive(Clone, Default)]
pub(crate) struct Found(Arc<Mutex<Vec<Option<Tensor>>>>);

impl Found {
    pub(crate) fn set(&self, gradients: Vec<Option<Tensor>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = gradients;
    }

    /// Returns the gradient of a weight.
    ///
    /// # Errors
    /// The operator's backward pass has not run.
    pub(crate) fn take(&self, index: usize) -> Result<Option<Tensor>> {
        let mut gradients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match gradients.get_mut(index) {
            Some(gradient) => Ok(gradient.take()),
            None => {
                candle_core::bail!("bundle: backward of the weights before that of their operator")
            }
        }
    }
}

/// Links any number of weights into one input.
///
/// Its value is a single zero without meaning. Its backward pass, which candle runs after the
/// operator's, gives each weight the gradient found for it.
pub(crate) fn bundle<'a>(
    weights: impl IntoIterator<Item = &'a Tensor>,
    like: &Tensor,
    found: &Found,
) -> Result<Tensor> {
    let mut bundle = Tensor::zeros(1, like.dtype(), like.device())?;
    for (index, weight) in weights.into_iter().enumerate() {
        bundle = bundle.apply_op2(weight, Link { index, found: found.clone() })?;
    }
    Ok(bundle)
}

/// Operator that adds one more weight to a bundle.
struct Link {
    index: usize,
    found: Found,
}

impl CustomOp2 for Link {
    fn name(&self) -> &'static str {
        "bundle"
    }

    fn cpu_fwd(
        &self,
        bundle: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((bundle.try_clone(layout)?, 1.into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        bundle: &candle_core::CudaStorage,
        layout: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Ok((bundle.try_clone(layout)?, 1.into()))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        bundle: &candle_core::MetalStorage,
        layout: &Layout,
        _: &candle_core::MetalStorage,
        _: &Layout,
    ) -> Result<(candle_core::MetalStorage, Shape)> {
        Ok((bundle.try_clone(layout)?, 1.into()))
    }

    fn bwd(
        &self,
        bundle: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient_sink::offer(weight, self.found.take(self.index)?)?;
        Ok((token(bundle)?, gradient))
    }
}

/// Returns the gradient of an input that exists only to link operators: a zero, if it is tracked.
pub(crate) fn token(link: &Tensor) -> Result<Option<Tensor>> {
    link.track_op().then(|| link.zeros_like()).transpose()
}
