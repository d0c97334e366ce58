//! [`DecoderConfig`] as the JSON of Hugging Face's `config.json`, read and written.
//!
//! Fields are taken out of the object one by one. What is left at the end is judged by
//! [`check_rest`]. A missing field has the default of its family in transformers.

use crate::files::atomic_write;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::config::family::Family;
use crate::policy::config::fields::Fields;
use crate::policy::config::keys::{check_rest, Facts, SILU};
use crate::policy::config::rejected::Rejected;
use crate::policy::config::rope::RopeScaling;
use crate::policy::config::rope_json::read_rope;
use crate::policy::config::windows::read_window;
use crate::policy::files::read_json;
use crate::{Error, Result};
use serde_json::{json, Value};
use std::path::Path;

fn family(fields: &mut Fields<'_>) -> Result<Family, Rejected> {
    let kind: String = fields.take("model_type", None)?;
    let Some(family) = Family::ALL.into_iter().find(|family| family.model_type() == kind) else {
        let reason =
            format!("only {} are supported", Family::ALL.map(Family::model_type).join(", "));
        return Err(("model_type".to_owned(), kind, reason));
    };
    let reason = format!("model_type {kind} goes with [\"{}\"] only", family.architecture());
    let fits = |list: &Value| list.as_array().is_some_and(|a| a.iter().all(|x| is_of(x, family)));
    fields.only("architectures", fits, &reason)?;
    Ok(family)
}

/// Returns true if `name` is the decoder of a family, with or without its output head.
fn is_of(name: &Value, family: Family) -> bool {
    let architecture = family.architecture();
    let headless = architecture.replace("ForCausalLM", "Model");
    // The spelling of early conversions.
    let older = family == Family::Llama && name == "LLaMAForCausalLM";
    name == architecture || *name == headless || older
}

fn attention_bias(fields: &mut Fields<'_>, family: Family) -> Result<bool, Rejected> {
    if family.has_optional_biases() {
        return Ok(fields.take("attention_bias", Some(None))?.unwrap_or(false));
    }
    let fixed = family == Family::Qwen2;
    let reason = format!("must be {fixed} for models of type {}", family.model_type());
    fields.only("attention_bias", |v| *v == fixed, &reason)?;
    Ok(false)
}

fn parse(value: Value, ignore: &[String]) -> Result<DecoderConfig, Rejected> {
    let Value::Object(map) = value else {
        return Err(("json".to_owned(), value.to_string(), "an object is required".to_owned()));
    };
    let mut fields = Fields::new(map, "", ignore);
    let family = family(&mut fields)?;
    let silu = |value: &Value| value.as_str().is_some_and(|text| SILU.contains(&text));
    fields.only("hidden_act", silu, "only \"silu\" is supported")?;
    let longest = fields.take_or("max_position_embeddings", family.unstated_context())?;
    let (rope_theta, rope_scaling) = read_rope(&mut fields, longest)?;
    let layers = fields.take("num_hidden_layers", None)?;
    let window = read_window(&mut fields, family, layers)?;
    let heads = fields.take("num_attention_heads", None)?;
    let stated: Option<usize> = fields.take("head_dim", Some(None))?;
    let config = DecoderConfig {
        family,
        vocab_size: fields.take("vocab_size", None)?,
        hidden_size: fields.take("hidden_size", None)?,
        intermediate_size: fields.take("intermediate_size", None)?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: fields
            .take("num_key_value_heads", Some(family.unstated_key_value_heads()))?
            .unwrap_or(heads),
        // The default of a Qwen3 configuration.
        head_dim: stated.or((family == Family::Qwen3).then_some(128)),
        attention_bias: attention_bias(&mut fields, family)?,
        max_position_embeddings: window.map_or(longest, |window| window.min(longest)),
        rms_norm_eps: fields.take_or("rms_norm_eps", 1e-6)?,
        rope_theta,
        rope_scaling,
        tie_word_embeddings: fields.take_or("tie_word_embeddings", false)?,
        initializer_range: fields.take_or("initializer_range", 0.02)?,
    };
    fields.check_ignored()?;
    config.check()?;
    let facts = Facts {
        head_dim: config.head_dim(),
        hidden_size: config.hidden_size,
        rms_norm_eps: config.rms_norm_eps,
        head_norms: config.has_head_norms(),
        qkv_bias: config.has_qkv_bias(),
    };
    check_rest(&fields.map, &facts, |key| fields.passes(key))?;
    Ok(config)
}

impl DecoderConfig {
    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// An unreadable file, or a field that is missing, malformed, unknown or unsupported, by name.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_file_ignoring(path, &[])
    }

    /// [`DecoderConfig::from_file`] with the names of unknown fields that do not change the model,
    /// such as `"trained_by"`. Names that the file does not have are allowed.
    ///
    /// # Errors
    /// As [`DecoderConfig::from_file`], and a name in `ignore` of a field that the model is built
    /// from.
    pub fn from_file_ignoring(path: impl AsRef<Path>, ignore: &[String]) -> Result<Self> {
        let path = path.as_ref();
        parse(read_json(path)?, ignore).map_err(|(field, value, reason)| {
            Error::file(path, field, format!("{value}: {reason}"))
        })
    }

    /// Writes `config.json` atomically.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let text = format!("{:#}\n", Value::from(self.clone()));
        atomic_write(path, text.as_bytes())
    }
}

impl TryFrom<Value> for DecoderConfig {
    type Error = Error;

    fn try_from(value: Value) -> Result<Self> {
        parse(value, &[]).map_err(|(field, value, reason)| Error::setting(field, value, reason))
    }
}

/// The fields that only some families have.
fn family_fields(c: &DecoderConfig) -> Vec<(&'static str, Value)> {
    let mut fields = match c.family {
        Family::Qwen2 => vec![("use_sliding_window", json!(false))],
        Family::Qwen3 => {
            vec![("use_sliding_window", json!(false)), ("attention_bias", json!(c.attention_bias))]
        }
        Family::Llama => {
            vec![("mlp_bias", json!(false)), ("attention_bias", json!(c.attention_bias))]
        }
        Family::Mistral => vec![("sliding_window", Value::Null)],
    };
    if c.family == Family::Qwen3 || c.head_dim.is_some() {
        fields.push(("head_dim", json!(c.head_dim())));
    }
    if c.rope_scaling != RopeScaling::None {
        fields.push(("rope_scaling", c.rope_scaling.into()));
    }
    fields
}

impl From<DecoderConfig> for Value {
    fn from(c: DecoderConfig) -> Self {
        let mut value = json!({
            "architectures": [c.family.architecture()],
            "model_type": c.family.model_type(),
            "hidden_act": "silu",
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
        });
        for (field, content) in family_fields(&c) {
            value[field] = content;
        }
        value
    }
}
