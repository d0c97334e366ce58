//! A published language model on a CPU, compared with llama.cpp, vLLM, transformers and PEFT:
//! decoding, prefill and one update of LoRA adapters, in time and peak memory.
//!
//! `EPO_BENCH_MODEL=FOLDER EPO_PYTHON=python3 cargo bench --bench llm [-- WORDS]`
//!
//! Words choose tasks (`decode`, `prefill`, `update`) and formats of the weights (`f32`, `bf16`);
//! without words, everything runs.
//!
//! - `decode`: 16 sequences, prompts of 64 and of 256 tokens, 64 new tokens each. The time includes
//!   the prompts.
//! - `prefill`: 16 prompts of 512 tokens, and one new token each.
//! - `update`: forward pass with log-probabilities and entropies, backward pass and AdamW step of
//!   LoRA adapters of rank 16 on all linear layers; 8 rows of 1,024 tokens.
//!
//! `EPO_BENCH_MODEL` is a folder in Hugging Face's layout of SmolLM2-135M-Instruct, and
//! `EPO_BENCH_GGUF` the same model as a GGUF file for llama.cpp. Without a folder, the bench draws
//! random weights of that shape. `EPO_PYTHON` is an interpreter with torch, transformers and peft;
//! `EPO_PYTHON_LLAMA` one with xllamacpp and gguf, and `EPO_PYTHON_VLLM` one with vllm's CPU build,
//! if those are others. What is not installed is reported and left out.
//!
//! Every side is a process that stays. In a short trial, which is not measured, a rival runs with
//! its defaults and tuned: threads that sleep while they wait, and a `malloc` that keeps its
//! memory. The faster one stays. In `EPO_BENCH_ROUNDS` (3) rounds of each task the sides take
//! turns. All sides sample at temperature 1 and ignore end tokens, so they make equally many
//! tokens; this crate also returns the log-probability and the entropy of every token. The peak is
//! that of the resident memory, loading excepted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use candle_core::{DType, Device};
use epo::entropy::EntropyConfig;
use epo::optim::{AdamW, AdamWConfig};
use epo::policy::{
    Decoder, DecoderConfig, Family, KvCache, LoraConfig, Parameters, Pretrained, Request,
    SamplingParams, Source,
};
use epo::rng::{Purpose, Stream};
use epo::rollout::Row;
use epo::settings::Count;
use epo::train::config::UpdateConfig;
use epo::train::learn::{Learner, PolicyBatch};
use serde_json::{json, Value};

use common::{python_of, setting, Side, TUNED};

mod common;

/// A piece of work, the same for all sides.
struct Task {
    word: &'static str,
    rows: usize,
    prompt: usize,
    /// New tokens per row; 0 for an update.
    new: usize,
}

impl Task {
    fn is_update(&self) -> bool {
        self.new == 0
    }

    /// A shorter task of the same kind.
    fn trial(&self) -> Self {
        if self.is_update() {
            Self { rows: 1, ..*self }
        } else {
            Self { prompt: 64, new: 8, ..*self }
        }
    }

    fn title(&self) -> String {
        let Self { word, rows, prompt, new } = self;
        match *new {
            0 => format!("{word}, {rows} rows of {prompt} tokens"),
            1 => format!("{word}, {rows} prompts of {prompt} tokens"),
            _ => format!("{word}, {rows} sequences of {prompt} + {new} tokens"),
        }
    }

    /// The tokens that count for tokens per second.
    fn tokens(&self) -> usize {
        self.rows * if self.new > 1 { self.new } else { self.prompt }
    }
}

const SAMPLING: [Task; 3] = [
    Task { word: "decode", rows: 16, prompt: 64, new: 64 },
    Task { word: "decode", rows: 16, prompt: 256, new: 64 },
    Task { word: "prefill", rows: 16, prompt: 512, new: 1 },
];
const UPDATE: [Task; 1] = [Task { word: "update", rows: 8, prompt: 1024, new: 0 }];
/// The longest sequence of a task.
const CONTEXT: usize = 1024;

/// The element type of this crate's weights.
#[derive(Clone, Copy)]
enum Format {
    F32,
    Bf16,
}

impl Format {
    const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    fn named(name: &str) -> Result<Self> {
        let format = Self::ALL.into_iter().find(|format| format.name() == name);
        format.with_context(|| format!("no format is called {name:?}"))
    }

    fn parameters(self, model: &Pretrained) -> Result<Parameters> {
        let dtype = match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        };
        Ok(model.parameters(dtype, &Device::Cpu)?)
    }
}

/// A program that this crate is compared with.
struct Rival {
    script: &'static str,
    /// The variable that names its interpreter.
    interpreter: &'static str,
    /// Its counterpart of a format.
    format: fn(Format) -> &'static str,
    /// It reads a GGUF file.
    gguf: bool,
}

const SAMPLERS: [Rival; 3] = [
    Rival {
        script: "llm_llamacpp.py",
        interpreter: "EPO_PYTHON_LLAMA",
        format: |format| match format {
            Format::F32 => "f32",
            Format::Bf16 => "f16",
        },
        gguf: true,
    },
    Rival {
        script: "llm_vllm.py",
        interpreter: "EPO_PYTHON_VLLM",
        format: Format::name,
        gguf: false,
    },
    Rival {
        script: "llm_transformers.py",
        interpreter: "EPO_PYTHON",
        format: Format::name,
        gguf: false,
    },
];
const TRAINERS: [Rival; 1] =
    [Rival { script: "llm_peft.py", interpreter: "EPO_PYTHON", format: Format::name, gguf: false }];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [flag, work, format, folder] = words.as_slice() {
        if flag == "--side" {
            return own_side(work, Format::named(format)?, Path::new(folder));
        }
    }
    let temporary = tempfile::tempdir()?;
    let models = Models::find(temporary.path())?;
    let chosen = |word: &str, all: &[&str]| {
        let none = !words.iter().any(|chosen| all.contains(&chosen.as_str()));
        none || words.iter().any(|chosen| chosen == word)
    };
    let formats = Format::ALL.map(Format::name);
    for format in Format::ALL.into_iter().filter(|format| chosen(format.name(), &formats)) {
        for (tasks, rivals) in [(&SAMPLING[..], &SAMPLERS[..]), (&UPDATE, &TRAINERS)] {
            let chosen = |task: &&Task| chosen(task.word, &["decode", "prefill", "update"]);
            let tasks: Vec<&Task> = tasks.iter().filter(chosen).collect();
            if !tasks.is_empty() {
                compare(&tasks, format, rivals, &models)?;
            }
        }
    }
    Ok(())
}

/// The files of the model.
struct Models {
    folder: PathBuf,
    gguf: Option<PathBuf>,
    /// A folder for files of this run.
    temporary: PathBuf,
}

impl Models {
    fn find(temporary: &Path) -> Result<Self> {
        let path = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        let temporary = temporary.to_owned();
        let gguf = path("EPO_BENCH_GGUF");
        if let Some(folder) = path("EPO_BENCH_MODEL") {
            return Ok(Self { folder, gguf, temporary });
        }
        println!("EPO_BENCH_MODEL names no folder with a model in Hugging Face's layout.");
        println!("The weights are random, in the shape of SmolLM2-135M-Instruct.");
        write_random(&temporary)?;
        Ok(Self { folder: temporary.clone(), gguf: None, temporary })
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

/// Runs the tasks on all sides, in turn.
fn compare(tasks: &[&Task], format: Format, rivals: &[Rival], models: &Models) -> Result<()> {
    println!("\nweights in {}", format.name());
    let work = if tasks[0].is_update() { "update" } else { "sample" };
    let mut own = Command::new(std::env::current_exe()?);
    own.args(["--side", work, format.name()]).arg(&models.folder);
    let mut own = Contestant::start(&mut own, "")?;
    let trial = tasks[0].trial();
    own.measure(&trial)?;
    let mut others = Vec::new();
    for rival in rivals {
        match rival.fastest(&trial, format, models) {
            Ok(side) => others.push(side),
            Err(reason) => println!("  {} does not run: {reason:#}", rival.script),
        }
    }
    for task in tasks {
        println!("{}, load {:.1}", task.title(), load());
        let rounds = setting("EPO_BENCH_ROUNDS", 3)?.max(1);
        let mut measured = vec![Vec::new(); others.len()];
        let mut ours = Vec::new();
        for _ in 0..rounds {
            ours.push(own.measure(task)?);
            for (side, measured) in others.iter_mut().zip(&mut measured) {
                measured.push(side.measure(task)?);
            }
        }
        report(&own.name, task, &ours);
        for (side, theirs) in others.iter().zip(&measured) {
            report(&side.name, task, theirs);
        }
        for (side, theirs) in others.iter().zip(&measured) {
            report_ratio(&side.name, task, &ours, theirs);
        }
    }
    Ok(())
}

impl Rival {
    /// Starts the rival with its defaults and tuned, lets both run a task, and returns the faster.
    fn fastest(&self, task: &Task, format: Format, models: &Models) -> Result<Contestant> {
        let mut plain = Contestant::start(&mut self.command(format, models)?, "")?;
        let mut tuned = Contestant::start(self.command(format, models)?.envs(TUNED), ", tuned")?;
        let [first, second] = [plain.measure(task)?, tuned.measure(task)?];
        Ok(if first.seconds < second.seconds { plain } else { tuned })
    }

    fn command(&self, format: Format, models: &Models) -> Result<Command> {
        let model = match &models.gguf {
            Some(gguf) if self.gguf => gguf,
            None if self.gguf => anyhow::bail!("EPO_BENCH_GGUF names no file"),
            _ => &models.folder,
        };
        let log = std::fs::File::create(models.temporary.join("stderr"))?;
        let mut command = python_of(self.interpreter, self.script);
        command.arg(model).arg((self.format)(format)).stderr(log);
        Ok(command)
    }
}

/// One measured round.
#[derive(Clone, Copy)]
struct Measured {
    seconds: f64,
    cpu: f64,
    peak: f64,
}

/// A running side.
struct Contestant {
    name: String,
    process: Side,
    round: usize,
}

impl Contestant {
    fn start(command: &mut Command, setting: &str) -> Result<Self> {
        let (process, ready) = Side::start(command)?;
        let ready: Value = serde_json::from_str(&ready)?;
        let name = ready["ready"].as_str().context("no name")?;
        Ok(Self { name: format!("{name}{setting}"), process, round: 0 })
    }

    fn measure(&mut self, task: &Task) -> Result<Measured> {
        let Task { rows, prompt, new, .. } = task;
        let cpu = self.process.cpu_seconds();
        self.process.forget_peak();
        let answer = self.process.ask(&format!("{} {rows} {prompt} {new}", self.round))?;
        self.round += 1;
        let answer: Value = serde_json::from_str(&answer)?;
        let want = if task.is_update() { task.tokens() } else { rows * new };
        ensure!(answer["tokens"] == want, "{} answers {answer} instead of {want}", self.name);
        Ok(Measured {
            seconds: answer["seconds"].as_f64().context("no seconds")?,
            cpu: self.process.cpu_seconds() - cpu,
            peak: self.process.memory("VmHWM"),
        })
    }
}

/// Prints the medians of a side's rounds, and the highest peak.
fn report(name: &str, task: &Task, rounds: &[Measured]) {
    let seconds = median(rounds.iter().map(|round| round.seconds));
    let cpu = median(rounds.iter().map(|round| round.cpu));
    let peak = rounds.iter().map(|round| round.peak).fold(0.0, f64::max);
    let rate = task.tokens() as f64 / seconds;
    println!(
        "  {name:42} {rate:7.1} tokens/s, wall {seconds:6.2} s, CPU {cpu:6.2} s, \
         peak {peak:5.0} MB"
    );
}

/// Prints the medians of the ratios of each round, with the range of the first.
fn report_ratio(name: &str, task: &Task, ours: &[Measured], theirs: &[Measured]) {
    let ratios = |of: fn(&Measured) -> f64| -> Vec<f64> {
        ours.iter().zip(theirs).map(|(ours, theirs)| of(ours) / of(theirs)).collect()
    };
    let mut walls = ratios(|round| round.seconds);
    let mut what = "time";
    if !task.is_update() {
        walls.iter_mut().for_each(|wall| *wall = wall.recip());
        what = "tokens/s";
    }
    let least = walls.iter().copied().fold(f64::INFINITY, f64::min);
    let most = walls.iter().copied().fold(0.0, f64::max);
    println!(
        "  epo / {name}: {what} {:.2} ({least:.2} to {most:.2}), CPU time {:.2}, peak {:.2}",
        median(walls.into_iter()),
        median(ratios(|round| round.cpu).into_iter()),
        median(ratios(|round| round.peak).into_iter()),
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
}

/// Runnable processes of the last minute (Linux; 0 elsewhere).
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// This crate's side: does a task's work for every line on stdin.
fn own_side(work: &str, format: Format, folder: &Path) -> Result<()> {
    let model = Pretrained::open(Source::Folder(folder.to_owned()))?.with_context(CONTEXT)?;
    let config = model.config().clone();
    let parameters = format.parameters(&model)?;
    let mut run: Box<dyn FnMut(&[Vec<u32>], usize) -> Result<usize>> = if work == "update" {
        let mut learner = learner(&config, parameters)?;
        Box::new(move |rows, _| update(&mut learner, rows))
    } else {
        let decoder = Decoder::new(&config, &parameters)?;
        Box::new(move |prompts, new| sample(&decoder, prompts, new))
    };
    println!("{}", json!({ "ready": concat!("epo ", env!("CARGO_PKG_VERSION")) }));
    for line in std::io::stdin().lines() {
        let line = line?;
        let numbers: Vec<usize> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [round, rows, length, new] = numbers[..] else { anyhow::bail!("{line:?}") };
        let first = round * rows * length;
        let id = |i: usize| (i * 7919 % config.vocab_size) as u32;
        let ids: Vec<u32> = (first..first + rows * length).map(id).collect();
        let rows: Vec<Vec<u32>> = ids.chunks(length).map(<[u32]>::to_vec).collect();
        let start = Instant::now();
        let tokens = run(&rows, new)?;
        let seconds = start.elapsed().as_secs_f64();
        println!("{}", json!({ "seconds": seconds, "tokens": tokens }));
    }
    Ok(())
}

/// Samples `max_tokens` tokens after each prompt.
fn sample(decoder: &Decoder, prompts: &[Vec<u32>], max_tokens: usize) -> Result<usize> {
    let request = |(row, prompt)| {
        let stream = Stream::new(0, Purpose::Rollout, 0, 0, row as u32);
        Request { row, prompt, stream, turn: 0, choices: None }
    };
    let requests: Vec<Request> =
        prompts.iter().map(Vec::as_slice).enumerate().map(request).collect();
    let mut cache = KvCache::new(decoder.config(), prompts.len());
    cache.reserve(prompts[0].len() + max_tokens);
    let sampling = SamplingParams { max_tokens, ..SamplingParams::default() };
    let out = decoder.generate(&mut cache, &requests, &sampling)?;
    Ok(out.iter().map(|row| row.ids.len()).sum())
}

fn learner(config: &DecoderConfig, parameters: Parameters) -> Result<Learner> {
    let parameters = parameters.with_lora(config, &LoraConfig::default(), 0)?;
    Ok(Learner::new(config, parameters, AdamW::new(AdamWConfig::default()), 1.0)?)
}

/// One optimiser step with the clipped loss and EPO's entropy term.
fn update(learner: &mut Learner, rows: &[Vec<u32>]) -> Result<usize> {
    let length = rows[0].len();
    let row = |(trajectory, ids): (usize, &Vec<u32>)| Row {
        ids: ids.clone(),
        positions: (1..length as u32).collect(),
        turns: vec![0; length - 1],
        old_log_probs: vec![-12.0; length - 1],
        trajectory,
        ..Row::default()
    };
    let rows: Vec<Row> = rows.iter().enumerate().map(row).collect();
    let sign = |row: usize| if row % 2 == 0 { 1.0 } else { -1.0 };
    let advantages: Vec<Vec<f32>> =
        (0..rows.len()).map(|row| vec![sign(row); length - 1]).collect();
    let settings = UpdateConfig { mini_batches: Count::literal(1), ..UpdateConfig::default() };
    let entropy = EntropyConfig::paper_v2().build()?;
    let batch =
        PolicyBatch { rows: &rows, advantages: &advantages, reference: None, seed: 0, step: 0 };
    learner.policy_step(&batch, &settings, &entropy, 1e-6)?;
    Ok(rows.len() * length)
}
