//! The tensor side of [`TokenBatch`]: masking, aggregation and copies to the host.
//! Suffixes: b rows, t token positions.
//!
//! Mask and weights are host values. Every loss term needs them as tensors, several times for one
//! micro-batch, and on a GPU each upload costs. So a batch builds them once per device and dtype.
//! Values in `bf16` or `f16` are widened to `f32` here, before any sum or exponential: eight bits
//! of precision are too few for a mean over thousands of tokens.

use candle_core::{DType, Device, Tensor};

use crate::objective::aggregate::TokenBatch;
use crate::objective::readout::Readout;
use crate::{Error, Result};

/// Returns the dtype that losses are computed in: `f32` for half precision.
pub(crate) fn widened(dtype: DType) -> DType {
    match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        other => other,
    }
}

impl TokenBatch {
    /// Returns host values, row-major [B·T], as a tensor [B, T] of the dtype and device of `like`.
    ///
    /// # Errors
    /// [`Error::Candle`] if there are not B·T values or the device refuses the allocation.
    pub fn tensor_like(&self, values: &[f64], like: &Tensor) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, self.shape(), &Device::Cpu)?
            .to_dtype(like.dtype())?
            .to_device(like.device())?)
    }

    /// Returns the aggregate Σ w·x as a differentiable scalar, `f32` for a half-precision `x_bt`.
    /// Masked-out entries of `x_bt` may hold anything.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x_bt` is not [B, T].
    pub fn aggregate(&self, x_bt: &Tensor) -> Result<Tensor> {
        let x_bt = self.zero_masked("x_bt", x_bt)?;
        let build = || self.tensor_like(self.weights(), &x_bt);
        let weights_bt = self.cache().get(x_bt.device(), x_bt.dtype(), build)?;
        Ok(x_bt.mul(&weights_bt)?.sum_all()?)
    }

    /// Returns the sum of `x_bt` over the masked-in tokens as a detached scalar tensor, for
    /// metrics.
    pub(crate) fn token_sum(&self, x_bt: &Tensor) -> Result<Tensor> {
        Ok(self.zero_masked("x_bt", &x_bt.detach())?.sum_all()?)
    }

    /// Returns `x_bt` with zeros where masked out, `f32` for half precision. Gradients flow to the
    /// other entries only.
    pub(crate) fn zero_masked(&self, name: &'static str, x_bt: &Tensor) -> Result<Tensor> {
        let (rows, tokens) = self.shape();
        if x_bt.dims() != [rows, tokens] {
            let expected = format!("[rows, tokens] = [{rows}, {tokens}]");
            return Err(Error::Shape { name, expected, got: x_bt.dims().to_vec() });
        }
        let build = || {
            let mask: Vec<u8> = self.layout().mask().iter().map(|&m| u8::from(m)).collect();
            Ok(Tensor::from_vec(mask, (rows, tokens), x_bt.device())?)
        };
        let mask_bt = self.cache().get(x_bt.device(), DType::U8, build)?;
        let x_bt = x_bt.to_dtype(widened(x_bt.dtype()))?;
        Ok(mask_bt.where_cond(&x_bt, &x_bt.zeros_like()?)?)
    }

    /// Copies `x_bt` to the host, row-major [B·T], zero where masked out.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x_bt` is not [B, T]; [`Error::NonFinite`] if a masked-in entry is NaN
    /// or infinite.
    pub fn host(&self, name: &'static str, x_bt: &Tensor) -> Result<Vec<f64>> {
        let x_bt = self.zero_masked(name, &x_bt.detach())?;
        let values = Readout::copy(&[x_bt])?;
        self.check_finite(name, &values)?;
        Ok(values)
    }

    /// Refuses NaN and infinities in host values [B·T].
    pub(crate) fn check_finite(&self, name: &'static str, values: &[f64]) -> Result<()> {
        let Some(i) = values.iter().position(|value| !value.is_finite()) else { return Ok(()) };
        let tokens = self.layout().tokens();
        let at = format!("row {}, token {}", i / tokens, i % tokens);
        Err(Error::NonFinite { name: name.into(), value: values[i], at })
    }

    fn shape(&self) -> (usize, usize) {
        (self.layout().rows(), self.layout().tokens())
    }
}
