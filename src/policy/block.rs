//! One pre-norm block: attention and feed-forward, each added to a residual stream.
//!
//! A block computes the same function in one of three ways. On the CPU, with weights in the
//! activations' type, its branches are two operators of a chain, which stores the least for the
//! backward pass. Recomputed blocks run the same operators one after another. On other devices, and
//! with head norms, dropout or a bias of the output projection, blocks run layer by layer.

use crate::kernels::autograd::chain::Chain;
use crate::kernels::cpu::float::on_cpu;
use crate::kernels::layers::affine::{Adapter, Affine};
use crate::kernels::layers::attention_branch::{
    attention_branch_over, chain_attention, AttentionMaps,
};
use crate::kernels::layers::attention_rows::AttentionRows;
use crate::kernels::layers::checkpoint::checkpoint;
use crate::kernels::layers::feed_forward::{chain_feed_forward, feed_forward_over};
use crate::kernels::layers::linear::{linear, linear_residual};
use crate::kernels::layers::lora::linear_lora_over;
use crate::kernels::layers::rms_norm::rms_norm;
use crate::kernels::layers::rope::rope;
use crate::kernels::layers::swiglu::silu_mul;
use crate::kernels::quantized::linear::frozen_linear;
use crate::kernels::quantized::weight::Weight;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::lora;
use crate::policy::parameters::Parameters;
use crate::rng::Stream;
use crate::Result;
use candle_core::{DType, Tensor};
use rand_chacha::rand_core::RngCore;

/// The weights of one block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) input_norm: Tensor,
    pub(crate) q: Projection,
    pub(crate) k: Projection,
    pub(crate) v: Projection,
    pub(crate) o: Projection,
    /// Norm weights of the query and key heads, `[d]` each, applied before the rotation.
    pub(crate) head_norms: Option<[Tensor; 2]>,
    pub(crate) post_norm: Tensor,
    pub(crate) gate: Projection,
    pub(crate) up: Projection,
    pub(crate) down: Projection,
}

/// A linear map of a block, x Wᵀ + b, with or without a LoRA adapter.
#[derive(Debug, Clone)]
pub(crate) struct Projection {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Tensor>,
    pub(crate) lora: Option<LoraAdapter>,
}

/// A LoRA adapter: adds s (x Aᵀ) Bᵀ to the output of a frozen weight.
#[derive(Debug, Clone)]
pub(crate) struct LoraAdapter {
    pub(crate) a: Tensor,
    pub(crate) b: Tensor,
    pub(crate) scale: f64,
    dropout: Option<Dropout>,
}

/// Dropout of a LoRA adapter's input.
#[derive(Debug, Clone, Copy)]
struct Dropout {
    /// Probability of an element to be dropped.
    share: f64,
    stream: Stream,
    /// Index of the projection in the model, which selects its draws.
    site: u64,
}

impl Projection {
    /// x Wᵀ + b, plus the adapter's output.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match &self.lora {
            None => self.without_adapter(x),
            Some(LoraAdapter { a, b, scale, dropout: None }) => {
                linear_lora_over(x, &self.weight, self.bias.as_ref(), (a, b), *scale)
            }
            Some(LoraAdapter { a, b, scale, dropout: Some(dropout) }) => {
                let a = a.to_dtype(x.dtype())?;
                let b = b.to_dtype(x.dtype())?;
                let inner = linear(&dropout.apply(x)?, &a, None)?;
                self.without_adapter(x)? + (linear(&inner, &b, None)? * *scale)?
            }
        }
    }

    /// x Wᵀ + b.
    fn without_adapter(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match &self.weight {
            Weight::Dense(weight) => linear(x, weight, self.bias.as_ref()),
            quantized => frozen_linear(x, quantized, self.bias.as_ref()),
        }
    }

    /// Adds the projection of x to the residual stream.
    fn add_to(&self, residual: &Tensor, x: &Tensor) -> candle_core::Result<Tensor> {
        match (self.plain(), &self.bias) {
            (Some(weight), None) => linear_residual(residual, x, weight),
            _ => residual + self.forward(x)?,
        }
    }

    /// Returns the weight if it is a tensor without an adapter.
    pub(crate) fn plain(&self) -> Option<&Tensor> {
        self.weight.dense().filter(|_| self.lora.is_none())
    }

    /// Returns the map for fused operators; `None` with dropout.
    fn map(&self) -> Option<Affine> {
        let adapter = match &self.lora {
            None => None,
            Some(LoraAdapter { a, b, scale, dropout: None }) => {
                Some(Adapter { a: a.clone(), b: b.clone(), scale: *scale })
            }
            Some(_) => return None,
        };
        Some(Affine { weight: self.weight.clone(), bias: self.bias.clone(), adapter })
    }
}

impl Dropout {
    /// Sets a random share of x's elements to 0 and scales the others by 1/(1 − share).
    fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut draws = self.stream.generator(self.site);
        let kept = 1.0 / (1.0 - self.share);
        let limit = (self.share * 2f64.powi(32)) as u64;
        let factor = |_| if u64::from(draws.next_u32()) < limit { 0.0 } else { kept };
        let factors: Vec<f64> = (0..x.elem_count()).map(factor).collect();
        x * Tensor::from_vec(factors, x.shape(), x.device())?.to_dtype(x.dtype())?
    }
}

impl Block {
    /// Builds block number `layer` from its parameters.
    pub(crate) fn new(
        config: &DecoderConfig,
        layer: usize,
        parameters: &Parameters,
    ) -> Result<Self> {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let get = |part: &str| parameters.tensor(&name(part));
        let projection = |part: &str, biased: bool| -> Result<Projection> {
            let bias = biased.then(|| get(&format!("{part}_proj.bias"))).transpose()?;
            let lora = match parameters.lora() {
                Some(lora) if lora.targets_module(part) => {
                    let [a, b] = lora::names(&format!("{part}_proj")).map(|name| get(&name));
                    Some(LoraAdapter { a: a?, b: b?, scale: lora.scale(), dropout: None })
                }
                _ => None,
            };
            let weight = parameters.weight(&name(&format!("{part}_proj.weight")))?;
            Ok(Projection { weight, bias, lora })
        };
        let qkv = |part: &str| projection(&format!("self_attn.{part}"), config.has_qkv_bias());
        let head_norms = if config.has_head_norms() {
            Some([get("self_attn.q_norm.weight")?, get("self_attn.k_norm.weight")?])
        } else {
            None
        };
        Ok(Self {
            input_norm: get("input_layernorm.weight")?,
            q: qkv("q")?,
            k: qkv("k")?,
            v: qkv("v")?,
            o: projection("self_attn.o", config.attention_bias)?,
            head_norms,
            post_norm: get("post_attention_layernorm.weight")?,
            gate: projection("mlp.gate", false)?,
            up: projection("mlp.up", false)?,
            down: projection("mlp.down", false)?,
        })
    }

    fn projections(&mut self) -> [&mut Projection; 7] {
        [
            &mut self.q,
            &mut self.k,
            &mut self.v,
            &mut self.o,
            &mut self.gate,
            &mut self.up,
            &mut self.down,
        ]
    }

    /// Removes the LoRA adapters.
    pub(crate) fn without_lora(mut self) -> Self {
        for projection in self.projections() {
            projection.lora = None;
        }
        self
    }

    /// Turns on dropout of the adapters' inputs; `layer` is the block's index in the model.
    pub(crate) fn with_dropout(mut self, share: f64, stream: Stream, layer: usize) -> Self {
        let projections = self.projections();
        let first = (layer * projections.len()) as u64;
        for (projection, site) in projections.into_iter().zip(first..) {
            if let Some(adapter) = &mut projection.lora {
                adapter.dropout = Some(Dropout { share, stream, site });
            }
        }
        self
    }

    /// Applies `f` to every tensor.
    fn map(
        &self,
        f: &mut impl FnMut(&Tensor) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Self> {
        let mut block = self.clone();
        let norms = [&mut block.input_norm, &mut block.post_norm].into_iter();
        for norm in norms.chain(block.head_norms.iter_mut().flatten()) {
            *norm = f(norm)?;
        }
        for projection in block.projections() {
            if let Weight::Dense(weight) = &mut projection.weight {
                *weight = f(weight)?;
            }
            projection.bias = projection.bias.as_ref().map(&mut *f).transpose()?;
            if let Some(adapter) = &mut projection.lora {
                adapter.a = f(&adapter.a)?;
                adapter.b = f(&adapter.b)?;
            }
        }
        Ok(block)
    }

    /// The same weights, without gradients.
    pub(crate) fn detached(&self) -> candle_core::Result<Self> {
        self.map(&mut |tensor| Ok(tensor.detach()))
    }

    /// All tensors of the block.
    fn tensors(&self) -> candle_core::Result<Vec<Tensor>> {
        let mut all = Vec::new();
        self.map(&mut |tensor| {
            all.push(tensor.clone());
            Ok(tensor.clone())
        })?;
        Ok(all)
    }

    /// Runs the block on x `[n, h]`.
    ///
    /// With `recompute`, or if the weights have a narrower type than x and are widened temporarily,
    /// only x is kept for the backward pass ([`checkpoint()`]).
    pub(crate) fn run(
        &self,
        x: &Tensor,
        rows: &AttentionRows,
        eps: f64,
        recompute: bool,
    ) -> candle_core::Result<Tensor> {
        let dtype = x.dtype();
        if !recompute && self.input_norm.dtype() == dtype {
            return self.forward(x, rows, eps);
        }
        let block = self.clone();
        let rows = rows.clone();
        let widened =
            move |x: &Tensor| block.map(&mut |t| t.to_dtype(dtype))?.forward(x, &rows, eps);
        checkpoint(x, &self.tensors()?, widened)
    }

    /// Returns true if the block can be part of a chain of activations of type `dtype`.
    pub(crate) fn is_fused(&self, dtype: DType) -> bool {
        self.input_norm.dtype() == dtype && self.branches().is_some()
    }

    /// Runs a block ([`Block::is_fused`]) as part of a chain.
    pub(crate) fn chain(
        &self,
        x: &Chain,
        rows: &AttentionRows,
        eps: f64,
    ) -> candle_core::Result<Chain> {
        let Some((attention, feed_forward)) = self.branches() else {
            candle_core::bail!("chain: the block runs layer by layer");
        };
        let x = chain_attention(x, attention, rows, eps)?;
        chain_feed_forward(&x, &self.post_norm, feed_forward, eps)
    }

    /// The weights of attention and feed-forward as one operator each; `None` if the block runs
    /// layer by layer.
    fn branches(&self) -> Option<(AttentionMaps, [Affine; 3])> {
        if self.head_norms.is_some() || self.o.bias.is_some() || !on_cpu(&self.input_norm) {
            return None;
        }
        let maps = [self.q.map()?, self.k.map()?, self.v.map()?, self.o.map()?];
        let attention = AttentionMaps { norm: self.input_norm.clone(), maps };
        Some((attention, [self.gate.map()?, self.up.map()?, self.down.map()?]))
    }

    fn forward(&self, x: &Tensor, rows: &AttentionRows, eps: f64) -> candle_core::Result<Tensor> {
        if let Some((attention, feed_forward)) = self.branches() {
            let x = attention_branch_over(x, attention, rows, eps)?;
            return feed_forward_over(&x, &self.post_norm, feed_forward, eps);
        }
        self.add_feed_forward(&self.attend(x, rows, eps)?, eps)
    }

    /// The attention branch layer by layer.
    fn attend(&self, x: &Tensor, rows: &AttentionRows, eps: f64) -> candle_core::Result<Tensor> {
        let rotate = |x: &Tensor| rope(x, &rows.table, &rows.positions);
        let [q, k, v] = self.queries_keys_values(x, eps, &rotate)?;
        self.o.add_to(x, &rows.attention(&q, &k, &v)?)
    }

    /// Queries and keys, rotated by `rotate`, and values of x `[n, h]`.
    pub(crate) fn queries_keys_values(
        &self,
        x: &Tensor,
        eps: f64,
        rotate: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<[Tensor; 3]> {
        let z = rms_norm(x, &self.input_norm, eps)?;
        let norms = self.head_norms.as_ref().map_or([None; 2], |norms| norms.each_ref().map(Some));
        let rotated = |projection: &Projection, norm: Option<&Tensor>| {
            let mut heads = projection.forward(&z)?;
            if let Some(weight) = norm {
                let shape = heads.dims2()?;
                heads =
                    rms_norm(&heads.reshape(((), weight.dim(0)?))?, weight, eps)?.reshape(shape)?;
            }
            rotate(&heads)
        };
        Ok([rotated(&self.q, norms[0])?, rotated(&self.k, norms[1])?, self.v.forward(&z)?])
    }

    /// The rest of the block, from the attention's output before its projection.
    pub(crate) fn after_attention(
        &self,
        x: &Tensor,
        mixed: &Tensor,
        eps: f64,
    ) -> candle_core::Result<Tensor> {
        self.add_feed_forward(&self.o.add_to(x, mixed)?, eps)
    }

    /// The feed-forward branch layer by layer.
    fn add_feed_forward(&self, x: &Tensor, eps: f64) -> candle_core::Result<Tensor> {
        let z = rms_norm(x, &self.post_norm, eps)?;
        self.down.add_to(x, &silu_mul(&self.gate.forward(&z)?, &self.up.forward(&z)?)?)
    }
}
