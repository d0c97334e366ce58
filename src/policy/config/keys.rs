//! The keys of a `config.json` that the reader does not take.
//!
//! A key is ignored if it cannot enter the forward pass. A key that changes it in some architecture
//! is accepted at the value that switches it off, and refused otherwise. Any other key is refused,
//! because it might change the model; the setting `model.ignore` lets it pass.

use crate::policy::config::ignored::is_ignored;
use crate::policy::config::rejected::Rejected;
use serde_json::{Map, Value};

/// The values at which a key does not change the model.
#[derive(Clone, Copy)]
enum Neutral {
    /// `false`, 0, or an empty list, object or text.
    Off,
    /// `true`.
    On,
    /// 1, or a list of ones.
    One,
    /// One of these texts.
    Text(&'static [&'static str]),
    /// `hidden_size`.
    HiddenSize,
    /// `rms_norm_eps`.
    NormEps,
    /// The width of a head.
    HeadDim,
    /// `true` for models with norms of query and key heads, otherwise `false` or 0.
    HeadNorms,
    /// `true` for models with biases of queries, keys and values, otherwise `false`.
    QkvBias,
    /// The inverse root of a head's width.
    AttentionScale,
    /// A list of this text.
    All(&'static str),
}

/// Keys that change the forward pass in some architecture: names, neutral values and effect.
const KNOWN: &[(&[&str], Neutral, &str)] = &[
    (
        &[
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "attention_logit_cap",
            "attn_logit_cap",
            "logit_cap",
            "logits_soft_cap",
            "output_logits_soft_cap",
        ],
        Neutral::Off,
        "soft-capping of logits",
    ),
    (
        &[
            "logit_scale",
            "logits_scaling",
            "logits_scale",
            "lm_head_multiplier",
            "embedding_multiplier",
            "embedding_multiplier_scale",
            "residual_multiplier",
            "scale_emb",
            "embed_scale",
            "mup_width_multiplier",
            "mup_embeddings_scale",
            "mup_output_alpha",
            "attention_in_multiplier",
            "attention_out_multiplier",
            "embedding_scale",
            "output_multiplier",
            "output_multiplier_scale",
            "output_scale",
            "residual_scale",
            "key_multiplier",
            "mlp_multipliers",
            "rope_ratio",
        ],
        Neutral::One,
        "scaling of activations or logits",
    ),
    (
        &["scale_embedding", "scale_embeddings", "normalize_embedding", "use_mup", "scale_depth"],
        Neutral::Off,
        "scaling of activations",
    ),
    (&["query_pre_attn_scalar"], Neutral::HeadDim, "another scale of the attention scores"),
    (&["attention_multiplier"], Neutral::AttentionScale, "another scale of the attention scores"),
    (&["scale_attn_by_inverse_layer_idx"], Neutral::Off, "another scale of the attention scores"),
    (&["scale_attn_weights"], Neutral::On, "attention without a scale"),
    (&["dim_model_base"], Neutral::HiddenSize, "scaling of logits"),
    (&["word_embed_proj_dim"], Neutral::HiddenSize, "a projection of the embeddings"),
    (
        &["partial_rotary_factor", "rotary_pct", "rope_pct"],
        Neutral::One,
        "rotating a part of a head",
    ),
    (
        &["rope_interleaved", "rope_interleave", "rope_traditional"],
        Neutral::Off,
        "interleaved rotary pairs",
    ),
    (&["use_dynamic_ntk"], Neutral::Off, "another rotary base"),
    (&["use_logn_attn"], Neutral::Off, "another scale of the attention scores"),
    (&["no_rope_layers"], Neutral::One, "layers without rotary positions"),
    (&["no_rope_layer_interval", "nope_layer_interval"], Neutral::Off, "layers without positions"),
    (&["rope_local_base_freq", "global_rope_theta"], Neutral::Off, "a second rotary base"),
    (
        &["position_embedding_type", "pos_emb_type"],
        Neutral::Text(&["rope", "rotary"]),
        "other position embeddings",
    ),
    (&["alibi", "use_alibi", "use_mrope"], Neutral::Off, "other position embeddings"),
    (&["use_rope", "use_rotary", "rotary"], Neutral::On, "a model without rotary positions"),
    (&["is_llama_config"], Neutral::On, "another architecture"),
    (
        &[
            "num_experts",
            "num_local_experts",
            "n_routed_experts",
            "n_shared_experts",
            "num_experts_per_tok",
            "num_experts_per_token",
            "moe_num_experts",
            "moe_topk",
            "enable_moe_block",
        ],
        Neutral::Off,
        "mixture of experts",
    ),
    (
        &["kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim"],
        Neutral::Off,
        "latent attention",
    ),
    (&["v_head_dim"], Neutral::HeadDim, "values of another width"),
    (
        &[
            "attention_chunk_size",
            "attention_window_size",
            "attn_temperature_tuning",
            "attention_sink",
            "attention_sinks",
            "use_attention_sink",
            "global_attn_every_n_layers",
            "full_attention_interval",
            "sliding_window_pattern",
            "use_local_attention",
            "gated_attention",
            "attn_output_gate",
            "use_gated_attention",
            "num_kv_shared_layers",
            "cross_layer_attention",
            "use_cross_layer_attention",
        ],
        Neutral::Off,
        "another kind of attention",
    ),
    (&["layers_block_type"], Neutral::All("attention"), "another kind of layer"),
    (&["multi_query"], Neutral::Off, "another number of key heads"),
    (
        &["qk_norm", "use_qk_norm", "qk_layernorm", "use_qk_layernorm", "add_qk_norm"],
        Neutral::HeadNorms,
        "norms of queries and keys",
    ),
    (&["qkv_bias", "add_qkv_bias", "use_qkv_bias"], Neutral::QkvBias, "another set of biases"),
    (&["clip_qkv"], Neutral::Off, "clipping of queries, keys and values"),
    (
        &["layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps", "norm_epsilon"],
        Neutral::NormEps,
        "another ε of the norms",
    ),
    (&["rms_norm", "use_rms_norm"], Neutral::On, "norms that subtract the mean"),
    (
        &["norm_type", "normalization_type"],
        Neutral::Text(&["rmsnorm", "rms_norm", "RMSNorm", "rms"]),
        "another kind of norm",
    ),
    (
        &["use_post_norm", "post_norm", "sandwich_norm", "zero_centered_gamma", "layernorm1p"],
        Neutral::Off,
        "another kind of norm",
    ),
    (
        &["use_parallel_residual", "parallel_residual", "parallel_attn", "use_parallel_block"],
        Neutral::Off,
        "parallel attention and feed-forward",
    ),
    (
        &[
            "mlp_bias",
            "ffn_bias",
            "use_bias",
            "add_bias_linear",
            "lm_head_bias",
            "use_lm_head_bias",
            "norm_bias",
            "attention_out_bias",
            "attention_output_bias",
            "o_proj_bias",
        ],
        Neutral::Off,
        "another set of biases",
    ),
    (
        &["hidden_activation", "activation_function", "act_fn"],
        Neutral::Text(SILU),
        "another activation",
    ),
    (&["is_encoder_decoder", "add_cross_attention"], Neutral::Off, "an encoder"),
    (&["cross_attention_hidden_size", "tie_encoder_decoder"], Neutral::Off, "an encoder"),
    (&["pruned_heads"], Neutral::Off, "removed heads"),
    (&["per_layer_config", "hidden_size_per_layer_input"], Neutral::Off, "layers that differ"),
    (
        &["num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers"],
        Neutral::Off,
        "layers that predict further tokens",
    ),
    (
        &["quantization_config", "quantization", "compression_config"],
        Neutral::Off,
        "quantised weights",
    ),
    (
        &["vision_config", "text_config", "audio_config"],
        Neutral::Off,
        "a model of several modalities",
    ),
];

/// The names of the activation x·σ(x).
pub(crate) const SILU: &[&str] = &["silu", "swish"];

/// The facts about a model that some neutral values depend on.
pub(crate) struct Facts {
    pub(crate) head_dim: usize,
    pub(crate) hidden_size: usize,
    pub(crate) rms_norm_eps: f64,
    /// The model has norms of its query and key heads.
    pub(crate) head_norms: bool,
    /// The model has biases of queries, keys and values.
    pub(crate) qkv_bias: bool,
}

fn is_number(value: &Value, number: f64) -> bool {
    value.as_f64().is_some_and(|x| (x - number).abs() <= 1e-6 * number.abs())
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(_) => is_number(value, 0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

fn all(value: &Value, is: impl Fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(is))
}

impl Neutral {
    fn accepts(self, value: &Value, facts: &Facts) -> bool {
        let number = |number: f64| is_number(value, number);
        match self {
            Self::Off => is_off(value),
            Self::On => *value == true,
            Self::One => number(1.0) || all(value, |x| is_number(x, 1.0)),
            Self::Text(texts) => value.as_str().is_some_and(|text| texts.contains(&text)),
            Self::HiddenSize => number(facts.hidden_size as f64),
            Self::NormEps => number(facts.rms_norm_eps),
            Self::HeadNorms => is_off(value) || (facts.head_norms && *value == true),
            Self::QkvBias => *value == facts.qkv_bias,
            Self::HeadDim => number(facts.head_dim as f64),
            Self::AttentionScale => number((facts.head_dim as f64).powf(-0.5)),
            Self::All(text) => all(value, |x| x == text),
        }
    }

    fn words(self, facts: &Facts) -> String {
        match self {
            Self::Off => "null, false or 0".to_owned(),
            Self::On => "true".to_owned(),
            Self::One => "1".to_owned(),
            Self::Text(texts) => format!("{texts:?}"),
            Self::HiddenSize => format!("{}, as hidden_size", facts.hidden_size),
            Self::NormEps => format!("{}, as rms_norm_eps", facts.rms_norm_eps),
            Self::HeadNorms => facts.head_norms.to_string(),
            Self::QkvBias => facts.qkv_bias.to_string(),
            Self::HeadDim => format!("{}, the width of a head", facts.head_dim),
            Self::AttentionScale => {
                format!(
                    "{}, the inverse root of a head's width",
                    (facts.head_dim as f64).powf(-0.5)
                )
            }
            Self::All(text) => format!("a list of {text:?}"),
        }
    }
}

/// Requires every key that is left over to be ignored, neutral, null or one that `passes`.
pub(crate) fn check_rest(
    rest: &Map<String, Value>,
    facts: &Facts,
    passes: impl Fn(&str) -> bool,
) -> Result<(), Rejected> {
    for (key, value) in rest {
        if value.is_null() || passes(key) {
            continue;
        }
        let known = KNOWN.iter().find(|(names, ..)| names.contains(&key.as_str()));
        let reason = match known {
            Some((_, neutral, _)) if neutral.accepts(value, facts) => continue,
            Some((_, neutral, effect)) => {
                format!("{effect}: not supported, only {}", neutral.words(facts))
            }
            None if is_ignored(key) => continue,
            None => unknown(key),
        };
        return Err((key.clone(), value.to_string(), reason));
    }
    Ok(())
}

/// The reason against a key that nothing is known about.
pub(crate) fn unknown(key: &str) -> String {
    format!(
        "unknown field: it might change the model; if it does not, let it pass with \
         model.ignore = [\"{key}\"]"
    )
}
