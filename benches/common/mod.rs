//! Measurements of processes that benches share: their own, and PyTorch's.
#![allow(dead_code)] // No bench uses all of it.

use std::process::Command;

use anyhow::{ensure, Context, Result};

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
    let mut command =
        Command::new(std::env::var("EPO_PYTHON").unwrap_or_else(|_| "python3".into()));
    command.arg(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script));
    command.env("OMP_WAIT_POLICY", "passive");
    command
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
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Resets the peak of this process's memory (Linux).
pub(crate) fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Returns the MB in `field` of this process's status: `VmRSS`, or the peak `VmHWM` (Linux; 0
/// elsewhere).
pub(crate) fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
        / 1024.0
}
