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

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use candle_core::{DType, Device, Tensor};
use epo::kernels::ScoreOptions;
use epo::optim::{AdamW, AdamWConfig};
use epo::policy::{Decoder, DecoderConfig, Gradients, Parameters};

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

fn setting(name: &str, default: usize) -> Result<usize> {
    std::env::var(name)
        .map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}={text}")))
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
    let mut sides = vec![Side::start("epo", own_command(&weights, threads)?)?];
    for (name, tuned) in [("PyTorch", false), ("tuned PyTorch", true)] {
        match Side::start(name, torch_command(&weights, threads, tuned)) {
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
    let python = std::env::var("EPO_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut command = Command::new(python);
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/decoder_torch.py"))
        .arg(weights);
    command.args([BATCH, LENGTH, threads].map(|n| n.to_string()));
    if tuned {
        command.env("OMP_WAIT_POLICY", "passive");
        command
            .env("MALLOC_MMAP_THRESHOLD_", "1073741824")
            .env("MALLOC_TRIM_THRESHOLD_", "17179869184");
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
struct Side {
    name: String,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Resident MB before the first step.
    base: f64,
    loss: f64,
    /// (wall, CPU) milliseconds per step, of each measured round.
    rounds: Vec<[f64; 2]>,
}

impl Side {
    fn start(name: &str, mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take();
        let mut side = Self {
            name: name.to_owned(),
            input: input.context("no stdin")?,
            output: BufReader::new(output.context("no stdout")?),
            base: 0.0,
            loss: 0.0,
            rounds: Vec::new(),
            child,
        };
        let ready = side.answer()?;
        let version =
            ready.strip_prefix("ready ").with_context(|| format!("it answers {ready:?}"))?;
        side.name = format!("{name} {}", version.trim());
        side.base = side.memory("VmRSS");
        Ok(side)
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "it ended");
        Ok(line)
    }

    fn round(&mut self, steps: usize, keep: bool) -> Result<()> {
        let start = Instant::now();
        let cpu = self.cpu_seconds();
        for _ in 0..steps {
            writeln!(self.input, "step")?;
            self.loss = self.answer()?.trim().parse()?;
        }
        let per_step = |seconds: f64| seconds * 1e3 / steps as f64;
        if keep {
            let wall = start.elapsed().as_secs_f64();
            self.rounds.push([per_step(wall), per_step(self.cpu_seconds() - cpu)]);
        }
        Ok(())
    }

    fn proc_file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap_or_default()
    }

    /// Returns the CPU seconds of the process so far, all threads (Linux; 0 elsewhere).
    fn cpu_seconds(&self) -> f64 {
        let stat = self.proc_file("stat");
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }

    /// Returns the MB in `field` of the process's status (Linux; 0 elsewhere).
    fn memory(&self, field: &str) -> f64 {
        let status = self.proc_file("status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        kilobytes.unwrap_or(0.0) / 1024.0
    }

    /// Returns the median wall and CPU milliseconds of a step, and the peak MB.
    fn summary(&self) -> [f64; 3] {
        let median = |which: usize| {
            let mut values: Vec<f64> = self.rounds.iter().map(|round| round[which]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        [median(0), median(1), self.memory("VmHWM")]
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

    fn compare(&self, torch: &Side) {
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

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
