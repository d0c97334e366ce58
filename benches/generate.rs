//! Sampling with a key/value cache beside transformers' `generate`: tokens per second.
//!
//! `EPO_PYTHON=python3 cargo bench --bench generate [-- CASES]`
//!
//! Cases: `small` (6 M parameters) and `0.5b` (Qwen2.5-0.5B's shape), each `f32` and `bf16`. 16 rows, prompts of 64 tokens that
//! differ, 128 new tokens (32 for `0.5b`), every case in a process of its own, the second of two calls timed. Ours also hands
//! out the log-probability and the entropy of every token.

use std::process::Command;
use std::time::Instant;

use anyhow::{ensure, Result};
use candle_core::{DType, Device};
use epo::policy::{Decoder, DecoderConfig, KvCache, Parameters, Request, SamplingParams};
use epo::rng::{Purpose, Stream};

use common::{cpu_seconds, figures, forget_peak, memory, python};

mod common;

const ROWS: usize = 16;
const PROMPT: usize = 64;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [flag, shape, dtype] = arguments.as_slice() {
        if flag == "--case" {
            return case(shape, dtype);
        }
    }
    for shape in ["small", "0.5b"] {
        for dtype in ["f32", "bf16"] {
            if arguments.is_empty() || arguments.iter().any(|word| word == shape || word == dtype) {
                compare(shape, dtype)?;
            }
        }
    }
    Ok(())
}

fn new_tokens(shape: &str) -> usize {
    if shape == "small" {
        128
    } else {
        32
    }
}

fn compare(shape: &str, dtype: &str) -> Result<()> {
    let ours = figures(Command::new(std::env::current_exe()?).args(["--case", shape, dtype]))?;
    println!("{shape} {dtype}: {ROWS} rows, {PROMPT} + {} tokens", new_tokens(shape));
    let print = |side: &str, [wall, cpu, peak]: [f64; 3]| {
        let rate = (ROWS * new_tokens(shape)) as f64 / wall;
        println!("  {side:8} {rate:8.1} tokens/s, wall {wall:6.2} s, CPU {cpu:6.2} s, peak {peak:6.0} MB");
    };
    print("epo", ours);
    let mut torch = python("generate_torch.py");
    torch.args([shape, dtype]);
    torch.args([ROWS, PROMPT, new_tokens(shape)].map(|n| n.to_string()));
    match figures(&mut torch) {
        Ok(theirs) => {
            print("PyTorch", theirs);
            println!("  epo / PyTorch: {:.2} times the tokens/s", theirs[0] / ours[0]);
        }
        Err(reason) => println!("PyTorch does not run: {reason:#}"),
    }
    Ok(())
}

fn shape_of(shape: &str) -> DecoderConfig {
    let common =
        DecoderConfig { num_key_value_heads: 2, max_position_embeddings: 2048, ..DecoderConfig::tiny(4096) };
    match shape {
        "small" => DecoderConfig {
            hidden_size: 256,
            intermediate_size: 688,
            num_hidden_layers: 6,
            num_attention_heads: 4,
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

fn case(shape: &str, dtype: &str) -> Result<()> {
    let config = shape_of(shape);
    let dtype = if dtype == "bf16" { DType::BF16 } else { DType::F32 };
    let decoder = Decoder::new(&config, &Parameters::init(&config, 0, dtype, &Device::Cpu)?)?;
    forget_peak();
    let id = |row: usize, t: usize| ((row * PROMPT + t) * 7919 % config.vocab_size) as u32;
    let prompts: Vec<Vec<u32>> = (0..ROWS).map(|row| (0..PROMPT).map(|t| id(row, t)).collect()).collect();
    let requests: Vec<Request> = prompts
        .iter()
        .enumerate()
        .map(|(row, prompt)| {
            let stream = Stream::new(0, Purpose::Rollout, 0, 0, row as u32);
            Request { row, prompt, stream, turn: 0, choices: None }
        })
        .collect();
    let mut figures = (0.0, 0.0);
    for max_tokens in [2, new_tokens(shape)] {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let mut cache = KvCache::new(&config, ROWS);
        cache.reserve(PROMPT + max_tokens);
        let sampling = SamplingParams { max_tokens, ..SamplingParams::default() };
        let out = decoder.generate(&mut cache, &requests, &sampling)?;
        ensure!(out.iter().all(|row| row.ids.len() == max_tokens), "a row has stopped early");
        figures = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    }
    println!("{} {} {}", figures.0, figures.1, memory("VmHWM"));
    Ok(())
}
