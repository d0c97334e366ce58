//! Models of candle-transformers as frozen reference policies.
//!
//! The reference policy of a KL term needs log-probabilities but no gradients, so it may be any
//! model, also one whose architecture this crate cannot train.

use crate::kernels::score::logprob_entropy::logprob_entropy;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::config::family::Family;
use crate::policy::config::rope::RopeScaling;
use crate::policy::pretrained::checkpoint::Pretrained;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use serde_json::{json, Value};

/// Computes the logits after one more token: (ids `[1, 1]`, position) → `[.., v]`.
type Step = dyn FnMut(&Tensor, usize) -> candle_core::Result<Tensor> + Send;

/// A model of another library as a frozen reference policy: log-probabilities of given ids, without
/// gradients.
///
/// candle-transformers' models return the logits of the last position only, so a row is read token
/// by token through the model's own KV cache.
pub struct FrozenModel {
    step: Box<Step>,
    vocab_size: usize,
    pub(crate) device: Device,
}

impl FrozenModel {
    /// Wraps any model with a KV cache. `step` gets the next id `[1, 1]` and its position, resets
    /// the cache at position 0, and returns `vocab_size` logits.
    pub fn new(
        vocab_size: usize,
        device: &Device,
        step: impl FnMut(&Tensor, usize) -> candle_core::Result<Tensor> + Send + 'static,
    ) -> Self {
        Self { step: Box::new(step), vocab_size, device: device.clone() }
    }

    /// Opens a model checkpoint with candle-transformers.
    ///
    /// # Errors
    /// A model that candle-transformers does not support (Llama with biases, linear scaling or
    /// another head width), or weights that are missing, damaged or of another model.
    pub fn open(pretrained: &Pretrained, dtype: DType, device: &Device) -> Result<Self> {
        let config = pretrained.config();
        reject_unsupported(config)?;
        let tensors = pretrained.parameters(dtype, device)?.tensors().into_iter().collect();
        let weights = VarBuilder::from_tensors(tensors, dtype, device);
        let step = step(config, weights, dtype, device)?;
        Ok(Self { step, vocab_size: config.vocab_size, device: device.clone() })
    }

    /// Computes the logits `[L, v]` after every token of a row, in f32.
    ///
    /// # Errors
    /// An empty row, an id outside the vocabulary, or an error of the model.
    pub fn logits(&mut self, row: &[u32]) -> Result<Tensor> {
        self.logits_at(row, |_| true)
    }

    /// [`FrozenModel::logits`] after the tokens at the `wanted` positions only.
    pub(crate) fn logits_at(
        &mut self,
        row: &[u32],
        wanted: impl Fn(usize) -> bool,
    ) -> Result<Tensor> {
        if let Some(id) = row.iter().find(|&&id| id as usize >= self.vocab_size) {
            let reason = format!("must be below the vocabulary size {}", self.vocab_size);
            return Err(Error::setting("id", id, reason));
        }
        let mut logits = Vec::with_capacity(row.len());
        for (position, &id) in row.iter().enumerate() {
            let next = (self.step)(&Tensor::new(&[[id]], &self.device)?, position)?;
            if wanted(position) {
                logits.push(next.reshape((1, self.vocab_size))?.to_dtype(DType::F32)?);
            }
        }
        Ok(Tensor::cat(&logits, 0)?)
    }

    /// Computes log p(row\[j + 1\] | row\[..= j\]) for every row at temperature τ, in nats.
    ///
    /// # Errors
    /// A row of fewer than two tokens, an id outside the vocabulary, or an error of the model.
    pub fn log_probs(&mut self, rows: &[&[u32]], temperature: f64) -> Result<Vec<Vec<f32>>> {
        let of_row = |(i, row): (usize, &&[u32])| {
            let Some((_, targets)) = row.split_first().filter(|(_, targets)| !targets.is_empty())
            else {
                let field = format!("rows[{i}].len");
                return Err(Error::setting(field, row.len(), "must be at least 2"));
            };
            let logits = self.logits(&row[..row.len() - 1])?;
            let targets = Tensor::new(targets, &self.device)?;
            Ok(logprob_entropy(&logits, &targets, temperature)?.0.to_vec1()?)
        };
        rows.iter().enumerate().map(of_row).collect()
    }
}

/// Rejects configurations that candle-transformers would ignore or misread.
fn reject_unsupported(config: &DecoderConfig) -> Result<()> {
    let refused = |field: &str, value: &dyn std::fmt::Debug| {
        Err(Error::setting(field, format!("{value:?}"), "not supported by candle-transformers"))
    };
    let llama = config.family == Family::Llama;
    let width = config.hidden_size / config.num_attention_heads;
    match config.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Llama3 { .. } if llama => {}
        scaling => return refused("rope_scaling", &scaling),
    }
    if llama && config.head_dim() != width {
        return refused("head_dim", &config.head_dim());
    }
    if config.attention_bias {
        return refused("attention_bias", &true);
    }
    Ok(())
}

/// Converts the configuration to candle-transformers' own type.
fn library_config<T: serde::de::DeserializeOwned>(config: &DecoderConfig) -> Result<T> {
    let mut json = Value::from(config.clone());
    json["use_sliding_window"] = json!(false);
    json["max_window_layers"] = json!(config.num_hidden_layers);
    json["head_dim"] = json!(config.head_dim());
    // Qwen2's type requires a number, which no layer uses.
    let window = if config.family == Family::Qwen2 {
        json!(config.max_position_embeddings)
    } else {
        Value::Null
    };
    json["sliding_window"] = window;
    serde_json::from_value(json)
        .map_err(|e| Error::setting("config", "candle-transformers", e.to_string()))
}

/// Turns a model that keeps its own KV cache into a [`Step`].
macro_rules! cached {
    ($model:expr) => {{
        let mut model = $model;
        Box::new(move |ids, position| {
            if position == 0 {
                model.clear_kv_cache();
            }
            model.forward(ids, position)
        })
    }};
}

/// Builds the model of a family as a [`Step`].
fn step(
    config: &DecoderConfig,
    weights: VarBuilder<'_>,
    dtype: DType,
    device: &Device,
) -> Result<Box<Step>> {
    Ok(match config.family {
        Family::Qwen2 => cached!(qwen2::ModelForCausalLM::new(&library_config(config)?, weights)?),
        Family::Qwen3 => cached!(qwen3::ModelForCausalLM::new(&library_config(config)?, weights)?),
        Family::Mistral => cached!(mistral::Model::new(&library_config(config)?, weights)?),
        Family::Llama => {
            let config = library_config::<llama::LlamaConfig>(config)?.into_config(false);
            let model = llama::Llama::load(weights, &config)?;
            let empty = llama::Cache::new(true, dtype, &config, device)?;
            let mut cache = empty.clone();
            Box::new(move |ids, position| {
                if position == 0 {
                    cache = empty.clone();
                }
                model.forward(ids, position, &mut cache)
            })
        }
    })
}
