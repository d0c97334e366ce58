//! Generation with a KV cache, compared with transformers' `generate`: tokens per second.
//!
//! `EPO_PYTHON=python3 cargo bench --bench generate [-- CASES]`
//!
//! Cases: `small` (6 M parameters) and `0.5b` (the shape of Qwen2.5-0.5B), each in `f32` and
//! `bf16`: 16 rows, different prompts of 64 tokens, 128 new tokens (32 for `0.5b`). Every case runs
//! in its own process, and the second of two calls is timed. `small` runs five rounds and reports
//! their median. `epo` also returns the log-probability and entropy of every token. PyTorch runs
//! both with threads that spin while waiting and with threads that sleep (`OMP_WAIT_POLICY`); the
//! faster counts.
//!
//! `quantized` has the shape of SmolLM2-135M, without PyTorch: 64 + 128 tokens with weights in f32
//! and bf16, and with projections in Q8_0 and Q4_1 next to an embedding in Q8_0; then a LoRA update
//! with each base.
//!
//! `gap` compares sampled log-probabilities and entropies of 100,000 tokens of the small model, in
//! f32 and bf16, with those of the training forward pass. It needs no Python.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use anyhow::{ensure, Result};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use epo::kernels::{QuantizedMatrix, ScoreOptions};
use epo::optim::{AdamW, AdamWConfig};
use epo::policy::{
    Decoder, DecoderConfig, Family, Generated, GradientSum, KvCache, LoraConfig, MicroGradients,
    Parameters, Request, SamplingParams,
};
use epo::rng::{Purpose, Stream};
use rand_chacha::rand_core::RngCore;

use common::{cpu_seconds, faster, figures, forget_peak, memory};

mod common;

const ROWS: usize = 16;
const PROMPT: usize = 64;
/// Rounds of `small`.
const ROUNDS: usize = 5;
/// `gap`: rounds of `ROWS` rows.
const GAP_ROUNDS: u64 = 16;
/// `gap`: new tokens per row; 102,400 tokens in all.
const GAP_NEW: usize = 400;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [flag, shape, dtype] = arguments.as_slice() {
        if flag == "--case" {
            return case(shape, dtype);
        }
        if flag == "--update" {
            return update(dtype);
        }
    }
    for shape in ["small", "0.5b"] {
        for dtype in ["f32", "bf16"] {
            if arguments.is_empty() || arguments.iter().any(|word| word == shape || word == dtype) {
                compare(shape, dtype)?;
            }
        }
    }
    if arguments.is_empty() || arguments.iter().any(|word| word == "quantized") {
        quantized()?;
    }
    if arguments.is_empty() || arguments.iter().any(|word| word == "gap") {
        gap("f32")?;
        gap("bf16")?;
    }
    Ok(())
}

fn new_tokens(shape: &str) -> usize {
    if shape == "0.5b" {
        32
    } else {
        128
    }
}

/// Runs the weight formats in turn, in processes of their own.
fn quantized() -> Result<()> {
    println!("135m: {ROWS} rows, {PROMPT} + {} tokens", new_tokens("135m"));
    for format in ["f32", "bf16", "q8_0", "q4_1"] {
        let case = ["--case", "135m", format];
        print(format, "135m", figures(Command::new(std::env::current_exe()?).args(case))?);
    }
    println!("135m: a LoRA update of 8 rows of 1024 tokens");
    for format in ["f32", "q8_0", "q4_1"] {
        let case = ["--update", "135m", format];
        let [wall, cpu, peak] = figures(Command::new(std::env::current_exe()?).args(case))?;
        println!("  {format:8} wall {wall:6.2} s, CPU {cpu:6.2} s, peak {peak:6.0} MB");
    }
    Ok(())
}

fn print(side: &str, shape: &str, [wall, cpu, peak]: [f64; 3]) {
    let rate = (ROWS * new_tokens(shape)) as f64 / wall;
    print!("  {side:8} {rate:8.1} tokens/s, wall {wall:6.2} s, CPU {cpu:6.2} s, ");
    println!("peak {peak:6.0} MB");
}

/// Runs both sides in turn, so that changes of the machine's speed affect both.
fn compare(shape: &str, dtype: &str) -> Result<()> {
    println!("{shape} {dtype}: {ROWS} rows, {PROMPT} + {} tokens", new_tokens(shape));
    let sizes = [ROWS, PROMPT, new_tokens(shape)].map(|n| n.to_string());
    let arguments = [vec![shape.into(), dtype.into()], sizes.to_vec()].concat();
    let mut ratios = Vec::new();
    for _ in 0..if shape == "small" { ROUNDS } else { 1 } {
        let ours = figures(Command::new(std::env::current_exe()?).args(["--case", shape, dtype]))?;
        print("epo", shape, ours);
        match faster("generate_torch.py", &arguments) {
            Ok(theirs) => {
                print("PyTorch", shape, theirs);
                ratios.push(theirs[0] / ours[0]);
            }
            Err(reason) => {
                println!("PyTorch failed to run: {reason:#}");
                return Ok(());
            }
        }
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    let lowest = ratios[0];
    let highest = ratios[ratios.len() - 1];
    println!("  epo / PyTorch: {median:.2} times the tokens/s ({lowest:.2} to {highest:.2})");
    Ok(())
}

fn shape_of(shape: &str) -> DecoderConfig {
    let common = DecoderConfig {
        num_key_value_heads: 2,
        max_position_embeddings: 2048,
        ..DecoderConfig::tiny(4096)
    };
    match shape {
        "small" => DecoderConfig {
            hidden_size: 256,
            intermediate_size: 688,
            num_hidden_layers: 6,
            num_attention_heads: 4,
            ..common
        },
        "135m" => DecoderConfig {
            family: Family::Llama,
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            ..common
        },
        _ => DecoderConfig {
            vocab_size: 151_936,
            hidden_size: 896,
            intermediate_size: 4864,
            num_hidden_layers: 24,
            num_attention_heads: 14,
            ..common
        },
    }
}

/// Random weights in `format`.
fn parameters_of(shape: &str, format: &str) -> Result<Parameters> {
    let config = shape_of(shape);
    match format {
        "q8_0" => random_blocks(&config, GgmlDType::Q8_0),
        "q4_1" => random_blocks(&config, GgmlDType::Q4_1),
        "bf16" => Ok(Parameters::init(&config, 0, DType::BF16, &Device::Cpu)?),
        _ => Ok(Parameters::init(&config, 0, DType::F32, &Device::Cpu)?),
    }
}

/// Random blocks: an embedding in Q8_0 and all other matrices in `format`, all with a standard
/// deviation of about 0.02.
fn random_blocks(config: &DecoderConfig, format: GgmlDType) -> Result<Parameters> {
    let mut tensors = BTreeMap::new();
    let mut quantized = BTreeMap::new();
    for (index, (name, shape)) in config.parameter_shapes().into_iter().enumerate() {
        let [o, i] = shape[..] else {
            tensors.insert(name, Tensor::ones(shape, DType::F32, &Device::Cpu)?);
            continue;
        };
        let format = if name.contains("embed") { GgmlDType::Q8_0 } else { format };
        let mut bytes = vec![0; o * i / format.block_size() * format.type_size()];
        Stream::new(0, Purpose::Init, index as u64, 0, 0).generator(0).fill_bytes(&mut bytes);
        for block in bytes.chunks_exact_mut(format.type_size()) {
            match format {
                GgmlDType::Q8_0 => block[..2].copy_from_slice(&f16(2.7e-4)),
                _ => block[..4].copy_from_slice(&[f16(4.3e-3), f16(-3.3e-2)].concat()),
            }
        }
        quantized.insert(name, QuantizedMatrix::new(format, bytes, (o, i))?);
    }
    Ok(Parameters::with_quantized(config, tensors, quantized)?)
}

fn f16(x: f32) -> [u8; 2] {
    half::f16::from_f32(x).to_le_bytes()
}

/// A decoder with random weights in `format`.
fn decoder_of(shape: &str, format: &str) -> Result<Decoder> {
    Ok(Decoder::new(&shape_of(shape), &parameters_of(shape, format)?)?)
}

/// One LoRA update (rank 16) of 8 × 1024 tokens with gradient checkpointing, a row at a time; the
/// second of two is timed.
fn update(format: &str) -> Result<()> {
    const TOKENS: usize = 1024;
    let config = shape_of("135m");
    let parameters =
        parameters_of("135m", format)?.with_lora(&config, &LoraConfig::of_rank(16), 0)?;
    let decoder = Decoder::new(&config, &parameters)?.with_checkpointing(true);
    let mut optimizer = AdamW::new(AdamWConfig::default());
    forget_peak();
    let mut figures = (0.0, 0.0);
    for _ in 0..2 {
        let start = Instant::now();
        let cpu = cpu_seconds();
        let mut sum = GradientSum::default();
        for row in 0..8 {
            let id = |t: usize| ((row * TOKENS + t) * 7919 % config.vocab_size) as u32;
            let ids: Vec<u32> = (0..=TOKENS).map(id).collect();
            let hidden = decoder.forward_packed(&[&ids[..TOKENS]])?;
            let targets = Tensor::new(&ids[1..], &Device::Cpu)?;
            let (log_probs, _) = decoder.score(&hidden, &targets, &ScoreOptions::at(1.0))?;
            sum.add(MicroGradients::of(&log_probs.mean_all()?.neg()?, &parameters)?)?;
        }
        optimizer.step_clipped(&parameters, &sum.finish(&parameters)?, 1e-4, 1.0)?;
        figures = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    }
    println!("{} {} {}", figures.0, figures.1, memory("VmHWM"));
    Ok(())
}

/// Prompts that differ in every round, and `max_tokens` sampled tokens after each.
fn sample(
    decoder: &Decoder,
    round: u64,
    max_tokens: usize,
) -> Result<(Vec<Vec<u32>>, Vec<Generated>)> {
    let config = decoder.config();
    let id = |row: usize, t: usize| {
        (((round as usize * ROWS + row) * PROMPT + t) * 7919 % config.vocab_size) as u32
    };
    let prompts: Vec<Vec<u32>> =
        (0..ROWS).map(|row| (0..PROMPT).map(|t| id(row, t)).collect()).collect();
    let request = |(row, prompt)| {
        let stream = Stream::new(0, Purpose::Rollout, round, 0, row as u32);
        Request { row, prompt, stream, turn: 0, choices: None }
    };
    let requests: Vec<Request> =
        prompts.iter().map(Vec::as_slice).enumerate().map(request).collect();
    let mut cache = KvCache::new(config, ROWS);
    cache.reserve(PROMPT + max_tokens);
    let sampling = SamplingParams { max_tokens, ..SamplingParams::default() };
    let out = decoder.generate(&mut cache, &requests, &sampling)?;
    ensure!(out.iter().all(|row| row.ids.len() == max_tokens), "a row stopped early");
    Ok((prompts, out))
}

fn case(shape: &str, dtype: &str) -> Result<()> {
    let decoder = decoder_of(shape, dtype)?;
    forget_peak();
    let mut figures = (0.0, 0.0);
    for max_tokens in [2, new_tokens(shape)] {
        let start = Instant::now();
        let cpu = cpu_seconds();
        sample(&decoder, 0, max_tokens)?;
        figures = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    }
    println!("{} {} {}", figures.0, figures.1, memory("VmHWM"));
    Ok(())
}

/// Prints the largest and mean |Δ log-prob| and |Δ entropy|, in nats, between sampling and the
/// training forward pass.
fn gap(dtype: &str) -> Result<()> {
    let decoder = decoder_of("small", dtype)?;
    let mut most = [0f64; 2];
    let mut sum = [0f64; 2];
    for round in 0..GAP_ROUNDS {
        let (prompts, out) = sample(&decoder, round, GAP_NEW)?;
        for (prompt, out) in prompts.iter().zip(&out) {
            let hidden = decoder.forward_packed(&[&[prompt, out.ids.as_slice()].concat()])?;
            let hidden = hidden.narrow(0, PROMPT - 1, GAP_NEW)?;
            let ids = Tensor::new(out.ids.as_slice(), &Device::Cpu)?;
            let (log_probs, entropies) = decoder.score(&hidden, &ids, &ScoreOptions::at(1.0))?;
            let sampled = [&out.log_probs, &out.entropies];
            for (i, rescored) in [log_probs, entropies].iter().enumerate() {
                for (x, y) in
                    sampled[i].iter().zip(rescored.to_dtype(DType::F32)?.to_vec1::<f32>()?)
                {
                    let gap = f64::from((x - y).abs());
                    most[i] = most[i].max(gap);
                    sum[i] += gap;
                }
            }
        }
    }
    let count = GAP_ROUNDS as usize * ROWS * GAP_NEW;
    println!("gap {dtype}: {count} tokens, small, nats, largest and mean");
    for (i, name) in ["log-prob", "entropy"].iter().enumerate() {
        println!("  |Δ {name}| {:.2e}, {:.2e}", most[i], sum[i] / count as f64);
    }
    Ok(())
}
