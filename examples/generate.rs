//! Answers prompts with a language model: a folder in Hugging Face's layout, a GGUF file or a named
//! model.
//!
//! ```text
//! cargo run --release --example generate -- --model smollm2-135m-instruct \
//!     "What is the capital of France?"
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{ensure, Result};
use candle_core::{DType, Device};
use clap::{Parser, ValueEnum};
use epo::policy::{
    Chat, Decoder, KvCache, Message, Parameters, Pretrained, Request, SamplingParams, Source,
};
use epo::rng::{Purpose, Stream};
use serde_json::json;

use output::print_line;

#[path = "common/output.rs"]
mod output;

#[derive(Parser)]
#[command(about = "Answer prompts with a language model")]
struct Args {
    /// User messages, each the beginning of a conversation of its own
    #[arg(required = true)]
    prompts: Vec<String>,
    /// Folder in Hugging Face's layout, GGUF file or named model
    #[arg(long, value_name = "MODEL", default_value = "smollm2-135m-instruct")]
    model: String,
    /// LoRA adapter in PEFT's layout
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Form of the weights in memory
    #[arg(long, value_enum, default_value = "f32")]
    dtype: WeightForm,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// Temperature of sampling; 0 takes the most probable token
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Seed of sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object per prompt: token ids, log-probabilities and entropies in nats
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum WeightForm {
    /// Single precision
    F32,
    /// bfloat16
    Bf16,
    /// The quantised blocks of a GGUF file
    Quantized,
}

fn main() -> ExitCode {
    output::run(generate)
}

fn generate() -> Result<()> {
    let args = Args::parse();
    let model = Pretrained::open(Source::open(&args.model)?)?;
    let decoder = Decoder::new(model.config(), &parameters(&model, &args)?)?;
    let tokenizer = model.tokenizer()?;
    let template = model.chat_template()?;
    let mut prompts = Vec::new();
    for prompt in &args.prompts {
        let chat = Chat::new(&[Message::user(prompt)])?.with_generation_prompt(true);
        prompts.push(template.encode(&chat, &tokenizer)?);
    }
    let mut cache = KvCache::new(model.config(), prompts.len());
    let mut requests = Vec::new();
    for (row, prompt) in prompts.iter().enumerate() {
        let stream = Stream::new(args.seed, Purpose::Rollout, 0, 0, row as u32);
        requests.push(Request { row, prompt, stream, turn: 0, choices: None });
    }
    let greedy = args.temperature == 0.0;
    let sampling = SamplingParams {
        greedy,
        temperature: if greedy { 1.0 } else { args.temperature },
        max_tokens: args.max_tokens,
        stop_ids: tokenizer.end_ids().to_vec(),
        ..SamplingParams::default()
    };
    let answers = decoder.generate(&mut cache, &requests, &sampling)?;
    for ((text, prompt), answer) in args.prompts.iter().zip(&prompts).zip(&answers) {
        if args.json {
            let line = json!({
                "prompt_ids": prompt,
                "ids": answer.ids,
                "log_probs": answer.log_probs,
                "entropies": answer.entropies,
                "text": tokenizer.decode(&answer.ids)?,
            });
            print_line(line)?;
        } else {
            print_line(format_args!("> {text}\n{}\n", tokenizer.decode(&answer.ids)?.trim()))?;
        }
    }
    Ok(())
}

fn parameters(model: &Pretrained, args: &Args) -> Result<Parameters> {
    let parameters = match args.dtype {
        WeightForm::F32 => model.parameters(DType::F32, &Device::Cpu)?,
        WeightForm::Bf16 => model.parameters(DType::BF16, &Device::Cpu)?,
        WeightForm::Quantized => model.quantized_parameters()?,
    };
    ensure!(args.temperature >= 0.0, "--temperature must not be negative");
    match &args.adapter {
        Some(adapter) => Ok(parameters.load_adapter(model.config(), adapter)?),
        None => Ok(parameters),
    }
}
