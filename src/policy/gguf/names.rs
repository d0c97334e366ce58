//! Names of tensors and configuration fields in GGUF files.

use crate::policy::config::family::Family;

/// Parts of a block: Hugging Face's names and llama.cpp's.
const PARTS: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

pub(crate) const EMBEDDING: &str = "token_embd.weight";
pub(crate) const HEAD: &str = "output.weight";
/// Divisors of the rotary frequencies.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// llama.cpp's name of a parameter of a decoder.
pub(crate) fn gguf_name(parameter: &str) -> String {
    let block = || {
        let (layer, rest) = parameter.strip_prefix("model.layers.")?.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        let (_, name) = PARTS.iter().find(|(known, _)| *known == part)?;
        Some(format!("blk.{layer}.{name}.{kind}"))
    };
    match parameter {
        "model.embed_tokens.weight" => EMBEDDING.to_owned(),
        "model.norm.weight" => "output_norm.weight".to_owned(),
        "lm_head.weight" => HEAD.to_owned(),
        _ => block().unwrap_or_else(|| parameter.to_owned()),
    }
}

/// The architecture's name in GGUF files.
pub(crate) fn architecture(family: Family) -> &'static str {
    match family {
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Llama | Family::Mistral => "llama",
    }
}

/// The key behind a field of `config.json`, without the architecture's prefix.
pub(crate) fn key_of(field: &str) -> Option<&'static str> {
    Some(match field {
        "hidden_size" => "embedding_length",
        "intermediate_size" => "feed_forward_length",
        "num_hidden_layers" => "block_count",
        "num_attention_heads" => "attention.head_count",
        "num_key_value_heads" => "attention.head_count_kv",
        "head_dim" => "attention.key_length",
        "max_position_embeddings" => "context_length",
        "rms_norm_eps" => "attention.layer_norm_rms_epsilon",
        "rope_theta" => "rope.freq_base",
        "rope_scaling.factor" => "rope.scaling.factor",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::config::decoder_config::DecoderConfig;
    use std::collections::BTreeSet;

    #[test]
    fn every_parameter_has_a_name_of_its_own() {
        for family in Family::ALL {
            let config = DecoderConfig {
                family,
                attention_bias: family.has_optional_biases(),
                tie_word_embeddings: false,
                ..DecoderConfig::tiny(50)
            };
            let shapes = config.parameter_shapes();
            let names: BTreeSet<String> = shapes.iter().map(|(name, _)| gguf_name(name)).collect();
            assert_eq!(names.len(), shapes.len());
            assert!(names.iter().all(|name| !name.starts_with("model.")), "{names:?}");
        }
        assert_eq!(gguf_name("model.layers.12.self_attn.k_proj.bias"), "blk.12.attn_k.bias");
    }
}
