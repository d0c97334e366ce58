//! The model's files.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::{DType, Device};
use epo::policy::{DecoderConfig, Family, Parameters};
use serde_json::json;

/// The files of the model.
pub(crate) struct Models {
    pub(crate) folder: PathBuf,
    pub(crate) gguf: Option<PathBuf>,
    /// A folder for files of this run.
    pub(crate) temporary: PathBuf,
}

impl Models {
    pub(crate) fn find(temporary: &Path) -> Result<Self> {
        let path = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        let temporary = temporary.to_owned();
        let gguf = path("EPO_BENCH_GGUF");
        if let Some(folder) = path("EPO_BENCH_MODEL") {
            return Ok(Self { folder, gguf, temporary });
        }
        println!("EPO_BENCH_MODEL names no folder with a model in Hugging Face's layout.");
        println!("The weights are random, in the shape of SmolLM2-135M-Instruct.");
        write_random(&temporary)?;
        Ok(Self { folder: temporary.clone(), gguf: None, temporary })
    }
}

/// Writes a model of SmolLM2-135M's shape with random weights.
fn write_random(folder: &Path) -> Result<()> {
    let config = DecoderConfig {
        family: Family::Llama,
        hidden_size: 576,
        intermediate_size: 1536,
        num_hidden_layers: 30,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        max_position_embeddings: 8192,
        rope_theta: 1e5,
        ..DecoderConfig::tiny(49_152)
    };
    let json = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": "float32",
    });
    std::fs::write(folder.join("config.json"), json.to_string())?;
    let parameters = Parameters::init(&config, 0, DType::F32, &Device::Cpu)?;
    Ok(parameters.save(folder.join("model.safetensors"))?)
}
