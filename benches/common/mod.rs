//! Measurements of processes that benches share: their own, and PyTorch's.
#![allow(dead_code)] // No bench uses all of it.

use std::path::Path;
use std::process::Command;

use anyhow::{ensure, Context, Result};

pub(crate) mod side;

/// Runs a process and returns the three figures on the last line that it prints.
pub(crate) fn figures(command: &mut Command) -> Result<[f64; 3]> {
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    let figures: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(output.status.success(), "it ends with {} after {line:?}", output.status);
    figures.try_into().ok().with_context(|| format!("it answers {line:?}"))
}

/// Returns a command that runs a Python script of this repository. Waiting threads sleep: on a busy
/// machine, spinning would count as the script's CPU time.
pub(crate) fn python(script: &str) -> Command {
    let mut command = python_of("EPO_PYTHON", script);
    command.env("OMP_WAIT_POLICY", "passive");
    command
}

/// Returns a command that runs a Python script of this repository with the interpreter that
/// `variable` names, or else `EPO_PYTHON`, or `python3`.
pub(crate) fn python_of(variable: &str, script: &str) -> Command {
    let named = |variable: &str| std::env::var(variable).ok();
    let interpreter = named(variable).or_else(|| named("EPO_PYTHON"));
    let mut command = Command::new(interpreter.unwrap_or_else(|| "python3".into()));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script));
    command
}

/// Glibc's settings of a `malloc` that keeps its memory, which avoids page faults for fresh tensors
/// at the price of a higher peak, and OpenMP threads that sleep while they wait.
pub(crate) const TUNED: [(&str, &str); 3] = [
    ("OMP_WAIT_POLICY", "passive"),
    ("MALLOC_MMAP_THRESHOLD_", "1073741824"),
    ("MALLOC_TRIM_THRESHOLD_", "17179869184"),
];

/// Returns the number in an environment variable, or `default`.
pub(crate) fn setting(name: &str, default: usize) -> Result<usize> {
    std::env::var(name)
        .map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}={text}")))
}

/// Runs a script twice, with waiting threads that spin (the default) and that sleep, and returns
/// the faster run's figures.
pub(crate) fn faster(script: &str, arguments: &[String]) -> Result<[f64; 3]> {
    let run = |waiting| figures(python(script).args(arguments).env("OMP_WAIT_POLICY", waiting));
    let [spinning, sleeping] = [run("active")?, run("passive")?];
    Ok(if spinning[0] < sleeping[0] { spinning } else { sleeping })
}

/// Returns the CPU seconds of this process so far, all threads (Linux; 0 elsewhere).
pub(crate) fn cpu_seconds() -> f64 {
    cpu_seconds_in(Path::new("/proc/self"))
}

fn cpu_seconds_in(folder: &Path) -> f64 {
    let stat = std::fs::read_to_string(folder.join("stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Resets the peak of this process's memory (Linux).
pub(crate) fn forget_peak() {
    forget_peak_in(Path::new("/proc/self"));
}

fn forget_peak_in(folder: &Path) {
    let _ = std::fs::write(folder.join("clear_refs"), "5");
}

/// Returns the MB in `field` of this process's status: `VmRSS`, or the peak `VmHWM` (Linux; 0
/// elsewhere).
pub(crate) fn memory(field: &str) -> f64 {
    memory_in(Path::new("/proc/self"), field)
}

fn memory_in(folder: &Path, field: &str) -> f64 {
    let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
        / 1024.0
}
