//! Small checkpoints with tokenizers, as folders and as GGUF files.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use epo::policy::{
    DecoderConfig, Family, GgufType, Parameters, Pretrained, RopeScaling, Source, Tokenizer,
};
use serde_json::{json, Value};

pub(crate) const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
    {{ m.content }}<|im_end|>\n{% endfor %}";

/// A decoder of every family, some with scaled rotations.
pub(crate) fn configs() -> Vec<DecoderConfig> {
    let of = |family: Family| DecoderConfig {
        family,
        head_dim: Some(16),
        initializer_range: 0.5,
        ..DecoderConfig::tiny(400)
    };
    vec![
        DecoderConfig { tie_word_embeddings: false, ..of(Family::Qwen2) },
        of(Family::Qwen3),
        DecoderConfig { rope_scaling: RopeScaling::Linear { factor: 2.0 }, ..of(Family::Llama) },
        DecoderConfig {
            attention_bias: true,
            tie_word_embeddings: false,
            rope_scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 64,
            },
            ..of(Family::Llama)
        },
    ]
}

/// Words of Llama 3 and Qwen2: `digits` stay together.
fn words(digits: &str) -> Value {
    let pattern = [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+",
        digits,
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
    .join("|");
    json!({
        "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false,
    })
}

/// Writes a checkpoint in Hugging Face's layout.
pub(crate) fn folder(config: &DecoderConfig, folder: &Path) -> Pretrained {
    let parameters = Parameters::init(config, 3, DType::F32, &Device::Cpu).unwrap();
    parameters.save(folder.join("model.safetensors")).unwrap();
    config.save(folder.join("config.json")).unwrap();
    let texts = ["go to the desk 12 345", "look  at it's place", "12 13 14 15"];
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let path = folder.join("tokenizer.json");
    Tokenizer::train(texts, 300, &special).unwrap().save(&path).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let bytes = |regex: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": regex,
        })
    };
    let steps = match config.family {
        Family::Qwen2 | Family::Qwen3 => vec![words(r"\p{N}"), bytes(false)],
        _ if config.attention_bias => vec![words(r"\p{N}{1,3}"), bytes(false)],
        _ => vec![json!({ "type": "Digits", "individual_digits": true }), bytes(true)],
    };
    if matches!(config.family, Family::Qwen2 | Family::Qwen3) {
        tokenizer["normalizer"] = json!({ "type": "NFC" });
    }
    tokenizer["model"]["ignore_merges"] = config.attention_bias.into();
    tokenizer["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": steps });
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let named = json!({ "bos_token": "<|im_start|>", "eos_token": "<|im_end|>" });
    std::fs::write(folder.join("tokenizer_config.json"), named.to_string()).unwrap();
    let ends = json!({ "eos_token_id": [2, 0] });
    std::fs::write(folder.join("generation_config.json"), ends.to_string()).unwrap();
    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
    Pretrained::open(folder).unwrap()
}

/// A GGUF file of one of [`configs`].
pub(crate) fn file(config: &DecoderConfig, kind: GgufType, at: &Path) -> PathBuf {
    let checkpoint = at.join("checkpoint");
    std::fs::create_dir_all(&checkpoint).unwrap();
    let model = folder(config, &checkpoint);
    let path = at.join("model.gguf");
    let parameters = model.parameters(DType::F32, &Device::Cpu).unwrap();
    model.save_gguf(&path, &parameters, kind).unwrap();
    path
}

/// Opens a GGUF file.
pub(crate) fn open(path: &Path) -> epo::Result<Pretrained> {
    Pretrained::open(Source::open(path.to_str().unwrap())?)
}
