//! One policy update (GRPO loss, EPO's entropy term, AdamW) of a randomly initialised model of the
//! shape of Qwen2.5-0.5B, compared with PyTorch with transformers and PEFT.
//!
//! `EPO_PYTHON=python3 cargo bench --bench model [-- CASES]`
//!
//! Cases: `full` trains all weights in f32, `bf16` trains all weights stored in bf16 (ours with f32
//! master copies, PyTorch without), `lora` trains LoRA adapters of rank 16. Each case runs in its
//! own process, ours and PyTorch's in turn. The second of two updates is timed; the peak is that of
//! the whole process. `EPO_BENCH_SHAPE=ROWS,LENGTH,LAYERS` (4,512,24).

use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device};
use epo::entropy::EntropyConfig;
use epo::optim::AdamW;
use epo::optim::AdamWConfig;
use epo::policy::{DecoderConfig, LoraConfig, Parameters};
use epo::rollout::Row;
use epo::settings::Count;
use epo::train::config::UpdateConfig;
use epo::train::learn::{Learner, PolicyBatch};

use common::{cpu_seconds, figures, forget_peak, memory, python};

mod common;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let shape = std::env::var("EPO_BENCH_SHAPE").unwrap_or_else(|_| "4,512,24".into());
    let shape: Vec<usize> = shape.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let [rows, length, layers] = shape[..] else {
        anyhow::bail!("EPO_BENCH_SHAPE=ROWS,LENGTH,LAYERS")
    };
    if let [flag, case] = arguments.as_slice() {
        if flag == "--case" {
            return update(case, (rows, length), layers);
        }
    }
    for case in ["full", "bf16", "lora"] {
        if arguments.is_empty() || arguments.iter().any(|word| word == case) {
            compare(case, &[rows, length, layers])?;
        }
    }
    Ok(())
}

fn compare(case: &str, shape: &[usize; 3]) -> Result<()> {
    let ours = figures(Command::new(std::env::current_exe()?).args(["--case", case]))?;
    let [rows, length, layers] = shape.map(|n| n.to_string());
    println!("{case}, {rows} x {length} tokens, {layers} layers");
    let print = |side: &str, [wall, cpu, peak]: [f64; 3]| {
        let token = wall / (shape[0] * shape[1]) as f64 * 1e3;
        println!(
            "  {side:8} wall {wall:7.1} s ({token:.1} ms per token), \
             CPU {cpu:7.1} s, peak {peak:6.0} MB"
        );
    };
    print("epo", ours);
    let mut torch = python("model_torch.py");
    torch.arg(case).args([rows, length, layers]);
    match figures(&mut torch) {
        Ok(theirs) => {
            print("PyTorch", theirs);
            println!(
                "  epo / PyTorch: wall {:.2}, peak {:.2}",
                ours[0] / theirs[0],
                ours[2] / theirs[2]
            );
        }
        Err(reason) => println!("PyTorch does not run: {reason:#}"),
    }
    Ok(())
}

fn model(layers: usize) -> DecoderConfig {
    DecoderConfig {
        hidden_size: 896,
        intermediate_size: 4864,
        num_hidden_layers: layers,
        num_attention_heads: 14,
        num_key_value_heads: 2,
        max_position_embeddings: 32768,
        rope_theta: 1e6,
        ..DecoderConfig::tiny(151_936)
    }
}

fn update(case: &str, (rows, length): (usize, usize), layers: usize) -> Result<()> {
    let config = model(layers);
    let dtype = if case == "bf16" { DType::BF16 } else { DType::F32 };
    let mut parameters = Parameters::init(&config, 0, dtype, &Device::Cpu)?;
    if case == "lora" {
        parameters = parameters.with_lora(&config, &LoraConfig::of_rank(16), 0)?;
    }
    let mut learner = Learner::new(&config, parameters, AdamW::new(AdamWConfig::default()), 1.0)?;
    learner.set_checkpointing(true);
    forget_peak();
    let row = |i: usize| Row {
        ids: (0..length).map(|t| ((i * length + t) * 7919 % config.vocab_size) as u32).collect(),
        positions: (1..length as u32).collect(),
        turns: vec![0; length - 1],
        old_log_probs: vec![-12.0; length - 1],
        trajectory: i,
        ..Row::default()
    };
    let rows: Vec<Row> = (0..rows).map(row).collect();
    let advantages: Vec<Vec<f32>> =
        (0..rows.len()).map(|i| vec![if i % 2 == 0 { 1.0 } else { -1.0 }; length - 1]).collect();
    let settings = UpdateConfig { mini_batches: Count::literal(1), ..UpdateConfig::default() };
    let entropy = EntropyConfig::paper_v2().build()?;
    let mut figures = (0.0, 0.0);
    for step in 0..2 {
        let start = Instant::now();
        let cpu = cpu_seconds();
        let batch =
            PolicyBatch { rows: &rows, advantages: &advantages, reference: None, seed: 0, step };
        learner.policy_step(&batch, &settings, &entropy, 1e-6)?;
        figures = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    }
    println!("{} {} {}", figures.0, figures.1, memory("VmHWM"));
    Ok(())
}
