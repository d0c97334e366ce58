//! A published language model on a CPU, compared with llama.cpp, vLLM, transformers and PEFT:
//! decoding, prefill and one update of LoRA adapters, in time and peak memory.
//!
//! `EPO_BENCH_MODEL=smollm2-135m-instruct EPO_PYTHON=python3 cargo bench --bench llm [-- WORDS]`
//!
//! Words choose tasks (`decode`, `prefill`, `update`) and formats of the weights (`f32`, `bf16`,
//! `q8_0`, `q4_1`); without words, everything runs. `q4_1` has the embedding in Q8_0. Next to these
//! two, llama.cpp has quantised weights as well, and the others have f32.
//!
//! - `decode`: 16 sequences, prompts of 64 and of 256 tokens, 64 new tokens each. The time includes
//!   the prompts.
//! - `prefill`: 16 prompts of 512 tokens, and one new token each.
//! - `update`: forward pass with log-probabilities and entropies, backward pass and AdamW step of
//!   LoRA adapters of rank 16 on all linear layers; 8 rows of 1,024 tokens.
//!
//! `EPO_BENCH_MODEL` is the name of a published model, a GGUF file or a folder in Hugging Face's
//! layout; llama.cpp needs one of the first two. Without it, the bench draws random weights in the
//! shape of SmolLM2-135M-Instruct. `EPO_PYTHON` is an interpreter with torch, transformers and
//! peft; `EPO_PYTHON_LLAMA` one with xllamacpp and gguf, and `EPO_PYTHON_VLLM` one with vllm's CPU
//! build, if those are others. What is not installed is reported and left out.
//!
//! Every side is a process that stays. In a short trial, which is not measured, each runs with its
//! defaults and tuned: threads that sleep while they wait, and a `malloc` that keeps its memory.
//! The faster one stays. In `EPO_BENCH_ROUNDS` (3) rounds of each task the sides take turns.
//! `EPO_BENCH_LEAN=1` makes this crate's updates with gradient checkpointing and one row at a time,
//! which takes longer in less memory. All sides sample at temperature 1 and ignore end tokens, so
//! they make equally many tokens; this crate also returns the log-probability and the entropy of
//! every token. The peak is that of the resident memory, loading excepted.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use common::setting;
use contestant::{fastest, report, report_ratio, Contestant};
use format::Format;
use models::Models;
use own::own_side;
use rival::{Rival, SAMPLERS, TRAINERS};
use task::{Task, SAMPLING, UPDATE};

#[path = "../common/mod.rs"]
mod common;
mod contestant;
mod format;
mod models;
mod own;
mod rival;
mod task;

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

/// Runs the tasks on all sides, in turn.
fn compare(tasks: &[&Task], format: Format, rivals: &[Rival], models: &Models) -> Result<()> {
    println!("\nweights in {}", format.name());
    let work = if tasks[0].is_update() { "update" } else { "sample" };
    let trial = tasks[0].trial();
    let program = std::env::current_exe()?;
    let mut own = fastest(&trial, |variables, setting| {
        let mut own = Command::new(&program);
        own.args(["--side", work, format.name()]).arg(&models.folder);
        Contestant::start(own.envs(variables.iter().copied()), setting)
    })?;
    let mut others = Vec::new();
    for rival in rivals {
        let start = |variables: &_, setting: &_| rival.start(variables, setting, format, models);
        match fastest(&trial, start) {
            Ok(side) => others.push(side),
            Err(reason) => println!("  {} does not run: {reason:#}", rival.name()),
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

/// Runnable processes of the last minute (Linux; 0 elsewhere).
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}
