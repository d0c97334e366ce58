//! Sampling and updates of a whole model with random bf16 weights.

use anyhow::{bail, Result};
use candle_core::{DType, Device, Tensor};
use epo::entropy::EntropyConfig;
use epo::optim::{AdamW, AdamWConfig};
use epo::policy::{
    Decoder, DecoderConfig, KvCache, LoraConfig, Parameters, Request, SamplingParams,
};
use epo::rng::{Purpose, Stream};
use epo::rollout::Row;
use epo::settings::Count;
use epo::train::config::UpdateConfig;
use epo::train::learn::{Learner, PolicyBatch};
use std::collections::BTreeMap;
use std::time::Instant;

/// The shape of a Qwen2.5 model.
pub(crate) fn shape(name: &str) -> Result<DecoderConfig> {
    let (hidden, inner, layers, heads, kv_heads, tied) = match name {
        "tiny" => (64, 128, 2, 4, 2, true),
        "0.5b" => (896, 4864, 24, 14, 2, true),
        "3b" => (2048, 11_008, 36, 16, 2, true),
        "7b" => (3584, 18_944, 28, 28, 4, false),
        other => bail!("EPO_BENCH_MODEL={other}: tiny, 0.5b, 3b or 7b"),
    };
    Ok(DecoderConfig {
        hidden_size: hidden,
        intermediate_size: inner,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        tie_word_embeddings: tied,
        max_position_embeddings: 32_768,
        rope_theta: 1e6,
        ..DecoderConfig::tiny(if name == "tiny" { 512 } else { 151_936 })
    })
}

/// Random weights, drawn on the device.
fn parameters(config: &DecoderConfig, device: &Device) -> Result<Parameters> {
    let mut tensors = BTreeMap::new();
    for (name, shape) in config.parameter_shapes() {
        let (mean, deviation) =
            if name.ends_with("norm.weight") { (1.0, 0.0) } else { (0.0, 0.02) };
        let tensor = Tensor::randn(mean, deviation as f32, shape, device)?.to_dtype(DType::BF16)?;
        tensors.insert(name, tensor);
    }
    Ok(Parameters::from_tensors(config, tensors)?)
}

/// 64 rows: prompts of 512 tokens that eight rows have in common, and 64 new tokens.
pub(crate) fn decode(config: &DecoderConfig, device: &Device) -> Result<()> {
    const ROWS: usize = 64;
    const PROMPT: usize = 512;
    const NEW: usize = 64;
    let decoder = Decoder::new(config, &parameters(config, device)?)?;
    let sampling = SamplingParams { max_tokens: NEW, ..SamplingParams::default() };
    let prompt = |row: usize| -> Vec<u32> {
        let group = row / 8;
        (0..PROMPT).map(|t| ((group * PROMPT + t) * 7919 % config.vocab_size) as u32).collect()
    };
    let prompts: Vec<Vec<u32>> = (0..ROWS).map(prompt).collect();
    for round in ["first", "second"] {
        let mut cache = KvCache::new(config, ROWS);
        let request = |row: usize, turn| Request {
            row,
            prompt: if turn == 0 {
                &prompts[row][..PROMPT - 1]
            } else {
                &prompts[row][PROMPT - 1..]
            },
            stream: Stream::new(7, Purpose::Rollout, 0, 0, row as u32),
            turn,
            choices: None,
        };
        let one = SamplingParams { max_tokens: 1, ..sampling.clone() };
        let requests: Vec<Request<'_>> = (0..ROWS).map(|row| request(row, 0)).collect();
        let start = Instant::now();
        decoder.generate(&mut cache, &requests, &one)?;
        let read = start.elapsed().as_secs_f64();
        let requests: Vec<Request<'_>> = (0..ROWS).map(|row| request(row, 1)).collect();
        let start = Instant::now();
        let out = decoder.generate(&mut cache, &requests, &sampling)?;
        let seconds = start.elapsed().as_secs_f64();
        let tokens: usize = out.iter().map(|turn| turn.ids.len()).sum();
        let rate = tokens as f64 / seconds;
        println!(
            "decode, {round} round: prompts {read:.3} s ({:.0} tokens/s computed), \
             {tokens} new tokens {rate:.0} tokens/s ({:.2} ms a step of {ROWS} rows)",
            (ROWS / 8 * (PROMPT - 1)) as f64 / read,
            1e3 * seconds / NEW as f64
        );
        if round == "second" {
            println!("| decoding, {ROWS} rows after {PROMPT} tokens | {rate:.0} tokens/s |");
        }
    }
    Ok(())
}

/// Three updates of 8 x 1024 tokens with gradient checkpointing.
pub(crate) fn update(config: &DecoderConfig, lora: bool, device: &Device) -> Result<()> {
    const ROWS: usize = 8;
    const LENGTH: usize = 1024;
    let mut parameters = parameters(config, device)?;
    if lora {
        parameters = parameters.with_lora(config, &LoraConfig::of_rank(16), 0)?;
    }
    let mut learner = Learner::new(config, parameters, AdamW::new(AdamWConfig::default()), 1.0)?;
    learner.set_checkpointing(true);
    let row = |i: usize| Row {
        ids: (0..LENGTH).map(|t| ((i * LENGTH + t) * 7919 % config.vocab_size) as u32).collect(),
        positions: (1..LENGTH as u32).collect(),
        turns: vec![0; LENGTH - 1],
        // About the log-probabilities of random weights, so that no ratio is clipped.
        old_log_probs: vec![-(config.vocab_size as f32).ln(); LENGTH - 1],
        trajectory: i,
        ..Row::default()
    };
    let rows: Vec<Row> = (0..ROWS).map(row).collect();
    let advantages: Vec<Vec<f32>> =
        (0..ROWS).map(|i| vec![if i % 2 == 0 { 1.0 } else { -1.0 }; LENGTH - 1]).collect();
    let settings = UpdateConfig {
        mini_batches: Count::literal(1),
        micro_batch_tokens: epo::settings::Limit::literal(ROWS * LENGTH),
        ..UpdateConfig::default()
    };
    let entropy = EntropyConfig::paper_v2().build()?;
    let what = if lora { "LoRA of rank 16" } else { "all weights" };
    for step in 0..3 {
        let batch =
            PolicyBatch { rows: &rows, advantages: &advantages, reference: None, seed: 0, step };
        device.synchronize()?;
        let start = Instant::now();
        let metrics = learner.policy_step(&batch, &settings, &entropy, 1e-6)?;
        device.synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        let norm = metrics.get("grad_norm").unwrap_or(f64::NAN);
        println!("update, {what}, step {step}: {seconds:.3} s, gradient norm {norm:.4}");
        if step == 2 {
            println!("| update of {ROWS} x {LENGTH} tokens, {what} | {seconds:.3} s |");
        }
    }
    Ok(())
}
