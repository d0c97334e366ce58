//! The configuration of a decoder from the metadata of a GGUF file.

use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::config::family::Family;
use crate::policy::config::rope::RopeScaling;
use crate::policy::gguf::header::Header;
use crate::policy::gguf::names::{architecture, key_of, EMBEDDING, HEAD, ROPE_FACTORS};
use crate::policy::gguf::rope::{scaling_of, stated_scaling, unknown_divisors};
use crate::policy::gguf::tensors::read_floats;
use crate::{Error, Result};
use candle_core::quantized::gguf_file::Value;

const ARCHITECTURE: &str = "general.architecture";

/// Keys of an architecture that the configuration is read from.
const READ: &[&str] = &[
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.type",
    "vocab_size",
];

/// Keys that cannot enter the forward pass.
const IGNORED: &[&str] = &[
    "attention.layer_norm_epsilon",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "tensor_data_layout",
];

/// The width of a sliding window, in tokens.
const WINDOW: &str = "attention.sliding_window";

/// Keys that change the forward pass unless they have one of these values.
const NEUTRAL: &[(&str, &[f64], &str)] = &[
    ("attention.causal", &[1.0], "attention to later tokens"),
    ("attention.clamp_kqv", &[0.0], "clamping of queries, keys and values"),
    ("attention.max_alibi_bias", &[0.0], "other position embeddings"),
    ("attention.scale", &[0.0], "another scale of the attention scores"),
    ("attn_logit_softcapping", &[0.0], "soft-capping of logits"),
    ("embedding_scale", &[0.0, 1.0], "scaling of activations"),
    ("expert_count", &[0.0], "mixtures of experts"),
    ("expert_used_count", &[0.0], "mixtures of experts"),
    ("final_logit_softcapping", &[0.0], "soft-capping of logits"),
    ("leading_dense_block_count", &[0.0], "mixtures of experts"),
    ("logit_scale", &[0.0, 1.0], "scaling of logits"),
    ("nextn_predict_layers", &[0.0], "further prediction layers"),
    ("pooling_type", &[0.0], "an embedding model"),
    ("residual_scale", &[0.0, 1.0], "scaling of activations"),
    ("use_parallel_residual", &[0.0], "another order of the layers"),
];

/// The family and the prefix of its keys.
fn family(header: &Header) -> Result<Family> {
    let name = header.text(ARCHITECTURE)?;
    let families = [Family::Llama, Family::Qwen2, Family::Qwen3];
    let found = families.into_iter().find(|&family| Some(architecture(family)) == name);
    found.ok_or_else(|| header.wrong(ARCHITECTURE, "only llama, qwen2 and qwen3 are supported"))
}

/// Requires a whole model of one file.
fn check_kind(header: &Header) -> Result<()> {
    if !matches!(header.text("general.type")?, None | Some("model")) {
        return Err(header.wrong("general.type", "only a whole model can be opened"));
    }
    if header.count("split.count")?.is_some_and(|count| count > 1) {
        let reason = "is one of several files: merge them with `llama-gguf-split --merge`";
        return Err(header.wrong("split.count", reason));
    }
    Ok(())
}

/// Reads the configuration.
///
/// `ignore` names unknown keys that do not change the model.
///
/// # Errors
/// A key or tensor that is missing, malformed, unknown or unsupported, by name and value.
pub(crate) fn read_config(header: &Header, ignore: &[String]) -> Result<DecoderConfig> {
    check_kind(header)?;
    let family = family(header)?;
    let prefix = architecture(family);
    let key = |name: &str| format!("{prefix}.{name}");
    check_keys(header, prefix, ignore)?;
    let size = |name: &str| header.size(&key(name), None);
    let heads = size("attention.head_count")?;
    let hidden_size = size("embedding_length")?;
    let head_dim = head_dim(header, prefix, hidden_size, heads)?;
    let biased = |part: &str| header.tensors.contains_key(&format!("blk.0.{part}.bias"));
    let scaling = stated_scaling(header, prefix)?;
    let mut config = DecoderConfig {
        family,
        vocab_size: vocab_size(header, &key("vocab_size"))?,
        hidden_size,
        intermediate_size: size("feed_forward_length")?,
        num_hidden_layers: size("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: header.size(&key("attention.head_count_kv"), Some(heads))?,
        head_dim,
        attention_bias: family.has_optional_biases() && biased("attn_q"),
        max_position_embeddings: size("context_length")?,
        rms_norm_eps: required(header, &key("attention.layer_norm_rms_epsilon"))?,
        rope_theta: header.number(&key("rope.freq_base"))?.unwrap_or(10_000.0),
        rope_scaling: scaling,
        tie_word_embeddings: !header.tensors.contains_key(HEAD),
        initializer_range: 0.02,
    };
    check(header, &config, prefix)?;
    check_rotation(header, &config, &key("rope.dimension_count"))?;
    config.rope_scaling = scaling_with_divisors(header, &config)?;
    Ok(config)
}

fn required(header: &Header, key: &str) -> Result<f64> {
    header.number(key)?.ok_or_else(|| header.wrong(key, "a number is required"))
}

/// The rows of the embedding matrix.
fn vocab_size(header: &Header, key: &str) -> Result<usize> {
    let Some(info) = header.tensors.get(EMBEDDING) else {
        return Err(Error::file(&header.path, EMBEDDING, "the tensor is missing"));
    };
    let rows = info.shape[0];
    match header.count(key)? {
        Some(stated) if stated != rows as u64 => {
            Err(header.wrong(key, &format!("{EMBEDDING} has {rows} rows")))
        }
        _ => Ok(rows),
    }
}

/// The width of a head, if it is stated and not `hidden_size / heads`.
fn head_dim(
    header: &Header,
    prefix: &str,
    hidden_size: usize,
    heads: usize,
) -> Result<Option<usize>> {
    let [of_keys, of_values] =
        ["key", "value"].map(|part| format!("{prefix}.attention.{part}_length"));
    let keys = header.count(&of_keys)?;
    if header.count(&of_values)?.is_some_and(|values| keys.is_some_and(|keys| keys != values)) {
        return Err(header.wrong(&of_values, "must be attention.key_length"));
    }
    let usual = hidden_size.checked_div(heads).unwrap_or(0) as u64;
    Ok(keys.filter(|&keys| keys != usual).and_then(|keys| usize::try_from(keys).ok()))
}

/// Checks the configuration, with GGUF's names in errors.
fn check(header: &Header, config: &DecoderConfig, prefix: &str) -> Result<()> {
    config.check().map_err(|(field, value, reason)| match key_of(&field) {
        Some(key) => header.wrong(&format!("{prefix}.{key}"), &reason),
        None => Error::file(&header.path, field, format!("= {value}: {reason}")),
    })
}

/// Requires whole heads to be rotated.
fn check_rotation(header: &Header, config: &DecoderConfig, key: &str) -> Result<()> {
    match header.count(key)? {
        Some(rotated) if rotated != config.head_dim() as u64 => {
            let reason = format!("only rotating whole heads ({}) is supported", config.head_dim());
            Err(header.wrong(key, &reason))
        }
        _ => Ok(()),
    }
}

fn scaling_with_divisors(header: &Header, config: &DecoderConfig) -> Result<RopeScaling> {
    if !header.tensors.contains_key(ROPE_FACTORS) {
        return Ok(config.rope_scaling);
    }
    let divisors = read_floats(header, ROPE_FACTORS)?;
    let scaling = scaling_of(&divisors, config.head_dim(), config.rope_theta);
    match (scaling, config.rope_scaling) {
        (Some(RopeScaling::None), stated) => Ok(stated),
        (Some(scaling), RopeScaling::None) => Ok(scaling),
        _ => Err(unknown_divisors(header)),
    }
}

/// Requires a sliding window to hold the whole context.
fn check_window(header: &Header, prefix: &str, key: &str) -> Result<()> {
    let window = header.count(key)?.unwrap_or(0);
    let context = header.count(&format!("{prefix}.context_length"))?.unwrap_or(0);
    if window == 0 || window >= context {
        return Ok(());
    }
    Err(header.wrong(key, "a window shorter than the context is not supported"))
}

/// Requires every key of the architecture to be read, without effect, or in `ignore`.
fn check_keys(header: &Header, prefix: &str, ignore: &[String]) -> Result<()> {
    let start = format!("{prefix}.");
    for (key, value) in &header.metadata {
        let Some(name) = key.strip_prefix(&start) else { continue };
        let ignored = ignore.contains(key);
        if READ.contains(&name) {
            if ignored {
                let reason = "the model is built from it, so model.ignore must not name it";
                return Err(header.wrong(key, reason));
            }
            continue;
        }
        if ignored || IGNORED.contains(&name) {
            continue;
        }
        if name == WINDOW {
            check_window(header, prefix, key)?;
            continue;
        }
        let Some((_, neutral, effect)) = NEUTRAL.iter().find(|(known, ..)| *known == name) else {
            let reason = format!(
                "is unknown, and might change the model; if it does not, let it pass with \
                 model.ignore = [\"{key}\"]"
            );
            return Err(header.wrong(key, &reason));
        };
        let number = match value {
            Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
            _ => header.number(key)?,
        };
        if !number.is_some_and(|number| neutral.contains(&number)) {
            return Err(header.wrong(key, &format!("{effect}: not supported")));
        }
    }
    Ok(())
}
