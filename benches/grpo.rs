//! One GRPO step beside TRL's `GRPOTrainer`, both on the processor: sampling, rewards, advantages,
//! one optimiser step.
//!
//! `EPO_PYTHON=python3 cargo bench --bench grpo`
//!
//! A random Qwen2 model of 6 M parameters in f32 on both sides; 4 prompts of 64 tokens, 8
//! completions of 64 tokens of each (no early end), rewarded with their share of even ids; clipped
//! loss without KL, AdamW. Each side in a process of its own: one step that warms up, then
//! `EPO_BENCH_STEPS` (5), of which the median is the wall time and the mean the CPU time. Ours
//! also has EPO's term in the loss. TRL runs with threads that spin while they wait and with ones
//! that sleep (`OMP_WAIT_POLICY`); the faster is shown. It samples with transformers' `generate`:
//! vLLM has no place in this comparison.

use std::process::Command;
use std::time::Instant;

use anyhow::{ensure, Result};
use candle_core::{DType, Device};
use epo::advantage::{grpo, Groups};
use epo::entropy::{EntropyConfig, EntropyControl, StepEntropy};
use epo::objective::TokenLayout;
use epo::optim::AdamW;
use epo::optim::AdamWConfig;
use epo::policy::{DecoderConfig, Generated, KvCache, Parameters, Request, SamplingParams};
use epo::rng::{Purpose, Stream};
use epo::rollout::{Row, RowKind};
use epo::settings::{Count, Limit};
use epo::train::config::UpdateConfig;
use epo::train::learn::{Learner, PolicyBatch};

use common::{cpu_seconds, faster, figures, forget_peak, memory};

mod common;

const PROMPTS: usize = 4;
const GROUP: usize = 8;
const PROMPT: usize = 64;
const COMPLETION: usize = 64;
/// A quarter of a step's tokens, so that every thread has a micro-batch; the gradient is that of
/// the whole.
const MICRO_BATCH_TOKENS: usize = PROMPTS * GROUP * (PROMPT + COMPLETION) / 4;

fn main() -> Result<()> {
    let steps = std::env::var("EPO_BENCH_STEPS").unwrap_or_else(|_| "5".into()).parse()?;
    if std::env::args().any(|word| word == "--ours") {
        return ours(steps);
    }
    println!(
        "{PROMPTS} prompts x {GROUP} completions, {PROMPT} + {COMPLETION} tokens, {steps} steps"
    );
    let own = figures(Command::new(std::env::current_exe()?).arg("--ours"))?;
    print("epo", own);
    match faster("grpo_trl.py", &[PROMPTS, GROUP, PROMPT, COMPLETION, steps].map(|n| n.to_string()))
    {
        Ok(theirs) => {
            print("TRL", theirs);
            let [wall, cpu, peak] = std::array::from_fn(|i| theirs[i] / own[i]);
            println!("  TRL / epo: wall {wall:.2}, CPU {cpu:.2}, peak {peak:.2}");
        }
        Err(reason) => println!("TRL does not run: {reason:#}"),
    }
    Ok(())
}

fn print(side: &str, [wall, cpu, peak]: [f64; 3]) {
    let rate = (PROMPTS * GROUP * COMPLETION) as f64 / wall;
    println!(
        "  {side:4} {wall:6.2} s per step, {rate:7.1} sampled tokens/s, CPU {cpu:6.2} s, \
         peak {peak:5.0} MB"
    );
}

fn ours(steps: usize) -> Result<()> {
    let config = DecoderConfig {
        hidden_size: 256,
        intermediate_size: 688,
        num_hidden_layers: 6,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 2048,
        ..DecoderConfig::tiny(4096)
    };
    let parameters = Parameters::init(&config, 0, DType::F32, &Device::Cpu)?;
    let mut learner = Learner::new(&config, parameters, AdamW::new(AdamWConfig::default()), 1.0)?;
    let mut entropy = EntropyConfig::paper_v2().build()?;
    forget_peak();
    let mut walls = Vec::new();
    let mut cpu = 0.0;
    for number in 0..=steps {
        let (start, before) = (Instant::now(), cpu_seconds());
        step(&mut learner, &mut entropy, number as u64)?;
        if number > 0 {
            walls.push(start.elapsed().as_secs_f64());
            cpu += cpu_seconds() - before;
        }
    }
    walls.sort_by(f64::total_cmp);
    let median = (walls[(steps - 1) / 2] + walls[steps / 2]) / 2.0;
    println!("{median} {} {}", cpu / steps as f64, memory("VmHWM"));
    Ok(())
}

fn step(learner: &mut Learner, entropy: &mut EntropyControl, step: u64) -> Result<()> {
    let (prompts, completions) = sample(learner, step)?;
    let rewards: Vec<f64> = completions.iter().map(|c| even(&c.ids)).collect();
    let groups: Vec<usize> = (0..rewards.len()).map(|i| i / GROUP).collect();
    let advantages: Vec<Vec<f32>> = grpo(&rewards, &Groups::over_rows(&groups), true)?
        .iter()
        .map(|&advantage| vec![advantage as f32; COMPLETION])
        .collect();
    let mut rows = Vec::new();
    for (i, completion) in completions.iter().enumerate() {
        let turn = (prompts[i / GROUP].as_slice(), completion.ids.as_slice());
        let mut row = Row::from_turns(&[turn], i, RowKind::Trajectory)?.remove(0);
        row.old_log_probs.clone_from(&completion.log_probs);
        row.entropies.clone_from(&completion.entropies);
        rows.push(row);
    }
    let entropies: Vec<f64> =
        rows.iter().flat_map(|row| &row.entropies).map(|&h| f64::from(h)).collect();
    let trajectories: Vec<usize> = (0..rows.len()).collect();
    let mask = vec![true; entropies.len()];
    let layout = TokenLayout::per_turn(COMPLETION, mask, &trajectories, vec![0; rows.len()])?;
    entropy.begin_step_with(step, StepEntropy::from_tokens(&entropies, &layout)?)?;
    let batch =
        PolicyBatch { rows: &rows, advantages: &advantages, reference: None, seed: 0, step };
    let update = UpdateConfig {
        mini_batches: Count::literal(1),
        micro_batch_tokens: Limit::literal(MICRO_BATCH_TOKENS),
        ..UpdateConfig::default()
    };
    learner.policy_step(&batch, &update, entropy, 1e-6)?;
    entropy.finish_step()?;
    Ok(())
}

/// Prompts of this step and, group after group, what the policy adds to them.
fn sample(learner: &Learner, step: u64) -> Result<(Vec<Vec<u32>>, Vec<Generated>)> {
    let config = learner.decoder.config();
    let id = |i: usize| (i * 7919 % config.vocab_size) as u32;
    let first = step as usize * PROMPTS * PROMPT;
    let prompts: Vec<Vec<u32>> =
        (0..PROMPTS).map(|p| (0..PROMPT).map(|t| id(first + p * PROMPT + t)).collect()).collect();
    let request = |row: usize| {
        let (group, member) = (row / GROUP, row % GROUP);
        let stream = Stream::new(0, Purpose::Rollout, step, group as u32, member as u32);
        Request { row, prompt: &prompts[group], stream, turn: 0, choices: None }
    };
    let requests: Vec<Request> = (0..PROMPTS * GROUP).map(request).collect();
    let mut cache = KvCache::new(config, requests.len());
    cache.reserve(PROMPT + COMPLETION);
    let sampling = SamplingParams { max_tokens: COMPLETION, ..SamplingParams::default() };
    let out = learner.decoder.generate(&mut cache, &requests, &sampling)?;
    ensure!(out.iter().all(|row| row.ids.len() == COMPLETION), "a completion has ended early");
    Ok((prompts, out))
}

/// The share of even ids.
fn even(ids: &[u32]) -> f64 {
    ids.iter().filter(|&&id| id % 2 == 0).count() as f64 / ids.len() as f64
}
