//! The teacher-forced forward pass with gradients.
//!
//! Shapes: b = rows, t = padded length, n = tokens of all rows packed one after another, h = hidden width,
//! v = vocabulary.

use crate::kernels::autograd::chain::Chain;
use crate::kernels::layers::attention_rows::{AttentionRows, AttentionShape};
use crate::kernels::layers::embedding::embedding;
use crate::kernels::layers::linear::linear;
use crate::kernels::layers::rms_norm::rms_norm;
use crate::kernels::layers::rope_table::RopeTable;
use crate::kernels::layers::shared::SharedPrefixes;
use crate::kernels::score::linear_logprob_entropy::linear_logprob_entropy;
use crate::kernels::score::linear_logprob_entropy::LmHead;
use crate::kernels::score::scoring::ScoreOptions;
use crate::policy::block::Block;
use crate::policy::config::DecoderConfig;
use crate::policy::parameters::Parameters;
use crate::rng::Stream;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// A decoder over [`Parameters`]: pre-norm blocks of rotary grouped-query attention and SwiGLU.
///
/// It shares storage with the variables, so an optimiser step is seen at once by both modes.
#[derive(Debug, Clone)]
pub struct Decoder {
    pub(crate) config: DecoderConfig,
    pub(crate) embedding: Tensor,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Tensor,
    pub(crate) head: Tensor,
    pub(crate) rope: Arc<RopeTable>,
    /// Blocks are computed again in the backward pass.
    recompute: bool,
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
                return Err(Error::setting(
                    name,
                    format!("{:?}", shape),
                    "the parameter has another shape",
                ));
            }
        }
        let head =
            if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        Ok(Self {
            embedding: get("model.embed_tokens.weight")?,
            blocks: (0..config.num_hidden_layers)
                .map(|i| Block::new(config, i, parameters, &get))
                .collect::<Result<_>>()?,
            norm: get("model.norm.weight")?,
            head: get(head)?,
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

    /// Where the weights live.
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// Hidden states after the final norm `[n, h]` of rows packed one after another; row i of length L_i sees
    /// only itself, causally, at positions 0..L_i. What rows have in common at their beginning is computed once, and so are its
    /// gradients.
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
            (ids, positions) = (shared.pick(&ids), shared.pick(&positions));
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
            return Err(Error::setting(
                format!("lengths[{i}]"),
                len,
                format!("must be in 1..={t}"),
            ));
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

    /// Log-probabilities of `ids` `[n]` and entropies `[n]` in nats through the head, for hidden states `[n, h]`: the logits of
    /// all positions never exist ([`linear_logprob_entropy`]).
    ///
    /// # Errors
    /// As [`linear_logprob_entropy`].
    pub fn score(
        &self,
        hidden: &Tensor,
        ids: &Tensor,
        options: &ScoreOptions,
    ) -> Result<(Tensor, Tensor)> {
        let weight = self.head.to_dtype(hidden.dtype())?;
        linear_logprob_entropy(hidden, &LmHead::new(&weight), ids, options)
    }

    /// Keeps only the blocks' inputs for the backward pass, which computes them again: the same gradients to the bit, for a
    /// second forward pass. Weights in bf16 or f16 are trained in this way on the CPU in any case.
    pub fn with_checkpointing(mut self, on: bool) -> Self {
        self.recompute = on;
        self
    }

    /// Whether only the blocks' inputs are kept for the backward pass.
    pub fn checkpointing(&self) -> bool {
        self.recompute
    }

    /// The model without its corrections of low rank: the reference of a KL term, which costs no second model.
    pub fn without_lora(mut self) -> Self {
        self.blocks = self.blocks.into_iter().map(Block::uncorrected).collect();
        self
    }

    /// With dropout of a `share` of the corrections' inputs, drawn from `stream`.
    pub fn with_dropout(mut self, share: f64, stream: Stream) -> Self {
        if share > 0.0 {
            let blocks = self.blocks.into_iter().enumerate();
            self.blocks =
                blocks.map(|(layer, block)| block.dropping(share, stream, layer)).collect();
        }
        self
    }

    /// Logits `[n, v]` of hidden states `[n, h]`: the only part whose cost grows with the vocabulary, so select the
    /// positions that matter first.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(linear(hidden, &self.head.to_dtype(hidden.dtype())?, None)?)
    }

    fn forward_ids(&self, ids: &Arc<[u32]>, rows: &AttentionRows) -> Result<Tensor> {
        let x = embedding(&self.embedding, ids)?;
        // On the CPU activations are f32 where weights are narrower; devices compute in the weights' type.
        let narrow = x.device().is_cpu() && matches!(x.dtype(), DType::BF16 | DType::F16);
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
        if x.device().is_cpu()
            && !self.recompute
            && self.blocks.iter().all(|b| b.is_plain(x.dtype()))
        {
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

    /// Requires a row to have at least one token, to fit the context, and to hold known ids.
    pub(crate) fn check_row(&self, index: usize, row: &[u32]) -> Result<()> {
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
                let reason =
                    format!("must be below the vocabulary size {}", self.config.vocab_size);
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
