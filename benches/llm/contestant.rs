//! Running sides, and what is measured of them.

use std::process::Command;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::common::side::Side;
use crate::common::TUNED;
use crate::task::Task;

/// One measured round.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    /// CPU seconds of all threads.
    cpu: f64,
    /// Peak resident MB.
    peak: f64,
}

/// A running side. It answers a line of numbers, `ROUND ROWS PROMPT NEW`, with JSON: the seconds
/// that the work took, and the number of tokens. Prompts depend on the round.
pub(crate) struct Contestant {
    pub(crate) name: String,
    process: Side,
    round: usize,
}

impl Contestant {
    /// Starts a side and waits until it is ready, which it reports with its name.
    pub(crate) fn start(command: &mut Command, setting: &str) -> Result<Self> {
        let (process, ready) = Side::start(command)?;
        let ready: Value = serde_json::from_str(&ready)?;
        let name = ready["ready"].as_str().context("no name")?;
        Ok(Self { name: format!("{name}{setting}"), process, round: 0 })
    }

    /// Lets the side do a task.
    pub(crate) fn measure(&mut self, task: &Task) -> Result<Measured> {
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

/// Environment variables of a side.
pub(crate) type Variables = [(&'static str, &'static str)];

/// Starts a side with its defaults and [`TUNED`], lets both do a task, and returns the faster.
pub(crate) fn fastest(
    task: &Task,
    start: impl Fn(&Variables, &str) -> Result<Contestant>,
) -> Result<Contestant> {
    let mut plain = start(&[], "")?;
    let mut tuned = start(&TUNED, ", tuned")?;
    let [first, second] = [plain.measure(task)?, tuned.measure(task)?];
    Ok(if first.seconds < second.seconds { plain } else { tuned })
}

/// Prints the medians of a side's rounds, and the highest peak.
pub(crate) fn report(name: &str, task: &Task, rounds: &[Measured]) {
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
pub(crate) fn report_ratio(name: &str, task: &Task, ours: &[Measured], theirs: &[Measured]) {
    let ratios = |of: fn(&Measured) -> f64| -> Vec<f64> {
        ours.iter().zip(theirs).map(|(ours, theirs)| of(ours) / of(theirs)).collect()
    };
    let mut walls = ratios(|round| round.seconds);
    let mut what = "time";
    if !task.is_update() {
        for wall in &mut walls {
            *wall = wall.recip();
        }
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
