//! A training step of a small decoder (forward, backward, clipping, AdamW), compared with PyTorch.
//!
//! `EPO_PYTHON=python3 cargo bench --bench decoder`
//!
//! 4 layers of width 256, 4 query and 2 key/value heads, feed-forward 1024, vocabulary 2048 with
//! tied embeddings, 8 rows of 512 tokens. The loss is the negated mean of log-probability plus a
//! tenth of the entropy. Both sides start from the same weights in their own processes, take turns,
//! and are measured from outside (`/proc`); their losses are printed for comparison.
//!
//! PyTorch runs twice: with defaults, and tuned. Tuned means a glibc `malloc` that keeps its
//! memory, which avoids page faults for fresh tensors at the price of a higher peak, and OpenMP
//! threads that sleep while they wait. Spinning threads count as CPU time and, on a busy machine,
//! slow down the thread they wait for. `EPO_BENCH_ROUNDS` (7) rounds of `EPO_BENCH_STEPS` (3) steps
//! follow one warm-up round, on `EPO_BENCH_THREADS` (2) threads.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use epo::kernels::ScoreOptions;
use epo::optim::{AdamW, AdamWConfig};
use epo::policy::{Decoder, DecoderConfig, Gradients, Parameters};

use common::side::Side;
use common::{python_of, setting, TUNED};

mod common;

const BATCH: usize = 8;
const LENGTH: usize = 512;

fn config() -> DecoderConfig {
    DecoderConfig {
        hidden_size: 256,
        intermediate_size: 1024,
        num_hidden_layers: 4,
        max_position_embeddings: LENGTH,
        ..DecoderConfig::tiny(2048)
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|a| a == "--side") {
        return own_side(Path::new(&arguments[2]));
    }
    let dir = tempfile::tempdir()?;
    let weights = dir.path().join("model.safetensors");
    Parameters::init(&config(), 1, DType::F32, &Device::Cpu)?.save(&weights)?;
    let threads = setting("EPO_BENCH_THREADS", 2)?;
    let mut sides = vec![Trainer::start("epo", own_command(&weights, threads)?)?];
    for (name, tuned) in [("PyTorch", false), ("tuned PyTorch", true)] {
        match Trainer::start(name, torch_command(&weights, threads, tuned)) {
            Ok(torch) => sides.push(torch),
            Err(reason) => println!("{name} does not run: {reason:#}"),
        }
    }
    let rounds = setting("EPO_BENCH_ROUNDS", 7)?;
    let steps = setting("EPO_BENCH_STEPS", 3)?;
    println!("{threads} threads a side");
    for round in 0..=rounds {
        for side in &mut sides {
            side.round(steps, round > 0)?;
        }
    }
    for side in &sides {
        side.report();
    }
    let (own, rivals) = sides.split_first().context("no side")?;
    for torch in rivals {
        own.compare(torch);
    }
    Ok(())
}

fn own_command(weights: &Path, threads: usize) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--side").arg(weights).env("RAYON_NUM_THREADS", threads.to_string());
    Ok(command)
}

fn torch_command(weights: &Path, threads: usize, tuned: bool) -> Command {
    let mut command = python_of("EPO_PYTHON", "decoder_torch.py");
    command.arg(weights).args([BATCH, LENGTH, threads].map(|n| n.to_string()));
    if tuned {
        command.envs(TUNED);
    }
    command
}

/// This crate's side: takes a training step for every line on stdin and answers with its loss.
fn own_side(weights: &Path) -> Result<()> {
    let config = config();
    let parameters = Parameters::load(weights, &config, DType::F32, &Device::Cpu)?;
    let decoder = Decoder::new(&config, &parameters)?;
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let token = |i: usize| {
        (((i as u64 * 2_654_435_761 % (1 << 32)) * config.vocab_size as u64) >> 32) as u32
    };
    let tokens: Vec<u32> = (0..=BATCH * LENGTH).map(token).collect();
    let rows: Vec<&[u32]> = tokens[..BATCH * LENGTH].chunks(LENGTH).collect();
    let targets = Tensor::new(&tokens[1..], &Device::Cpu)?;
    println!("ready {}", env!("CARGO_PKG_VERSION"));
    for line in std::io::stdin().lines() {
        line?;
        let hidden = decoder.forward_packed(&rows)?;
        let options = ScoreOptions::at(1.0);
        let (log_probs, entropies) = decoder.score(&hidden, &targets, &options)?;
        drop(hidden);
        let loss = (log_probs + (entropies * 0.1)?)?.mean_all()?.neg()?;
        optimizer.step_clipped(&parameters, &Gradients::of(&loss, &parameters)?, 1e-3, 1.0)?;
        println!("{}", loss.to_scalar::<f32>()?);
    }
    Ok(())
}

/// A process that takes one training step per line it receives.
struct Trainer {
    name: String,
    process: Side,
    /// Resident MB before the first step.
    base: f64,
    loss: f64,
    /// (wall, CPU) milliseconds per step, of each measured round.
    rounds: Vec<[f64; 2]>,
}

impl Trainer {
    fn start(name: &str, mut command: Command) -> Result<Self> {
        let (process, ready) = Side::start(&mut command)?;
        let version =
            ready.strip_prefix("ready ").with_context(|| format!("it answers {ready:?}"))?;
        Ok(Self {
            name: format!("{name} {}", version.trim()),
            base: process.memory("VmRSS"),
            process,
            loss: 0.0,
            rounds: Vec::new(),
        })
    }

    fn round(&mut self, steps: usize, keep: bool) -> Result<()> {
        let start = Instant::now();
        let cpu = self.process.cpu_seconds();
        for _ in 0..steps {
            self.loss = self.process.ask("step")?.trim().parse()?;
        }
        let per_step = |seconds: f64| seconds * 1e3 / steps as f64;
        if keep {
            let wall = start.elapsed().as_secs_f64();
            self.rounds.push([per_step(wall), per_step(self.process.cpu_seconds() - cpu)]);
        }
        Ok(())
    }

    /// Returns the median wall and CPU milliseconds of a step, and the peak MB.
    fn summary(&self) -> [f64; 3] {
        let median = |which: usize| {
            let mut values: Vec<f64> = self.rounds.iter().map(|round| round[which]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        [median(0), median(1), self.process.memory("VmHWM")]
    }

    fn report(&self) {
        let [wall, cpu, peak] = self.summary();
        let tokens = (BATCH * LENGTH) as f64;
        println!(
            "{:27} step: wall {wall:6.0} ms ({:5.0} tokens/s), CPU {cpu:6.0} ms; \
             peak {peak:5.0} MB, {:5.0} MB at the start; last loss {:.5}",
            self.name,
            tokens / wall * 1e3,
            self.base,
            self.loss
        );
    }

    fn compare(&self, torch: &Trainer) {
        let [wall, cpu, peak] = self.summary();
        let [torch_wall, torch_cpu, torch_peak] = torch.summary();
        println!(
            "epo / {}: wall {:.2}, CPU {:.2}, peak {:.2}, peak over the start {:.2}",
            torch.name,
            wall / torch_wall,
            cpu / torch_cpu,
            peak / torch_peak,
            (peak - self.base) / (torch_peak - torch.base)
        );
    }
}
