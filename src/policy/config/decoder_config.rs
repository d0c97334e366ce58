//! The hyper-parameters of a decoder, and the parameters that follow from them.

use crate::policy::config::family::Family;
use crate::policy::config::rejected::{require, Rejected};
use crate::policy::config::rope::RopeScaling;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A larger number of blocks is taken for a damaged file.
const MOST_LAYERS: usize = 10_000;

/// A wider head is taken for a damaged file.
const WIDEST_HEAD: usize = 65_536;

/// Hyper-parameters of a decoder, under Hugging Face's names.
///
/// It serialises as a complete `config.json`. Reading rejects unsupported architectures and every
/// field that would change the maths, so that a model checkpoint is never run as a different model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct DecoderConfig {
    /// Architecture of the blocks.
    pub family: Family,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key/value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Features per head, an even number; `None` means `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Biases on all four attention projections; a choice of Llama and Qwen3 only.
    pub attention_bias: bool,
    /// Longest sequence, in tokens. A file with a shorter sliding window is read with its window:
    /// for rows within it, attention is the same.
    pub max_position_embeddings: usize,
    /// ε of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Scaling of the rotary angles to a longer context.
    pub rope_scaling: RopeScaling,
    /// Use the embedding matrix as the output head.
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
}

impl DecoderConfig {
    /// A two-layer Qwen2 decoder of width 32 for tests and examples.
    pub fn tiny(vocab_size: usize) -> Self {
        Self {
            family: Family::Qwen2,
            vocab_size,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: None,
            attention_bias: false,
            max_position_embeddings: 256,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            tie_word_embeddings: true,
            initializer_range: 0.02,
        }
    }

    /// Features per head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Returns true if queries, keys and values have biases.
    pub fn has_qkv_bias(&self) -> bool {
        self.family == Family::Qwen2 || self.attention_bias
    }

    /// Returns true if every query and key head is normalised before the rotation.
    pub fn has_head_norms(&self) -> bool {
        self.family == Family::Qwen3
    }

    /// Rotary angles per position in radians, `[head_dim/2]`.
    pub fn rope_frequencies(&self) -> Vec<f64> {
        self.rope_scaling.frequencies(self.head_dim(), self.rope_theta)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// A size of 0, head counts that do not divide, an odd head width, or a number that is not
    /// positive.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|(field, value, reason)| Error::setting(field, value, reason))
    }

    /// Name and shape of every parameter, in model order.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let h = self.hidden_size;
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, h])];
        for layer in 0..self.num_hidden_layers {
            let named = |(name, shape)| (format!("model.layers.{layer}.{name}"), shape);
            shapes.extend(self.block_shapes().into_iter().map(named));
        }
        shapes.push(("model.norm.weight".to_owned(), vec![h]));
        if !self.tie_word_embeddings {
            shapes.push(("lm_head.weight".to_owned(), vec![self.vocab_size, h]));
        }
        shapes
    }

    fn block_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let h = self.hidden_size;
        let f = self.intermediate_size;
        let d = self.head_dim();
        let wide = self.num_attention_heads * d;
        let narrow = self.num_key_value_heads * d;
        let mut shapes = Vec::new();
        let mut push = |name: &str, shape: &[usize]| shapes.push((name.to_owned(), shape.to_vec()));
        push("input_layernorm.weight", &[h]);
        for (name, width) in [("q", wide), ("k", narrow), ("v", narrow)] {
            push(&format!("self_attn.{name}_proj.weight"), &[width, h]);
            if self.has_qkv_bias() {
                push(&format!("self_attn.{name}_proj.bias"), &[width]);
            }
        }
        push("self_attn.o_proj.weight", &[h, wide]);
        if self.attention_bias {
            push("self_attn.o_proj.bias", &[h]);
        }
        if self.has_head_norms() {
            push("self_attn.q_norm.weight", &[d]);
            push("self_attn.k_norm.weight", &[d]);
        }
        push("post_attention_layernorm.weight", &[h]);
        push("mlp.gate_proj.weight", &[f, h]);
        push("mlp.up_proj.weight", &[f, h]);
        push("mlp.down_proj.weight", &[h, f]);
        shapes
    }

    /// [`DecoderConfig::validate`], with the rejected field apart.
    pub(crate) fn check(&self) -> Result<(), Rejected> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (field, value) in sizes {
            require(
                value > 0 && value <= u32::MAX as usize,
                field,
                value,
                "must be between 1 and 2³² − 1",
            )?;
        }
        let layers = self.num_hidden_layers;
        let reason = format!("must be at most {MOST_LAYERS}");
        require(layers <= MOST_LAYERS, "num_hidden_layers", layers, &reason)?;
        self.check_heads()?;
        let positive = |x: f64| x > 0.0 && x.is_finite();
        require(
            positive(self.rms_norm_eps),
            "rms_norm_eps",
            self.rms_norm_eps,
            "must be positive",
        )?;
        require(positive(self.rope_theta), "rope_theta", self.rope_theta, "must be positive")?;
        self.rope_scaling.check()?;
        let range = self.initializer_range;
        require(
            range >= 0.0 && range.is_finite(),
            "initializer_range",
            range,
            "must be finite and not negative",
        )
    }

    fn check_heads(&self) -> Result<(), Rejected> {
        let heads = self.num_attention_heads;
        let kv = self.num_key_value_heads;
        match self.head_dim {
            Some(d) => {
                let fits = d > 0 && d.is_multiple_of(2) && d <= WIDEST_HEAD;
                let reason = format!("must be even and between 2 and {WIDEST_HEAD}");
                require(fits, "head_dim", d, &reason)?
            }
            None => require(
                self.hidden_size.is_multiple_of(2 * heads),
                "hidden_size",
                self.hidden_size,
                "must be an even multiple of num_attention_heads",
            )?,
        }
        require(
            heads.is_multiple_of(kv),
            "num_key_value_heads",
            kv,
            "must divide num_attention_heads",
        )?;
        let fits = !self.attention_bias || self.family.has_optional_biases();
        require(
            fits,
            "attention_bias",
            true,
            &format!("models of type {} have no such option", self.family.model_type()),
        )
    }
}
