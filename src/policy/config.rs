//! The hyper-parameters of a Qwen2 decoder, read from and written as a Hugging Face `config.json`.

use crate::train::atomic_write;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{json, Map, Value};
use std::path::Path;

/// Hyper-parameters of a Qwen2 decoder (Qwen2 Technical Report, arXiv 2407.10671), under Hugging Face's names.
///
/// It serialises as a complete `config.json`. Reading one rejects another architecture and every field
/// that would change the maths, so a checkpoint is never run as something it is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct DecoderConfig {
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads; `hidden_size` is an even multiple of it.
    pub num_attention_heads: usize,
    /// Key/value heads; `num_attention_heads` is a multiple of it.
    pub num_key_value_heads: usize,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// ε of the norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// The output head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
}

impl DecoderConfig {
    /// A two-layer decoder of width 32 for tests and examples.
    pub fn tiny(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 256,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
            initializer_range: 0.02,
        }
    }

    /// Features per head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Checks every field.
    ///
    /// # Errors
    /// A size of zero, heads that do not divide, an odd head width, or a number that must be positive.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|(field, value, reason)| Error::setting(field, value, reason))
    }

    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// An unreadable file, and every field that is missing, malformed, unknown or unsupported, by name.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let value = serde_json::from_str(&text).map_err(|e| Error::file(path, "json", e.to_string()))?;
        parse(value).map_err(|(field, value, reason)| Error::file(path, field, format!("{value}: {reason}")))
    }

    /// Writes `config.json` atomically.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let text = format!("{:#}\n", Value::from(self.clone()));
        atomic_write(path, text.as_bytes())
    }

    /// Name and shape of every parameter, in model order.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (h, f) = (self.hidden_size, self.intermediate_size);
        let kv = self.num_key_value_heads * self.head_dim();
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, h])];
        for layer in 0..self.num_hidden_layers {
            let mut push = |name: &str, shape: &[usize]| {
                shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
            };
            push("input_layernorm.weight", &[h]);
            for (name, width) in [("q", h), ("k", kv), ("v", kv)] {
                push(&format!("self_attn.{name}_proj.weight"), &[width, h]);
                push(&format!("self_attn.{name}_proj.bias"), &[width]);
            }
            push("self_attn.o_proj.weight", &[h, h]);
            push("post_attention_layernorm.weight", &[h]);
            push("mlp.gate_proj.weight", &[f, h]);
            push("mlp.up_proj.weight", &[f, h]);
            push("mlp.down_proj.weight", &[h, f]);
        }
        shapes.push(("model.norm.weight".to_owned(), vec![h]));
        if !self.tie_word_embeddings {
            shapes.push(("lm_head.weight".to_owned(), vec![self.vocab_size, h]));
        }
        shapes
    }

    fn check(&self) -> Result<(), Rejected> {
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
        let (heads, kv) = (self.num_attention_heads, self.num_key_value_heads);
        let even = self.hidden_size.is_multiple_of(2 * heads);
        require(even, "hidden_size", self.hidden_size, "must be an even multiple of num_attention_heads")?;
        require(heads.is_multiple_of(kv), "num_key_value_heads", kv, "must divide num_attention_heads")?;
        let positive = |x: f64| x > 0.0 && x.is_finite();
        require(positive(self.rms_norm_eps), "rms_norm_eps", self.rms_norm_eps, "must be positive")?;
        require(positive(self.rope_theta), "rope_theta", self.rope_theta, "must be positive")?;
        let range = self.initializer_range;
        require(
            range >= 0.0 && range.is_finite(),
            "initializer_range",
            range,
            "must be finite and not negative",
        )
    }
}

/// (field, value, reason)
type Rejected = (String, String, String);

fn require(ok: bool, field: &str, value: impl ToString, reason: &str) -> Result<(), Rejected> {
    if ok {
        Ok(())
    } else {
        Err((field.to_owned(), value.to_string(), reason.to_owned()))
    }
}

/// Fields of Hugging Face configurations that do not enter the forward pass.
const IGNORED: &[&str] = &[
    "_name_or_path",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "max_window_layers",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "return_dict",
    "sliding_window",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// Reads fields off a JSON object; what is left at the end is unknown.
struct Fields(Map<String, Value>);

impl Fields {
    fn take<T: serde::de::DeserializeOwned>(
        &mut self,
        field: &str,
        default: Option<T>,
    ) -> Result<T, Rejected> {
        match (self.0.remove(field), default) {
            (Some(value), _) => serde_json::from_value(value.clone())
                .map_err(|e| (field.to_owned(), value.to_string(), e.to_string())),
            (None, Some(default)) => Ok(default),
            (None, None) => Err((field.to_owned(), "missing".to_owned(), "the field is required".to_owned())),
        }
    }

    /// Requires `field`, where present and not null, to have a value that keeps the maths.
    fn only(&mut self, field: &str, accepted: impl Fn(&Value) -> bool, reason: &str) -> Result<(), Rejected> {
        match self.0.remove(field) {
            Some(value) if !value.is_null() && !accepted(&value) => require(false, field, value, reason),
            _ => Ok(()),
        }
    }
}

fn reject_other_architectures(fields: &mut Fields) -> Result<(), Rejected> {
    let kind: String = fields.take("model_type", None)?;
    require(kind == "qwen2", "model_type", &kind, "only \"qwen2\" is supported")?;
    let list =
        |item: &'static str| move |v: &Value| v.as_array().is_some_and(|a| a.iter().all(|x| x == item));
    fields.only("architectures", list("Qwen2ForCausalLM"), "only [\"Qwen2ForCausalLM\"] is supported")?;
    fields.only("hidden_act", |v| v == "silu", "only \"silu\" is supported")?;
    fields.only("use_sliding_window", |v| v == false, "sliding windows are not supported")?;
    fields.only("use_mrope", |v| v == false, "multimodal positions are not supported")?;
    fields.only("rope_scaling", |_| false, "scaled positions are not supported")?;
    fields.only("layer_types", list("full_attention"), "only full attention is supported")
}

/// θ from `rope_theta` or from the newer `rope_parameters` object.
fn rope_theta(fields: &mut Fields) -> Result<f64, Rejected> {
    let Some(value) = fields.0.remove("rope_parameters") else {
        return fields.take("rope_theta", Some(10_000.0));
    };
    let kind = value.get("rope_type").cloned().unwrap_or_else(|| json!("default"));
    require(kind == "default", "rope_parameters.rope_type", kind, "only \"default\" is supported")?;
    let theta = value.get("rope_theta").and_then(Value::as_f64);
    theta.ok_or_else(|| {
        ("rope_parameters.rope_theta".to_owned(), value.to_string(), "a number is required".to_owned())
    })
}

fn parse(value: Value) -> Result<DecoderConfig, Rejected> {
    let Value::Object(map) = value else {
        return Err(("json".to_owned(), value.to_string(), "an object is required".to_owned()));
    };
    let mut fields = Fields(map);
    reject_other_architectures(&mut fields)?;
    let heads = fields.take("num_attention_heads", None)?;
    let config = DecoderConfig {
        vocab_size: fields.take("vocab_size", None)?,
        hidden_size: fields.take("hidden_size", None)?,
        intermediate_size: fields.take("intermediate_size", None)?,
        num_hidden_layers: fields.take("num_hidden_layers", None)?,
        num_attention_heads: heads,
        num_key_value_heads: fields.take("num_key_value_heads", Some(heads))?,
        max_position_embeddings: fields.take("max_position_embeddings", None)?,
        rms_norm_eps: fields.take("rms_norm_eps", None)?,
        rope_theta: rope_theta(&mut fields)?,
        tie_word_embeddings: fields.take("tie_word_embeddings", Some(false))?,
        initializer_range: fields.take("initializer_range", Some(0.02))?,
    };
    let unknown =
        fields.0.iter().find(|(field, value)| !IGNORED.contains(&field.as_str()) && !value.is_null());
    if let Some((field, value)) = unknown {
        require(false, field, value, "unknown field: it might change the model")?;
    }
    config.check()?;
    Ok(config)
}

impl TryFrom<Value> for DecoderConfig {
    type Error = Error;

    fn try_from(value: Value) -> Result<Self> {
        parse(value).map_err(|(field, value, reason)| Error::setting(field, value, reason))
    }
}

impl From<DecoderConfig> for Value {
    fn from(c: DecoderConfig) -> Self {
        json!({
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "use_sliding_window": false,
            "vocab_size": c.vocab_size,
            "hidden_size": c.hidden_size,
            "intermediate_size": c.intermediate_size,
            "num_hidden_layers": c.num_hidden_layers,
            "num_attention_heads": c.num_attention_heads,
            "num_key_value_heads": c.num_key_value_heads,
            "max_position_embeddings": c.max_position_embeddings,
            "rms_norm_eps": c.rms_norm_eps,
            "rope_theta": c.rope_theta,
            "tie_word_embeddings": c.tie_word_embeddings,
            "initializer_range": c.initializer_range,
        })
    }
}
