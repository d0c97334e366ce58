//! Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): keeps a block's input and
//! recomputes its activations in the backward pass.

use crate::kernels::autograd::bundle::{bundle, token, Found};
use crate::kernels::autograd::existing::existing_value;
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, Var};

/// Computes f(x) and keeps only x and the value; the backward pass computes f again.
///
/// `weights` are all tensors besides x that f depends on and that may need gradients. Values and
/// gradients are bitwise identical to those of f, for the cost of a second forward pass. f must be
/// deterministic.
///
/// # Errors
/// The errors of f.
pub fn checkpoint<'a>(
    x: &Tensor,
    weights: impl IntoIterator<Item = &'a Tensor>,
    f: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let value = f(&x.detach())?.detach().contiguous()?;
    let value =
        if value.layout().start_offset() == 0 { value } else { value.force_contiguous()? };
    let weights: Vec<Tensor> =
        weights.into_iter().filter(|weight| weight.track_op()).cloned().collect();
    if !x.track_op() && weights.is_empty() {
        return Ok(value);
    }
    let found = Found::default();
    let bundle = bundle(&weights, x, &found)?;
    x.apply_op2(&bundle, Checkpoint { value, weights, found, f: Box::new(f) })
}

type Function = dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync;

struct Checkpoint {
    value: Tensor,
    weights: Vec<Tensor>,
    found: Found,
    f: Box<Function>,
}

impl CustomOp2 for Checkpoint {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    existing_value!();

    fn bwd(
        &self,
        x: &Tensor,
        bundle: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let input = Var::from_tensor(&x.detach())?;
        let again = (self.f)(&input)?;
        let seed = again.apply_op1(Seed { grad: grad.clone() })?;
        let mut store = seed.backward()?;
        self.found.set(self.weights.iter().map(|weight| store.remove(weight)).collect());
        let dx = x.track_op().then(|| store.remove(&input)).flatten();
        Ok((dx, token(bundle)?))
    }
}

/// An operator without meaning whose input has the gradient `grad`.
struct Seed {
    grad: Tensor,
}

/// The forward pass on one back end: a single zero.
macro_rules! zero {
    ($name:ident $Storage:ident) => {
        fn $name(
            &self,
            y: &candle_core::$Storage,
            _: &Layout,
        ) -> Result<(candle_core::$Storage, Shape)> {
            let one = Shape::from(1);
            Ok((y.device().zeros_impl(&one, y.dtype())?, one))
        }
    };
}

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    zero!(cpu_fwd CpuStorage);
    #[cfg(feature = "cuda")]
    zero!(cuda_fwd CudaStorage);
    #[cfg(feature = "metal")]
    zero!(metal_fwd MetalStorage);

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.grad.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::layers::feed_forward::feed_forward;
    use crate::kernels::layers::linear::linear;
    use candle_core::{DType, Device};

    fn var(shape: &[usize], seed: usize) -> Var {
        let n: usize = shape.iter().product();
        let values: Vec<f32> =
            (0..n).map(|i| ((i * 7919 + seed * 104_729) % 997) as f32 / 500.0 - 1.0).collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    fn bits(x: &Tensor) -> Vec<u32> {
        x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    /// Two blocks of a feed-forward branch and a linear map, the second with a frozen bias.
    fn gradients(checkpointed: bool) -> Vec<Vec<u32>> {
        let x = var(&[5, 8], 1);
        let weights: Vec<Var> = [&[8][..], &[12, 8], &[12, 8], &[8, 12], &[8, 8]]
            .into_iter()
            .enumerate()
            .map(|(i, shape)| var(shape, i + 2))
            .collect();
        let frozen = var(&[8], 9).detach();
        let tensors: Vec<Tensor> = weights.iter().map(|w| w.as_tensor().clone()).collect();
        let block = move |x: &Tensor| {
            let [norm, gate, up, down, w] = [0, 1, 2, 3, 4].map(|i| &tensors[i]);
            linear(&feed_forward(x, [norm, gate, up, down], 1e-6)?, w, Some(&frozen))
        };
        let mut y = x.as_tensor().clone();
        for _ in 0..2 {
            y = if checkpointed {
                checkpoint(&y, weights.iter().map(|w| w.as_tensor()), block.clone()).unwrap()
            } else {
                block(&y).unwrap()
            };
        }
        let store = y.powf(2.0).unwrap().sum_all().unwrap().backward().unwrap();
        let mut all = vec![bits(&y)];
        all.extend(std::iter::once(&x).chain(&weights).map(|v| bits(store.get(v).unwrap())));
        all
    }

    #[test]
    fn values_and_gradients_are_the_same_to_the_bit() {
        assert_eq!(gradients(true), gradients(false));
    }

    #[test]
    fn what_needs_no_gradient_has_no_graph() {
        let x = var(&[2, 3], 1).detach();
        let y = checkpoint(&x, [], |x| x * 2.0).unwrap();
        assert!(!y.track_op() && y.dtype() == DType::F32);
    }
}
