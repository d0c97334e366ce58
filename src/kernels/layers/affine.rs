//! Affine maps of the fused operators: a weight, which may be quantised, a bias, a LoRA adapter.

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{with_slice, with_slices, Float};
use crate::kernels::cpu::narrow::{narrow_product, narrow_product_transposed};
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::layers::residual::{add, multiply, row_sum, tensor_like};
use crate::kernels::quantized::weight::Weight;
use candle_core::{Result, Tensor};
use rayon::prelude::*;

/// The map x Wᵀ + b + s (x Aᵀ) Bᵀ for x `[n, i]`, W `[o, i]`, b `[o]`.
#[derive(Debug, Clone)]
pub(crate) struct Affine {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Tensor>,
    pub(crate) adapter: Option<Adapter>,
}

/// A LoRA adapter: A `[r, i]`, B `[o, r]` and the scale s.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    pub(crate) a: Tensor,
    pub(crate) b: Tensor,
    pub(crate) scale: f64,
}

impl Affine {
    /// The map x Wᵀ + b.
    pub(crate) fn new(weight: &Tensor, bias: Option<&Tensor>) -> Self {
        Self { weight: weight.clone().into(), bias: bias.cloned(), adapter: None }
    }

    /// Returns the map with its tensors in contiguous memory.
    pub(crate) fn contiguous(self) -> Result<Self> {
        let weight = match self.weight {
            Weight::Dense(weight) => Weight::Dense(weight.contiguous()?),
            quantized => quantized,
        };
        let bias = self.bias.map(|bias| bias.contiguous()).transpose()?;
        let contiguous = |Adapter { a, b, scale }| -> Result<Adapter> {
            Ok(Adapter { a: a.contiguous()?, b: b.contiguous()?, scale })
        };
        Ok(Self { weight, bias, adapter: self.adapter.map(contiguous).transpose()? })
    }

    /// Returns true if this is a map from `i` to `o` features.
    pub(crate) fn fits(&self, o: usize, i: usize) -> bool {
        let bias_fits = self.bias.as_ref().is_none_or(|bias| bias.dims() == [o]);
        let adapter_fits = self.adapter.as_ref().is_none_or(|Adapter { a, b, .. }| {
            let rank = a.dims().first().copied().unwrap_or_default();
            a.dims() == [rank, i] && b.dims() == [o, rank]
        });
        self.weight.dims() == [o, i] && bias_fits && adapter_fits
    }

    /// The shapes of weight, bias, A and B.
    pub(crate) fn shapes(&self) -> Vec<Vec<usize>> {
        let others = self.tensors().skip(usize::from(self.weight.dense().is_some()));
        let others = others.map(|tensor| tensor.dims().to_vec());
        std::iter::once(self.weight.dims()).chain(others).collect()
    }

    /// The tensors: weight (if it is one), bias, A and B.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let adapter = self.adapter.iter().flat_map(|adapter| [&adapter.a, &adapter.b]);
        self.weight.dense().into_iter().chain(&self.bias).chain(adapter)
    }

    /// Returns true if a gradient is needed that depends on the input.
    pub(crate) fn learns_from_input(&self) -> bool {
        self.weight.track_op() || self.adapter.as_ref().is_some_and(|adapter| adapter.a.track_op())
    }

    /// y = x Wᵀ + b + u Bᵀ, or y += the same if `accumulate`, for `n` rows of x. Returns
    /// u = s x Aᵀ, which is empty without an adapter.
    pub(crate) fn forward<T: Float>(
        &self,
        x: &[T],
        y: &mut [T],
        n: usize,
        accumulate: bool,
    ) -> Result<Vec<T>> {
        let (_, i) = self.weight.dims2()?;
        if let Some(bias) = &self.bias {
            with_slice::<T, _>(bias, |bias| {
                y.par_chunks_mut(bias.len()).with_min_len(32).for_each(|y| {
                    if accumulate {
                        add(y, bias);
                    } else {
                        y.copy_from_slice(bias);
                    }
                });
                Ok(())
            })?;
        }
        let accumulate = accumulate || self.bias.is_some();
        let Some(Adapter { a, b, scale }) = &self.adapter else {
            self.weight.product(x, None, y, n, accumulate)?;
            return Ok(vec![]);
        };
        let r = a.dim(0)?;
        with_slices::<T, _, 2>([a, b], |[a, b]| {
            let u = scaled(View::new(x, n, i, i), View::new(a, r, i, i).t(), *scale);
            self.weight.product(x, Some((&u, b)), y, n, accumulate)?;
            Ok(u)
        })
    }

    /// dx = g W + e A for `n` rows of the output's gradient g, or dx += the same if `accumulate`;
    /// without `dx`, nothing is computed for it. Returns e = s g B, which is empty without an
    /// adapter.
    pub(crate) fn input_gradient<T: Float>(
        &self,
        g: &[T],
        dx: Option<&mut [T]>,
        n: usize,
        accumulate: bool,
    ) -> Result<Vec<T>> {
        let (o, _) = self.weight.dims2()?;
        let of_weight = |e: Option<(&[T], &[T])>| match dx {
            Some(dx) => self.weight.add_input_gradient(g, e, dx, n, accumulate),
            None => Ok(()),
        };
        let Some(Adapter { a, b, scale }) = &self.adapter else {
            of_weight(None)?;
            return Ok(vec![]);
        };
        let r = a.dim(0)?;
        with_slices::<T, _, 2>([a, b], |[a, b]| {
            let e = scaled(View::new(g, n, o, o), View::new(b, o, r, r), *scale);
            of_weight(Some((&e, a)))?;
            Ok(e)
        })
    }
}

/// s x m for a matrix m of few columns.
fn scaled<T: Float>(x: View<'_, T>, m: View<'_, T>, scale: f64) -> Vec<T> {
    let mut out = narrow_product(x, m);
    let scale = T::from_f64(scale);
    for value in &mut out {
        *value *= scale;
    }
    out
}

/// Gradients of an [`Affine`]'s tensors, added up over blocks of rows; `None` where none is needed.
pub(crate) struct Sums<T> {
    weight: Option<Vec<T>>,
    bias: Option<Vec<T>>,
    /// The transpose, `[i, r]`.
    a: Option<Vec<T>>,
    b: Option<Vec<T>>,
}

impl<T: Float> Sums<T> {
    pub(crate) fn new(map: &Affine) -> Self {
        let room = |tensor: Option<&Tensor>| {
            tensor.filter(|tensor| tensor.track_op()).map(|tensor| zeros(tensor.elem_count()))
        };
        let adapter = map.adapter.as_ref();
        Self {
            weight: room(map.weight.dense()),
            bias: room(map.bias.as_ref()),
            a: room(adapter.map(|adapter| &adapter.a)),
            b: room(adapter.map(|adapter| &adapter.b)),
        }
    }

    /// Adds dW = gᵀ x, db = Σ g, dA = eᵀ x and dB = gᵀ u of `n` rows, given what
    /// [`Affine::forward`] and [`Affine::input_gradient`] returned for them.
    pub(crate) fn add(&mut self, x: &[T], g: &[T], (u, e): (&[T], &[T]), n: usize) {
        if n == 0 {
            return;
        }
        let i = x.len() / n;
        let o = g.len() / n;
        let [x, g, u, e] = [x, g, u, e].map(|data| {
            let width = data.len() / n;
            View::new(data, n, width, width)
        });
        if let Some(sum) = &mut self.weight {
            multiply(ViewMut::new(sum, o, i, i), g.t(), x, true);
        }
        if let Some(sum) = &mut self.bias {
            add(sum, &row_sum(g.data, o));
        }
        if let Some(sum) = &mut self.a {
            add(sum, &narrow_product_transposed(x, e));
        }
        if let Some(sum) = &mut self.b {
            add(sum, &narrow_product_transposed(g, u));
        }
    }

    /// Returns the gradients in the order of [`Affine::tensors`].
    pub(crate) fn into_tensors(self, map: &Affine) -> Result<Vec<Option<Tensor>>> {
        let like = |sum: Option<Vec<T>>, tensor: &Tensor| {
            sum.map(|sum| tensor_like(sum, tensor)).transpose()
        };
        let mut all = Vec::new();
        if let Some(weight) = map.weight.dense() {
            all.push(like(self.weight, weight)?);
        }
        if let Some(bias) = &map.bias {
            all.push(like(self.bias, bias)?);
        }
        if let Some(Adapter { a, b, .. }) = &map.adapter {
            let r = a.dim(0)?;
            all.push(like(self.a.map(|sum| transposed(&sum, r)), a)?);
            all.push(like(self.b, b)?);
        }
        Ok(all)
    }
}

/// The transpose of rows `width` wide.
fn transposed<T: Float>(rows: &[T], width: usize) -> Vec<T> {
    let column = |c: usize| rows.iter().skip(c).step_by(width).copied();
    (0..width).flat_map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::{Adapter, Affine};
    use crate::kernels::layers::attention_branch::{attention_branch_over, AttentionMaps};
    use crate::kernels::layers::feed_forward::feed_forward_over;
    use crate::kernels::quantized::matrix::tests::quantized;
    use crate::kernels::tests::{check_frozen, check_gradients, check_twin_within, random, Op};
    use crate::kernels::{composed, AttentionRows, AttentionShape, RopeTable};
    use candle_core::quantized::GgmlDType;
    use candle_core::{Result, Tensor};
    use std::sync::Arc;

    /// Shapes (o, i) of the maps, multiples of a block: queries, keys, values and output of four
    /// heads over two; gate, up and down.
    const ATTENTION: [(usize, usize); 4] = [(64, 32), (32, 32), (32, 32), (32, 64)];
    const FEED_FORWARD: [(usize, usize); 3] = [(64, 32), (64, 32), (32, 64)];

    /// Maps over frozen weights, quantised at odd places, with adapters of rank 3 if `inputs` has
    /// A and B of each, in the type of `like`.
    fn maps<const N: usize>(
        shapes: [(usize, usize); N],
        inputs: &[Tensor],
        like: &Tensor,
    ) -> Result<[Affine; N]> {
        let map = |at: usize| -> Result<Affine> {
            let matrix = quantized(GgmlDType::Q8_0, shapes[at], 40 + at as u32);
            let weight = if at % 2 == 1 {
                matrix.into()
            } else {
                matrix.dequantize()?.to_dtype(like.dtype())?.into()
            };
            let adapter = inputs.get(2 * at..2 * at + 2).map(|pair| Adapter {
                a: pair[0].clone(),
                b: pair[1].clone(),
                scale: 0.7,
            });
            Ok(Affine { weight, bias: None, adapter })
        };
        let maps: Result<Vec<Affine>> = (0..N).map(map).collect();
        Ok(maps?.try_into().unwrap())
    }

    /// A map composed of candle's operations.
    fn apply(map: &Affine, x: &Tensor) -> Result<Tensor> {
        let weight = map.weight.to_tensor()?.to_dtype(x.dtype())?;
        match &map.adapter {
            Some(Adapter { a, b, scale }) => {
                composed::linear_lora(x, &weight, None, (a, b), *scale)
            }
            None => composed::linear(x, &weight, None),
        }
    }

    /// x, the norm's weight, A and B of every adapter.
    fn inputs(n: usize, shapes: &[(usize, usize)]) -> Vec<Tensor> {
        let adapters = shapes.iter().enumerate().flat_map(|(at, &(o, i))| {
            let seed = 10 + 2 * at as u64;
            [random(&[3, i], seed), random(&[o, 3], seed + 1)]
        });
        [random(&[n, 32], 1), random(&[32], 2)].into_iter().chain(adapters).collect()
    }

    #[test]
    fn a_feed_forward_branch_with_adapters_is_that_of_its_layers() {
        let own: Op =
            &|t| feed_forward_over(&t[0], &t[1], maps(FEED_FORWARD, &t[2..], &t[0])?, 1e-3);
        let twin: Op = &|t| {
            let [gate, up, down] = maps(FEED_FORWARD, &t[2..], &t[0])?;
            let z = composed::rms_norm(&t[0], &t[1], 1e-3)?;
            &t[0] + apply(&down, &(apply(&gate, &z)?.silu()? * apply(&up, &z)?)?)?
        };
        check_twin_within(own, twin, &inputs(5, &FEED_FORWARD), 2e-4);
        check_twin_within(own, twin, &inputs(5, &[]), 2e-4);
        check_frozen(own, &inputs(2, &FEED_FORWARD)[..4]);
    }

    #[test]
    fn an_attention_branch_with_adapters_is_that_of_its_layers() {
        let rows = AttentionRows {
            shape: AttentionShape { heads: 4, kv_heads: 2, head_dim: 16, lengths: vec![3, 1] },
            table: Arc::new(RopeTable::new(16, 10, 100.0)),
            positions: [0, 1, 2, 0].into(),
            shared: None,
        };
        let own: Op = &|t| {
            let maps = maps(ATTENTION, &t[2..], &t[0])?;
            attention_branch_over(&t[0], AttentionMaps { norm: t[1].clone(), maps }, &rows, 1e-3)
        };
        let twin: Op = &|t| {
            let [q, k, v, o] = maps(ATTENTION, &t[2..], &t[0])?;
            let z = composed::rms_norm(&t[0], &t[1], 1e-3)?;
            let rope = |x: Tensor| composed::rope(&x, &rows.table, &rows.positions);
            let q = rope(apply(&q, &z)?)?;
            let k = rope(apply(&k, &z)?)?;
            let mixed = composed::attention(&q, &k, &apply(&v, &z)?, &rows.shape)?;
            &t[0] + apply(&o, &mixed)?
        };
        check_twin_within(own, twin, &inputs(4, &ATTENTION), 2e-4);
        check_twin_within(own, twin, &inputs(4, &[]), 2e-4);
        check_frozen(own, &inputs(4, &ATTENTION)[..4]);
        check_gradients(own, &inputs(4, &ATTENTION[..1]), 1e-7);
    }
}
