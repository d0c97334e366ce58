//! The teacher-forced forward pass with gradients.
//!
//! Shapes: b = rows, t = padded length, n = tokens of all rows packed one after another, h = hidden width,
//! v = vocabulary.

use super::config::DecoderConfig;
use super::parameters::Parameters;
use crate::kernels::{attention, attention_branch, embedding, feed_forward, linear, linear_residual};
use crate::kernels::{rms_norm, rope};
use crate::kernels::{AttentionRows, AttentionShape, AttentionWeights, LmHead, RopeTable};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// A decoder over [`Parameters`]: pre-norm blocks of rotary grouped-query attention and SwiGLU.
///
/// It shares storage with the variables, so an optimiser step is seen at once by both modes.
#[derive(Debug, Clone)]
pub struct Decoder {
    pub(super) config: DecoderConfig,
    pub(super) embedding: Tensor,
    pub(super) blocks: Vec<Block>,
    pub(super) norm: Tensor,
    pub(super) head: Tensor,
    pub(super) rope: Arc<RopeTable>,
}

/// Weights of one block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) input_norm: Tensor,
    pub(super) q: Projection,
    pub(super) k: Projection,
    pub(super) v: Projection,
    pub(super) o: Projection,
    /// Norms of the query and key heads `[d]`, before the rotation.
    pub(super) head_norms: Option<[Tensor; 2]>,
    pub(super) post_norm: Tensor,
    pub(super) gate: Projection,
    pub(super) up: Projection,
    pub(super) down: Projection,
}

/// x Wᵀ + b: one of a block's linear maps.
#[derive(Debug, Clone)]
pub(super) struct Projection {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

impl Projection {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(linear(x, &self.weight, self.bias.as_ref())?)
    }
}

impl Decoder {
    /// Builds the decoder; frozen parameters enter without gradient.
    ///
    /// # Errors
    /// An invalid configuration, or parameters of another model.
    pub fn new(config: &DecoderConfig, parameters: &Parameters) -> Result<Self> {
        config.validate()?;
        let get = |name: &str| -> Result<Tensor> {
            let var = parameters.get(name)?;
            Ok(if parameters.is_trainable(name)? {
                var.as_tensor().clone()
            } else {
                var.as_detached_tensor()
            })
        };
        for (name, shape) in config.parameter_shapes() {
            if parameters.get(&name)?.dims() != shape {
                return Err(Error::setting(name, format!("{:?}", shape), "the parameter has another shape"));
            }
        }
        let head = if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        Ok(Self {
            embedding: get("model.embed_tokens.weight")?,
            blocks: (0..config.num_hidden_layers)
                .map(|i| Block::new(config, i, &get))
                .collect::<Result<_>>()?,
            norm: get("model.norm.weight")?,
            head: get(head)?,
            rope: Arc::new(RopeTable::of_frequencies(
                &config.rope_frequencies(),
                config.max_position_embeddings,
            )),
            config: config.clone(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Where the weights live.
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// Hidden states after the final norm `[n, h]` of rows packed one after another; row i of length L_i sees
    /// only itself, causally, at positions 0..L_i.
    ///
    /// # Errors
    /// An empty row, one longer than `max_position_embeddings`, or an id outside the vocabulary.
    pub fn forward_packed(&self, rows: &[&[u32]]) -> Result<Tensor> {
        for (i, row) in rows.iter().enumerate() {
            self.check_row(i, row)?;
        }
        self.forward_ids(&rows.concat().into(), rows.iter().map(|r| r.len()).collect())
    }

    /// Hidden states after the final norm `[b, t, h]` of right-padded `ids` `[b, t]` (u32) with `lengths` `[b]`.
    ///
    /// Padding is never computed: its hidden states are 0 and its ids do not matter.
    ///
    /// # Errors
    /// Shapes that do not fit, a length of 0 or above t, or what [`Decoder::forward_packed`] rejects.
    pub fn forward(&self, ids: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (b, t) = ids.dims2()?;
        if lengths.len() != b {
            return Err(Error::Shape {
                name: "lengths",
                expected: format!("[{b}]"),
                got: vec![lengths.len()],
            });
        }
        if let Some((i, &len)) = lengths.iter().enumerate().find(|(_, &len)| len == 0 || len > t) {
            return Err(Error::setting(format!("lengths[{i}]"), len, format!("must be in 1..={t}")));
        }
        let host = ids.to_dtype(DType::U32)?.to_vec2::<u32>()?;
        let rows: Vec<&[u32]> = host.iter().zip(lengths).map(|(row, &len)| &row[..len]).collect();
        let packed = self.forward_packed(&rows)?;
        let h = self.config.hidden_size;
        if lengths.iter().all(|&len| len == t) {
            return Ok(packed.reshape((b, t, h))?);
        }
        let n: usize = lengths.iter().sum();
        let padded = Tensor::cat(&[&packed, &Tensor::zeros((1, h), packed.dtype(), packed.device())?], 0)?;
        let index = Tensor::from_vec(unpacking(lengths, t, n as u32), b * t, packed.device())?;
        Ok(padded.index_select(&index, 0)?.reshape((b, t, h))?)
    }

    /// The head, for [`crate::kernels::linear_logprob_entropy()`], which never holds the logits of all positions.
    pub fn head(&self) -> LmHead<'_> {
        LmHead::new(&self.head)
    }

    /// Logits `[n, v]` of hidden states `[n, h]`: the only part whose cost grows with the vocabulary, so select the
    /// positions that matter first.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(linear(hidden, &self.head, None)?)
    }

    fn forward_ids(&self, ids: &Arc<[u32]>, lengths: Vec<usize>) -> Result<Tensor> {
        let rows = AttentionRows {
            table: self.rope.clone(),
            positions: lengths.iter().flat_map(|&len| 0..len as u32).collect(),
            shape: AttentionShape {
                heads: self.config.num_attention_heads,
                kv_heads: self.config.num_key_value_heads,
                head_dim: self.config.head_dim(),
                lengths,
            },
        };
        let mut x = embedding(&self.embedding, ids)?;
        for block in &self.blocks {
            x = block.forward(&x, &rows, self.config.rms_norm_eps)?;
        }
        Ok(rms_norm(&x, &self.norm, self.config.rms_norm_eps)?)
    }

    /// Requires a row to have at least one token, to fit the context, and to hold known ids.
    pub(super) fn check_row(&self, index: usize, row: &[u32]) -> Result<()> {
        let limit = self.config.max_position_embeddings;
        if row.is_empty() || row.len() > limit {
            return Err(Error::setting(
                format!("rows[{index}].len"),
                row.len(),
                format!("must be in 1..={limit}"),
            ));
        }
        match row.iter().position(|&id| id as usize >= self.config.vocab_size) {
            Some(j) => {
                let reason = format!("must be below the vocabulary size {}", self.config.vocab_size);
                Err(Error::setting(format!("rows[{index}][{j}]"), row[j], reason))
            }
            None => Ok(()),
        }
    }
}

/// For every padded position the packed row it comes from, or `zero_row`.
fn unpacking(lengths: &[usize], t: usize, zero_row: u32) -> Vec<u32> {
    let mut next = 0;
    let mut index = Vec::with_capacity(lengths.len() * t);
    for &len in lengths {
        index.extend((0..t).map(|j| if j < len { next + j as u32 } else { zero_row }));
        next += len as u32;
    }
    index
}

impl Block {
    fn new(config: &DecoderConfig, layer: usize, get: &impl Fn(&str) -> Result<Tensor>) -> Result<Self> {
        let get = |name: &str| get(&format!("model.layers.{layer}.{name}"));
        let projection = |name: &str, biased: bool| -> Result<Projection> {
            let bias = biased.then(|| get(&format!("{name}_proj.bias"))).transpose()?;
            Ok(Projection { weight: get(&format!("{name}_proj.weight"))?, bias })
        };
        let qkv = |name: &str| projection(&format!("self_attn.{name}"), config.has_qkv_bias());
        let head_norms = match config.has_head_norms() {
            true => Some([get("self_attn.q_norm.weight")?, get("self_attn.k_norm.weight")?]),
            false => None,
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

    fn forward(&self, x: &Tensor, rows: &AttentionRows, eps: f64) -> Result<Tensor> {
        let x = match &self.head_norms {
            None => self.attend(x, rows, eps)?,
            Some(norms) => self.attend_normed(x, norms, rows, eps)?,
        };
        let x = match &self.o.bias {
            Some(bias) => x.broadcast_add(bias)?,
            None => x,
        };
        let (gate, up, down) = (&self.gate.weight, &self.up.weight, &self.down.weight);
        Ok(feed_forward(&x, [&self.post_norm, gate, up, down], eps)?)
    }

    /// The attention branch without the output's bias.
    fn attend(&self, x: &Tensor, rows: &AttentionRows, eps: f64) -> Result<Tensor> {
        let qkv = [&self.q, &self.k, &self.v];
        let weights = AttentionWeights {
            norm: &self.input_norm,
            qkv: qkv.map(|projection| &projection.weight),
            biases: qkv.map(|projection| projection.bias.as_ref()),
            output: &self.o.weight,
        };
        Ok(attention_branch(x, &weights, rows, eps)?)
    }

    /// The same with a norm on every query and key head.
    fn attend_normed(
        &self,
        x: &Tensor,
        norms: &[Tensor; 2],
        rows: &AttentionRows,
        eps: f64,
    ) -> Result<Tensor> {
        let z = rms_norm(x, &self.input_norm, eps)?;
        let rotated = |projection: &Projection, weight: &Tensor| -> Result<Tensor> {
            let heads = projection.forward(&z)?;
            let shape = heads.dims2()?;
            let heads = rms_norm(&heads.reshape(((), weight.dim(0)?))?, weight, eps)?;
            Ok(rope(&heads.reshape(shape)?, &rows.table, &rows.positions)?)
        };
        let (q, k) = (rotated(&self.q, &norms[0])?, rotated(&self.k, &norms[1])?);
        let mixed = attention(&q, &k, &self.v.forward(&z)?, &rows.shape)?;
        Ok(linear_residual(x, &mixed, &self.o.weight)?)
    }
}
