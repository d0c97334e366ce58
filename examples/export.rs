//! Writes a trained model, or any model checkpoint, for other programs: transformers, PEFT, vLLM,
//! llama.cpp.
//!
//! ```text
//! cargo run --release --example export -- runs/alfworld_grpo-0 --format hf --out trained
//! cargo run --release --example export -- runs/alfworld_grpo-0 --format peft --out adapter
//! cargo run --release --example export -- runs/alfworld_grpo-0 --format gguf --out trained.gguf
//! cargo run --release --example export -- --model model.gguf --format hf --out folder
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{bail, ensure, Context, Result};
use candle_core::{DType, Device};
use clap::{Parser, ValueEnum};
use epo::policy::{GgufType, Parameters, Pretrained, Source};
use epo::run::{read_config, Checkpoint};
use epo::train::config::ModelConfig;
use serde::Deserialize;

use output::print_line;

#[path = "common/output.rs"]
mod output;

#[derive(Parser)]
#[command(
    about = "Write a trained model, or any model checkpoint, for other programs",
    after_help = "With LoRA adapters, `hf` and `gguf` write the merged weights.\n\
                  `peft` writes the adapters alone, for PEFT and vLLM."
)]
struct Args {
    /// Run folder of a training example
    #[arg(required_unless_present = "model", conflicts_with = "model")]
    run: Option<PathBuf>,
    /// Training step of the run's checkpoint [default: the newest]
    #[arg(long, value_name = "N", conflicts_with = "model")]
    step: Option<u64>,
    /// Instead of a run: a folder in Hugging Face's layout, a GGUF file or a named model
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// LoRA adapter in PEFT's layout, to be merged into --model
    #[arg(long, value_name = "DIR", requires = "model")]
    adapter: Option<PathBuf>,
    /// Layout of what is written
    #[arg(long, value_enum, default_value = "hf")]
    format: Format,
    /// Element type of the matrices [default: f32 for hf, f16 for gguf]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Option<Kind>,
    /// The folder to create, or the GGUF file to write
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Folder in Hugging Face's layout
    Hf,
    /// LoRA adapters in PEFT's layout
    Peft,
    /// One GGUF file for llama.cpp
    Gguf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Kind {
    /// Single precision
    F32,
    /// Half precision (gguf)
    F16,
    /// bfloat16 (hf)
    Bf16,
    /// 8-bit blocks (gguf)
    #[value(name = "q8_0")]
    Q8_0,
}

/// The part of a run's settings that the export needs.
#[derive(Deserialize)]
struct RunConfig {
    model: ModelConfig,
}

/// A model and its weights, with or without adapters.
struct Model {
    files: Pretrained,
    parameters: Parameters,
}

fn main() -> ExitCode {
    output::run(export)
}

fn export() -> Result<()> {
    let args = Args::parse();
    ensure!(!args.out.exists(), "{} exists already", args.out.display());
    let Model { files, parameters } = match (&args.run, &args.model) {
        (Some(run), _) => trained(run, args.step)?,
        (None, Some(model)) => published(model, args.adapter.as_deref())?,
        (None, None) => bail!("name a run or a model"),
    };
    match (args.format, args.kind) {
        (Format::Peft, None) => {
            ensure!(
                parameters.lora().is_some(),
                "the run trained all weights: there is no adapter"
            );
            parameters.save_adapter(&args.out, &files.source().to_string())?;
        }
        (Format::Peft, Some(_)) => bail!("adapters are written in f32: leave out --type"),
        (Format::Hf, kind) => {
            let dtype = match kind {
                None | Some(Kind::F32) => DType::F32,
                Some(Kind::Bf16) => DType::BF16,
                Some(Kind::F16 | Kind::Q8_0) => bail!("hf is written in f32 or bf16"),
            };
            let parameters = converted(&files, &merged(&files, parameters)?, dtype)?;
            files.save(&args.out, &parameters, Pretrained::SHARD_BYTES)?;
        }
        (Format::Gguf, kind) => {
            let kind = match kind {
                None | Some(Kind::F16) => GgufType::F16,
                Some(Kind::F32) => GgufType::F32,
                Some(Kind::Q8_0) => GgufType::Q8_0,
                Some(Kind::Bf16) => bail!("gguf is written in f32, f16 or q8_0"),
            };
            files.save_gguf(&args.out, &merged(&files, parameters)?, kind)?;
        }
    }
    print_line(format_args!("wrote {}", args.out.display()))?;
    Ok(())
}

/// The policy of a run's checkpoint.
fn trained(run: &Path, step: Option<u64>) -> Result<Model> {
    let config: RunConfig = read_config(run.join("config.toml"))?;
    let checkpoint = match step {
        Some(step) => Checkpoint::open(run.join(format!("checkpoints/step-{step:06}")))?,
        None => {
            let latest = Checkpoint::latest(run)?.checkpoint;
            latest.with_context(|| format!("{} has no checkpoint", run.display()))?
        }
    };
    let Some(model) = config.model.checkpoint() else {
        let files = Pretrained::open(checkpoint.dir())?;
        let parameters = files.parameters(DType::F32, &Device::Cpu)?;
        return Ok(Model { files, parameters });
    };
    let files = model.open()?;
    let parameters = if model.lora.is_some() {
        let base = files.parameters(DType::F32, &Device::Cpu)?;
        base.load_adapter(files.config(), checkpoint.dir())?
    } else {
        let dtype = config.model.dtype();
        let path = checkpoint.file("model.safetensors")?;
        Parameters::load(path, files.config(), dtype, &Device::Cpu)?
    };
    Ok(Model { files, parameters })
}

/// A model checkpoint, with or without an adapter.
fn published(model: &str, adapter: Option<&Path>) -> Result<Model> {
    let files = Pretrained::open(Source::open(model)?)?;
    let parameters = files.parameters(DType::F32, &Device::Cpu)?;
    let parameters = match adapter {
        Some(adapter) => parameters.load_adapter(files.config(), adapter)?,
        None => parameters,
    };
    Ok(Model { files, parameters })
}

/// The weights as `dtype`.
fn converted(files: &Pretrained, parameters: &Parameters, dtype: DType) -> Result<Parameters> {
    let mut tensors = parameters.tensors();
    for tensor in tensors.values_mut() {
        *tensor = tensor.to_dtype(dtype)?;
    }
    Ok(Parameters::from_tensors(files.config(), tensors)?)
}

/// The weights with the adapters merged into them.
fn merged(files: &Pretrained, parameters: Parameters) -> Result<Parameters> {
    match parameters.lora() {
        Some(_) => Ok(parameters.merged(files.config())?),
        None => Ok(parameters),
    }
}
