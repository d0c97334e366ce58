//! Residual branches in sequence, with the gradient of the hidden state passed outside candle's
//! graph.
//!
//! Candle adds every gradient to fresh zeros, on its own pool of spinning threads. Here its graph
//! links only single zeros, as in [`bundle`](crate::kernels::autograd::bundle::bundle), and each
//! branch finds the gradient of its output where the next branch left it.

use crate::kernels::autograd::bundle::{token, Found};
use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::with_float;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Storage, Tensor, WithDType,
};

/// A residual branch: an operator on (x, bundle of weights) whose backward pass can run outside
/// candle's graph.
pub(crate) trait Residual: CustomOp2 + Send + Sync + 'static {
    /// Returns the gradient of x, if `wanted`, given that of the output; the gradients of the
    /// weights go to their bundle.
    fn backward(&self, x: &Tensor, wanted: bool, grad: &Tensor) -> Result<Option<Tensor>>;
}

/// A hidden state on its way through residual branches, on the CPU.
pub(crate) struct Chain {
    /// The value, detached.
    x: Tensor,
    /// A zero that keeps this step on candle's tape.
    link: Tensor,
    /// Where the backward pass leaves ∂L/∂x.
    gradient: Found,
}

impl Chain {
    pub(crate) fn begin(x: &Tensor) -> Result<Self> {
        let x = x.contiguous()?;
        let gradient = Found::default();
        let link = x.apply_op1(Begin { gradient: gradient.clone() })?;
        Ok(Self { x: x.detach(), link, gradient })
    }

    /// Returns the current hidden state.
    pub(crate) fn x(&self) -> &Tensor {
        &self.x
    }

    pub(crate) fn through(&self, branch: impl Residual, bundle: &Tensor) -> Result<Self> {
        let y = self.x.apply_op2_no_bwd(bundle, &branch)?;
        let gradient = Found::default();
        let before = self.gradient.clone();
        let after = gradient.clone();
        let link =
            self.link.apply_op2(bundle, Step { branch, x: self.x.clone(), before, after })?;
        Ok(Self { x: y, link, gradient })
    }

    pub(crate) fn end(self) -> Result<Tensor> {
        self.link.apply_op1(End { y: self.x, gradient: self.gradient })
    }
}

fn link(like: &CpuStorage) -> Result<(CpuStorage, Shape)> {
    with_float!(BackendStorage::dtype(like), "chain", T => {
        Ok((T::to_cpu_storage_owned(zeros(1)), 1.into()))
    })
}

struct Begin {
    gradient: Found,
}

impl CustomOp1 for Begin {
    fn name(&self) -> &'static str {
        "chain-begin"
    }

    fn cpu_fwd(&self, x: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        link(x)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        self.gradient.take(0)
    }
}

struct Step<B> {
    branch: B,
    x: Tensor,
    /// Where the backward pass leaves the gradients of the input and of the output.
    before: Found,
    after: Found,
}

impl<B: Residual> CustomOp2 for Step<B> {
    fn name(&self) -> &'static str {
        "chain-step"
    }

    fn cpu_fwd(
        &self,
        before: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        link(before)
    }

    fn bwd(
        &self,
        before: &Tensor,
        bundle: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(grad) = self.after.take(0)? else {
            candle_core::bail!("chain: backward of a branch before that of the next one");
        };
        let dx = self.branch.backward(&self.x, before.track_op(), &grad)?;
        self.before.set(vec![dx]);
        Ok((token(before)?, token(bundle)?))
    }
}

struct End {
    y: Tensor,
    gradient: Found,
}

impl CustomOp1 for End {
    fn name(&self) -> &'static str {
        "chain-end"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let (storage, layout) = self.y.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, self.y.shape().clone())),
            _ => candle_core::bail!("chain: hidden states must stay on the CPU"),
        }
    }

    fn bwd(&self, link: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.gradient.set(vec![Some(grad.contiguous()?)]);
        token(link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::autograd::gradient_sink::tests::{numbers, var};
    use crate::kernels::layers::feed_forward::{chain_feed_forward, feed_forward, plain};
    use candle_core::Var;

    /// Weights of `layers` feed-forward branches.
    fn layers(layers: usize) -> Vec<[Var; 4]> {
        let shapes = [&[4][..], &[6, 4], &[6, 4], &[4, 6]];
        (0..layers).map(|layer| std::array::from_fn(|i| var(shapes[i], 4 * layer + i))).collect()
    }

    fn apart(x: &Tensor, layers: &[[Var; 4]]) -> Tensor {
        let branch =
            |x: Tensor, w: &[Var; 4]| feed_forward(&x, w.each_ref().map(Var::as_tensor), 1e-6);
        layers.iter().try_fold(x.clone(), branch).unwrap()
    }

    fn chained(x: &Tensor, layers: &[[Var; 4]]) -> Tensor {
        let branch = |x: Chain, w: &[Var; 4]| {
            let (norm, maps) = plain(w.each_ref().map(Var::as_tensor));
            chain_feed_forward(&x, norm, maps, 1e-6)
        };
        layers.iter().try_fold(Chain::begin(x).unwrap(), branch).unwrap().end().unwrap()
    }

    #[test]
    fn a_chain_has_the_value_and_the_gradients_of_its_branches_each_time() {
        let x = var(&[5, 4], 99);
        let layers = layers(3);
        for frozen in [false, true] {
            let x = if frozen { x.detach() } else { x.as_tensor().clone() };
            let want = apart(&x, &layers);
            let got = chained(&x, &layers);
            assert_eq!(numbers(&got), numbers(&want));
            let want = want.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let loss = got.sqr().unwrap().sum_all().unwrap();
            for _ in 0..2 {
                let store = loss.backward().unwrap();
                for tensor in
                    layers.iter().flatten().map(Var::as_tensor).chain((!frozen).then_some(&x))
                {
                    assert_eq!(
                        numbers(store.get(tensor).unwrap()),
                        numbers(want.get(tensor).unwrap())
                    );
                }
            }
        }
    }

    #[test]
    fn a_chain_without_anything_to_learn_has_no_graph_and_one_of_no_branch_is_x() {
        let x = var(&[5, 4], 99);
        let frozen: Vec<[Var; 4]> = layers(1);
        let weights = frozen[0].each_ref().map(|w| w.detach());
        let chain = Chain::begin(&x.detach()).unwrap();
        let (norm, maps) = plain(weights.each_ref());
        let y = chain_feed_forward(&chain, norm, maps, 1e-6).unwrap().end().unwrap();
        assert!(!y.track_op());
        let same = Chain::begin(&x).unwrap().end().unwrap();
        assert_eq!(numbers(&same), numbers(&x));
        let store = (same * 3.0).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(numbers(store.get(&x).unwrap()), [3.0; 20]);
    }
}
