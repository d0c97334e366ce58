//! Affine maps whose weight is frozen and quantised: the base of QLoRA (Dettmers et al. 2023).
//!
//! Forward and backward pass convert some hundred rows of the weight at a time, so its f32 copy is
//! never whole.

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{slice_of, with_float, with_slice, Float};
use crate::kernels::layers::affine::Affine;
use crate::kernels::layers::lora::linear_lora_over;
use crate::kernels::quantized::matrix::QuantizedMatrix;
use crate::kernels::quantized::weight::{check_device, Weight};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType};

/// Computes y = x Wᵀ + b for x `[n, i]` in f32 or f64, a quantised W `[o, i]` and a frozen b `[o]`;
/// y `[n, o]`. With `adapter` = (A `[r, i]`, B `[o, r]`, s), s (x Aᵀ) Bᵀ is added.
///
/// Values and gradients are those of [`linear_lora`](crate::kernels::linear_lora()) with
/// [`QuantizedMatrix::dequantize`], up to rounding.
///
/// # Errors
/// Mismatched shapes, a bias that is not frozen, or x that is not on the CPU.
pub fn quantized_linear(
    x: &Tensor,
    weight: &QuantizedMatrix,
    bias: Option<&Tensor>,
    adapter: Option<(&Tensor, &Tensor, f64)>,
) -> Result<Tensor> {
    let weight = Weight::Quantized(weight.clone());
    match adapter {
        Some((a, b, scale)) => linear_lora_over(x, &weight, bias, (a, b), scale),
        None => frozen_linear(x, &weight, bias),
    }
}

/// Computes y = x Wᵀ + b for frozen W and b; dx = g W.
pub(crate) fn frozen_linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    let (_, i) = x.dims2()?;
    let (o, wi) = weight.dims2()?;
    if i != wi || bias.is_some_and(|b| b.dims() != [o]) {
        candle_core::bail!(
            "frozen_linear: mismatched shapes: x {:?}, weight [{o}, {wi}], bias {:?}",
            x.shape(),
            bias.map(|b| b.dims())
        );
    }
    if weight.track_op() || bias.is_some_and(Tensor::track_op) {
        candle_core::bail!("frozen_linear: weight and bias must be frozen (detached)");
    }
    check_device(x, weight)?;
    let map = Affine { weight: weight.clone(), bias: bias.cloned(), adapter: None };
    x.contiguous()?.apply_op1(FrozenLinear(map.contiguous()?))
}

struct FrozenLinear(Affine);

impl FrozenLinear {
    fn forward<T: Float>(&self, x: &[T], n: usize) -> Result<Vec<T>> {
        let mut y = zeros(n * self.0.weight.rows());
        self.0.forward(x, &mut y, n, false)?;
        Ok(y)
    }

    fn backward<T: Float>(&self, grad: &Tensor) -> Result<Tensor> {
        let (n, _) = grad.dims2()?;
        let (_, i) = self.0.weight.dims2()?;
        let mut dx = zeros::<T>(n * i);
        with_slice(grad, |g| self.0.input_gradient(g, Some(&mut dx), n, false))?;
        Tensor::from_vec(dx, (n, i), grad.device())
    }
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen_linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, _) = layout.shape().dims2()?;
        let o = self.0.weight.rows();
        with_float!(BackendStorage::dtype(x), "frozen_linear", T => {
            let y = self.forward::<T>(slice_of(x, layout)?, n)?;
            Ok((T::to_cpu_storage_owned(y), (n, o).into()))
        })
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        with_float!(grad.dtype(), "frozen_linear", T => self.backward::<T>(&grad).map(Some))
    }
}
