//! The model's files.

use std::path::{Path, PathBuf};

use anyhow::{bail, Result};
use candle_core::{DType, Device};
use epo::policy::{DecoderConfig, Family, Parameters, Pretrained, Source};
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
        let temporary = temporary.to_owned();
        let written = temporary.join("model");
        let Ok(name) = std::env::var("EPO_BENCH_MODEL") else {
            println!("EPO_BENCH_MODEL names no model, such as smollm2-135m-instruct.");
            println!("The weights are random, in the shape of that model.");
            std::fs::create_dir(&written)?;
            write_random(&written)?;
            return Ok(Self { folder: written, gguf: None, temporary });
        };
        let (folder, gguf) = match Source::open(&name)? {
            Source::Folder(folder) => (folder, None),
            Source::Gguf(file) => {
                let gguf = file.path().to_owned();
                let model = Pretrained::open(Source::Gguf(file))?;
                let parameters = model.parameters(DType::F32, &Device::Cpu)?;
                model.save(&written, &parameters, Pretrained::SHARD_BYTES)?;
                (written, Some(gguf))
            }
            other => bail!("EPO_BENCH_MODEL: {other} is neither a folder nor a GGUF file"),
        };
        Ok(Self { folder, gguf, temporary })
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
