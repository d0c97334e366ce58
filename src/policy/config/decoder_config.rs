//! The hyper-parameters of a decoder, read from and written as a Hugging Face `config.json`.

use crate::policy::config::family::Family;
use crate::policy::config::rejected::{require, Rejected};
use crate::policy::config::rope::RopeScaling;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Hyper-parameters of a decoder, under Hugging Face's names.
///
/// It serialises as a complete `config.json`. Reading one rejects another architecture and every field
/// that would change the maths, so a checkpoint is never run as something it is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct DecoderConfig {
    /// The form of the blocks.
    pub family: Family,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; `num_attention_heads` is a multiple of it.
    pub num_key_value_heads: usize,
    /// Features per head, even; `None`: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Biases on all four projections of the attention, where the family leaves it open (Llama, Qwen3).
    pub attention_bias: bool,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// ε of the norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// How the rotary angles were stretched to a longer context.
    pub rope_scaling: RopeScaling,
    /// The output head is the embedding matrix.
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

    /// Whether queries, keys and values have biases.
    pub fn has_qkv_bias(&self) -> bool {
        self.family == Family::Qwen2 || self.attention_bias
    }

    /// Whether every query and key head is normalised before it is rotated.
    pub fn has_head_norms(&self) -> bool {
        self.family == Family::Qwen3
    }

    /// The rotary angles per position, `[head_dim/2]`.
    pub fn rope_frequencies(&self) -> Vec<f64> {
        self.rope_scaling.frequencies(self.head_dim(), self.rope_theta)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// A size of zero, heads that do not divide, an odd head width, or a number that must be positive.
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
        let (h, f, d) = (self.hidden_size, self.intermediate_size, self.head_dim());
        let (wide, narrow) = (self.num_attention_heads * d, self.num_key_value_heads * d);
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
                "must be a positive 32-bit number",
            )?;
        }
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
        let (heads, kv) = (self.num_attention_heads, self.num_key_value_heads);
        match self.head_dim {
            Some(d) => {
                require(d > 0 && d.is_multiple_of(2), "head_dim", d, "must be positive and even")?
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
            &format!("{} has no such choice", self.family.model_type()),
        )
    }
}
