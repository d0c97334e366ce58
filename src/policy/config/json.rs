//! [`DecoderConfig`] as the JSON of Hugging Face's `config.json`, read and written.
//!
//! Fields are taken out of the object one by one. The ones below are known not to enter the forward
//! pass; whatever else is left at the end is refused, because it might change the model.

use crate::files::atomic_write;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::config::family::Family;
use crate::policy::config::fields::Fields;
use crate::policy::config::rejected::{require, Rejected};
use crate::policy::config::rope::RopeScaling;
use crate::policy::files::read_json;
use crate::{Error, Result};
use serde_json::{json, Value};
use std::path::Path;

/// Fields of Hugging Face configurations that do not enter the forward pass.
const IGNORED: &[&str] = &[
    "_name_or_path",
    "attention_dropout",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "label2id",
    "max_window_layers",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "use_cache",
];

fn family(fields: &mut Fields) -> Result<Family, Rejected> {
    let kind: String = fields.take("model_type", None)?;
    let Some(family) = Family::ALL.into_iter().find(|family| family.model_type() == kind) else {
        let reason =
            format!("only {} are supported", Family::ALL.map(Family::model_type).join(", "));
        return Err(("model_type".to_owned(), kind, reason));
    };
    let name = family.architecture();
    let reason = format!("model_type {kind} goes with [\"{name}\"] only");
    fields.only("architectures", |v| all_equal(v, name), &reason)?;
    Ok(family)
}

fn all_equal(list: &Value, item: &str) -> bool {
    list.as_array().is_some_and(|a| a.iter().all(|x| x == item))
}

fn reject_other_maths(fields: &mut Fields) -> Result<(), Rejected> {
    fields.only("hidden_act", |v| v == "silu", "only \"silu\" is supported")?;
    fields.only(
        "mlp_bias",
        |v| v == false,
        "biases in the feed-forward block are not supported",
    )?;
    fields.only("use_mrope", |v| v == false, "multimodal positions are not supported")?;
    fields.only(
        "rope_interleaved",
        |v| v == false,
        "interleaved rotary pairs are not supported",
    )?;
    fields.only("is_llama_config", |v| v == true, "only true is supported")?;
    fields.only("is_encoder_decoder", |v| v == false, "only decoders are supported")?;
    fields.only(
        "partial_rotary_factor",
        |v| v.as_f64() == Some(1.0),
        "only 1.0 is supported: whole heads are rotated",
    )
}

/// Refuses a sliding window that is shorter than the context, so that some sequence would be
/// affected by it.
fn reject_window(fields: &mut Fields, family: Family, context: usize) -> Result<(), Rejected> {
    let mistral = family == Family::Mistral;
    let used =
        mistral | fields.take::<Option<bool>>("use_sliding_window", Some(None))?.unwrap_or(false);
    // The default of a Mistral configuration is a window of 4096 tokens.
    let unstated = if mistral { 4096 } else { 0 };
    let window: Option<usize> = fields.take("sliding_window", Some(Some(unstated)))?;
    if let Some(window) = window.filter(|&window| used && window < context) {
        let needed = format!("a window below max_position_embeddings ({context}) is not supported");
        return if mistral {
            require(false, "sliding_window", window, &needed)
        } else {
            require(
                false,
                "use_sliding_window",
                true,
                &format!("sliding_window {window}: {needed}"),
            )
        };
    }
    let whole = |kind: &Value| kind == "full_attention" || (used && kind == "sliding_attention");
    let all_whole = |list: &Value| list.as_array().is_some_and(|kinds| kinds.iter().all(whole));
    fields.only("layer_types", all_whole, "only full attention is supported")
}

/// Reads the base θ and the scaling from `rope_theta` and `rope_scaling`, or from `rope_parameters`
/// (transformers 5).
fn rope(fields: &mut Fields) -> Result<(f64, RopeScaling), Rejected> {
    let outer: Option<f64> = fields.take("rope_theta", Some(None))?;
    let mut theta = outer;
    let mut scaling = RopeScaling::None;
    for (name, prefix) in
        [("rope_scaling", "rope_scaling."), ("rope_parameters", "rope_parameters.")]
    {
        match fields.map.remove(name) {
            None | Some(Value::Null) => {}
            Some(Value::Object(map)) => {
                let mut inner = Fields { map, prefix };
                theta = inner.take("rope_theta", Some(theta))?;
                scaling = rope_scaling(inner)?;
            }
            Some(value) => {
                return Err((
                    name.to_owned(),
                    value.to_string(),
                    "an object is required".to_owned(),
                ))
            }
        }
    }
    Ok((theta.unwrap_or(10_000.0), scaling))
}

fn rope_scaling(mut fields: Fields) -> Result<RopeScaling, Rejected> {
    let whole = Value::Object(fields.map.clone()).to_string();
    let field = format!("{}rope_type", fields.prefix);
    let refused = |reason: &str| Err((field.clone(), whole.clone(), reason.to_owned()));
    let older: Option<String> = fields.take("type", Some(None))?;
    let kind: Option<String> = fields.take("rope_type", Some(older))?;
    let scaling = match kind.as_deref() {
        None | Some("default") => {
            if fields.map.remove("factor").is_some_and(|v| !v.is_null()) {
                return refused("a factor needs a rope_type");
            }
            RopeScaling::None
        }
        Some("linear") => RopeScaling::Linear { factor: fields.take("factor", None)? },
        Some("llama3") => RopeScaling::Llama3 {
            factor: fields.take("factor", None)?,
            low_freq_factor: fields.take("low_freq_factor", None)?,
            high_freq_factor: fields.take("high_freq_factor", None)?,
            original_max_position_embeddings: fields
                .take("original_max_position_embeddings", None)?,
        },
        Some(_) => return refused("only \"default\", \"linear\" and \"llama3\" are supported"),
    };
    fields.only(
        "partial_rotary_factor",
        |v| v.as_f64() == Some(1.0),
        "only 1.0 is supported: whole heads are rotated",
    )?;
    fields.finish(&[])?;
    Ok(scaling)
}

fn attention_bias(fields: &mut Fields, family: Family) -> Result<bool, Rejected> {
    if family.has_optional_biases() {
        return Ok(fields.take("attention_bias", Some(None))?.unwrap_or(false));
    }
    let fixed = family == Family::Qwen2;
    let reason = format!("must be {fixed} for models of type {}", family.model_type());
    fields.only("attention_bias", |v| *v == fixed, &reason)?;
    Ok(false)
}

fn parse(value: Value) -> Result<DecoderConfig, Rejected> {
    let Value::Object(map) = value else {
        return Err(("json".to_owned(), value.to_string(), "an object is required".to_owned()));
    };
    let mut fields = Fields { map, prefix: "" };
    let family = family(&mut fields)?;
    reject_other_maths(&mut fields)?;
    let context = fields.take("max_position_embeddings", None)?;
    reject_window(&mut fields, family, context)?;
    let (rope_theta, rope_scaling) = rope(&mut fields)?;
    let heads = fields.take("num_attention_heads", None)?;
    let stated: Option<usize> = fields.take("head_dim", Some(None))?;
    let config = DecoderConfig {
        family,
        vocab_size: fields.take("vocab_size", None)?,
        hidden_size: fields.take("hidden_size", None)?,
        intermediate_size: fields.take("intermediate_size", None)?,
        num_hidden_layers: fields.take("num_hidden_layers", None)?,
        num_attention_heads: heads,
        num_key_value_heads: fields
            .take("num_key_value_heads", Some(Some(heads)))?
            .unwrap_or(heads),
        // The default of a Qwen3 configuration.
        head_dim: stated.or((family == Family::Qwen3).then_some(128)),
        attention_bias: attention_bias(&mut fields, family)?,
        max_position_embeddings: context,
        rms_norm_eps: fields.take("rms_norm_eps", None)?,
        rope_theta,
        rope_scaling,
        tie_word_embeddings: fields.take("tie_word_embeddings", Some(false))?,
        initializer_range: fields.take("initializer_range", Some(0.02))?,
    };
    fields.finish(IGNORED)?;
    config.check()?;
    Ok(config)
}

impl DecoderConfig {
    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// An unreadable file, or a field that is missing, malformed, unknown or unsupported, by name.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        parse(read_json(path)?).map_err(|(field, value, reason)| {
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
        parse(value).map_err(|(field, value, reason)| Error::setting(field, value, reason))
    }
}

impl From<RopeScaling> for Value {
    fn from(scaling: RopeScaling) -> Self {
        match scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
        }
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
