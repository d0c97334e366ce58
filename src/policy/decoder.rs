//! The decoder, and its teacher-forced forward pass with gradients.
//!
//! Training and decoding are two modes of one decoder that share its weights. Training sees whole
//! rows at once, keeps activations for the backward pass and is limited by compute; decoding sees
//! one token per row, needs a KV cache instead of gradients and is limited by memory. Each has its
//! own code path, so that neither pays for the other; a test holds their log-probabilities together
//! ([`max_decode_forward_gap`](crate::policy::max_decode_forward_gap)).
//!
//! Rows are packed one after another, without padding. Prefixes that rows have in common are
//! computed once.
//!
//! Shapes: b = rows, t = padded length, n = tokens of all rows packed one after another, h = hidden
//! width, v = vocabulary.

use crate::kernels::autograd::chain::Chain;
use crate::kernels::dispatch::is_cpu;
use crate::kernels::layers::attention_rows::{AttentionRows, AttentionShape};
use crate::kernels::layers::embedding::embedding_over;
use crate::kernels::layers::linear::linear;
use crate::kernels::layers::rms_norm::rms_norm;
use crate::kernels::layers::rope_table::RopeTable;
use crate::kernels::layers::shared::SharedPrefixes;
use crate::kernels::quantized::linear::frozen_linear;
use crate::kernels::quantized::weight::Weight;
use crate::kernels::score::linear_logprob_entropy::linear_logprob_entropy;
use crate::kernels::score::linear_logprob_entropy::LmHead;
use crate::kernels::score::quantized_head::quantized_logprob_entropy;
use crate::kernels::score::scoring::ScoreOptions;
use crate::policy::block::Block;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::parameters::Parameters;
use crate::rng::Stream;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// A decoder over [`Parameters`]: pre-norm blocks of rotary grouped-query attention and SwiGLU.
///
/// It shares storage with the variables: an optimiser step takes effect in training and decoding at
/// once.
#[derive(Debug, Clone)]
pub struct Decoder {
    pub(crate) config: DecoderConfig,
    pub(crate) embedding: Weight,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Tensor,
    pub(crate) head: Weight,
    pub(crate) rope: Arc<RopeTable>,
    /// Gradient checkpointing: blocks are recomputed in the backward pass.
    recompute: bool,
}

impl Decoder {
    /// Builds the decoder. Frozen parameters get no gradient.
    ///
    /// # Errors
    /// An invalid configuration, or parameters of another model.
    pub fn new(config: &DecoderConfig, parameters: &Parameters) -> Result<Self> {
        config.validate()?;
        for (name, shape) in config.parameter_shapes() {
            if parameters.weight(&name)?.dims() != shape {
                let reason = "the parameter has another shape";
                return Err(Error::setting(name, format!("{shape:?}"), reason));
            }
        }
        let head =
            if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        Ok(Self {
            embedding: parameters.weight("model.embed_tokens.weight")?,
            blocks: (0..config.num_hidden_layers)
                .map(|i| Block::new(config, i, parameters))
                .collect::<Result<_>>()?,
            norm: parameters.tensor("model.norm.weight")?,
            head: parameters.weight(head)?,
            rope: Arc::new(RopeTable::of_frequencies(
                &config.rope_frequencies(),
                config.max_position_embeddings,
            )),
            config: config.clone(),
            recompute: false,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// Computes the hidden states after the final norm, `[n, h]`, of rows packed one after another.
    ///
    /// Row i of length L_i attends causally to itself alone, at positions 0..L_i. Prefixes that
    /// rows have in common are computed once, in the backward pass too.
    ///
    /// # Errors
    /// An empty row, one longer than `max_position_embeddings`, or an id outside the vocabulary.
    pub fn forward_packed(&self, rows: &[&[u32]]) -> Result<Tensor> {
        for (i, row) in rows.iter().enumerate() {
            self.check_row(i, row)?;
        }
        let lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
        let mut positions: Vec<u32> = lengths.iter().flat_map(|&len| 0..len as u32).collect();
        let mut ids = rows.concat();
        let shared = SharedPrefixes::of_rows(rows);
        if let Some(shared) = &shared {
            ids = shared.pick(&ids);
            positions = shared.pick(&positions);
        }
        let rows = AttentionRows {
            table: self.rope.clone(),
            positions: positions.into(),
            shape: AttentionShape {
                heads: self.config.num_attention_heads,
                kv_heads: self.config.num_key_value_heads,
                head_dim: self.config.head_dim(),
                lengths,
            },
            shared,
        };
        self.forward_ids(&ids.into(), &rows)
    }

    /// Computes the hidden states after the final norm, `[b, t, h]`, of right-padded `ids` `[b, t]`
    /// (u32) with `lengths` `[b]`.
    ///
    /// Padding is not computed: its hidden states are 0, whatever its ids are.
    ///
    /// # Errors
    /// Shapes that do not match, a length of 0 or above t or `max_position_embeddings`, or an id
    /// outside the vocabulary.
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
            let reason = format!("must be in 1..={t}");
            return Err(Error::setting(format!("lengths[{i}]"), len, reason));
        }
        let host = ids.to_dtype(DType::U32)?.to_vec2::<u32>()?;
        let rows: Vec<&[u32]> = host.iter().zip(lengths).map(|(row, &len)| &row[..len]).collect();
        let packed = self.forward_packed(&rows)?;
        let h = self.config.hidden_size;
        if lengths.iter().all(|&len| len == t) {
            return Ok(packed.reshape((b, t, h))?);
        }
        let n: usize = lengths.iter().sum();
        let padded =
            Tensor::cat(&[&packed, &Tensor::zeros((1, h), packed.dtype(), packed.device())?], 0)?;
        let index = Tensor::from_vec(unpacking(lengths, t, n as u32), b * t, packed.device())?;
        Ok(padded.index_select(&index, 0)?.reshape((b, t, h))?)
    }

    /// Computes log-probabilities of `ids` `[n]` and entropies `[n]`, in nats, from hidden states
    /// `[n, h]`.
    ///
    /// Output head and softmax are fused, so the logits of all positions are never stored
    /// ([`linear_logprob_entropy`]).
    ///
    /// # Errors
    /// Shapes that do not match, ids outside the vocabulary, or a temperature that is not positive.
    pub fn score(
        &self,
        hidden: &Tensor,
        ids: &Tensor,
        options: &ScoreOptions,
    ) -> Result<(Tensor, Tensor)> {
        match &self.head {
            Weight::Dense(weight) => {
                let weight = weight.to_dtype(hidden.dtype())?;
                linear_logprob_entropy(hidden, &LmHead::new(&weight), ids, options)
            }
            Weight::Quantized(matrix) => quantized_logprob_entropy(hidden, matrix, ids, options),
        }
    }

    /// Turns gradient checkpointing on or off: only the blocks' inputs are kept, and the backward
    /// pass recomputes the rest.
    ///
    /// Gradients are bitwise identical, at the cost of a second forward pass. On the CPU, weights
    /// in bf16 or f16 are always trained with checkpointing.
    pub fn with_checkpointing(mut self, on: bool) -> Self {
        self.recompute = on;
        self
    }

    /// Returns true if gradient checkpointing is on.
    pub fn checkpointing(&self) -> bool {
        self.recompute
    }

    /// Removes the LoRA adapters. The result shares all weights, so a KL term's reference needs no
    /// second model.
    pub fn without_lora(mut self) -> Self {
        self.blocks = self.blocks.into_iter().map(Block::without_lora).collect();
        self
    }

    /// Turns on dropout of a `share` of the LoRA adapters' inputs, with draws from `stream`.
    pub fn with_dropout(mut self, share: f64, stream: Stream) -> Self {
        if share > 0.0 {
            let blocks = self.blocks.into_iter().enumerate();
            self.blocks =
                blocks.map(|(layer, block)| block.with_dropout(share, stream, layer)).collect();
        }
        self
    }

    /// Computes the logits `[n, v]` of hidden states `[n, h]`.
    ///
    /// Only this part grows with the vocabulary: select the positions of interest first.
    ///
    /// # Errors
    /// Shapes that do not match.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(match &self.head {
            Weight::Dense(weight) => linear(hidden, &weight.to_dtype(hidden.dtype())?, None)?,
            quantized => frozen_linear(hidden, quantized, None)?,
        })
    }

    fn forward_ids(&self, ids: &Arc<[u32]>, rows: &AttentionRows) -> Result<Tensor> {
        let x = embedding_over(&self.embedding, ids)?;
        // With narrower weights, activations are f32 on the CPU. GPUs compute in the weights' type.
        let narrow = is_cpu(&x) && matches!(x.dtype(), DType::BF16 | DType::F16);
        let x = if narrow { x.to_dtype(DType::F32)? } else { x };
        let x = self.run_blocks(x, rows)?;
        let x = rms_norm(&x, &self.norm.to_dtype(x.dtype())?, self.config.rms_norm_eps)?;
        match &rows.shared {
            Some(shared) => Ok(shared.spread_rows(&x)?),
            None => Ok(x),
        }
    }

    fn run_blocks(&self, mut x: Tensor, rows: &AttentionRows) -> Result<Tensor> {
        let eps = self.config.rms_norm_eps;
        if !self.recompute && self.blocks.iter().all(|b| b.is_fused(x.dtype())) {
            let start = Chain::begin(&x)?;
            return Ok(self
                .blocks
                .iter()
                .try_fold(start, |x, block| block.chain(&x, rows, eps))?
                .end()?);
        }
        for block in &self.blocks {
            x = block.run(&x, rows, eps, self.recompute)?;
        }
        Ok(x)
    }

    /// Requires a row to have at least one token, to fit into the context, and to hold known ids.
    pub(crate) fn check_row(&self, index: usize, row: &[u32]) -> Result<()> {
        let limit = self.config.max_position_embeddings;
        if row.is_empty() || row.len() > limit {
            let reason = format!("must be in 1..={limit}");
            return Err(Error::setting(format!("rows[{index}].len"), row.len(), reason));
        }
        match row.iter().position(|&id| id as usize >= self.config.vocab_size) {
            Some(j) => {
                let reason =
                    format!("must be below the vocabulary size {}", self.config.vocab_size);
                Err(Error::setting(format!("rows[{index}][{j}]"), row[j], reason))
            }
            None => Ok(()),
        }
    }
}

/// For every padded position, the packed row it is copied from, or `zero_row`.
fn unpacking(lengths: &[usize], t: usize, zero_row: u32) -> Vec<u32> {
    let mut next = 0;
    let mut index = Vec::with_capacity(lengths.len() * t);
    for &len in lengths {
        index.extend((0..t).map(|j| if j < len { next + j as u32 } else { zero_row }));
        next += len as u32;
    }
    index
}
