//! The pieces of one training step between the rollouts and the record.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{
    clock, step_entropy, trajectory_metrics, Agent, Outcome, PolicyBatch, Progress, Record, TaskSchedule,
    UpdateConfig,
};
use crate::rng::{Purpose, Stream};
use crate::rollout::{Episode, PlayStats, Rollouts, Row, RowKind};
use crate::{Error, Result};

/// The episodes of step `step`: `group` of each task the schedule names, all with streams of their own.
pub fn group_episodes(schedule: &TaskSchedule, seed: u64, step: u64, group: usize) -> Vec<Episode> {
    let tasks = schedule.at(step);
    let members = tasks.iter().enumerate().flat_map(|(g, task)| (0..group).map(move |m| (g, m, task)));
    members
        .map(|(g, m, task)| Episode {
            task: task.clone(),
            group: g as u32,
            member: m as u32,
            stream: Stream::new(seed, Purpose::Rollout, step, g as u32, m as u32),
        })
        .collect()
}

/// What a policy update is told beside the trajectories.
#[derive(Debug, Clone, Copy)]
pub struct StepSettings<'a> {
    /// The run's seed.
    pub seed: u64,
    /// The training step, from 0.
    pub step: u64,
    /// Learning rate.
    pub lr: f64,
    /// One row a trajectory, or one a turn.
    pub rows: RowKind,
    /// How rows become optimiser steps.
    pub update: &'a UpdateConfig,
}

/// Updates the policy on played episodes and returns the step's record: phase `rl`, diagnostics of the
/// episodes, metrics of the loss, the entropy band and β.
///
/// `returns` holds one number an episode, `advantages` one a turn of each episode. The entropies enter the
/// control's history.
///
/// # Errors
/// No episodes, one without sampled tokens, a length that differs, a non-finite loss or gradient, a control whose
/// step is not finished.
pub fn update_policy(
    agent: &mut Agent,
    rollouts: &Rollouts,
    returns: &[f64],
    advantages: &[Vec<f64>],
    settings: &StepSettings,
) -> Result<Record> {
    check_episodes(rollouts, returns, advantages, settings.step)?;
    let Agent { learner, entropy: control, .. } = agent;
    let (mut rows, mut row_advantages) = (Vec::new(), Vec::new());
    for (i, trajectory) in rollouts.trajectories.iter().enumerate() {
        let part = Row::from_trajectory(trajectory, i, settings.rows)?;
        let of_token = |turn: &u32| advantages[i][*turn as usize] as f32;
        row_advantages.extend(part.iter().map(|row| row.turns.iter().map(of_token).collect::<Vec<_>>()));
        rows.extend(part);
    }
    let entropy = step_entropy(&rollouts.trajectories)?;
    control.begin_step(settings.step, entropy.clone())?;
    let StepSettings { seed, step, lr, update, .. } = *settings;
    let reference = learner.reference_log_probs(&rows, update)?;
    let reference = reference.as_deref();
    let data = PolicyBatch { rows: &rows, advantages: &row_advantages, reference, seed, step };
    let metrics = learner.policy_step(&data, update, control, lr)?;

    let mut record = Record::new("rl", step).with("lr", lr).with("beta", control.beta());
    trajectory_metrics(&mut record, &rollouts.trajectories, returns, &entropy);
    metrics.iter().for_each(|(name, value)| record.set(name, value));
    let (reference, band) = (control.reference(0)?, control.band());
    record.set("entropy_reference", reference);
    record.set("band_low", reference.map(|h| h * band.kappa_low));
    record.set("band_high", reference.map(|h| h * band.kappa_high));
    record.set("dropped_episodes", rollouts.stats.dropped);
    record.set("updated_tokens", rows.iter().map(|r| r.ids.len()).sum::<usize>() * update.epochs);
    control.finish_step()?;
    Ok(record)
}

/// Requires some episodes, one return for each, and one advantage for each of their turns.
fn check_episodes(rollouts: &Rollouts, returns: &[f64], advantages: &[Vec<f64>], step: u64) -> Result<()> {
    let turns: Vec<usize> = rollouts.trajectories.iter().map(|t| t.turns.len()).collect();
    if turns.is_empty() {
        return Err(Error::EmptyMask { name: "rollouts", at: format!("step {step}") });
    }
    if returns.len() != turns.len() {
        let expected = format!("[{}]", turns.len());
        return Err(Error::Shape { name: "returns", expected, got: vec![returns.len()] });
    }
    let got: Vec<usize> = advantages.iter().map(Vec::len).collect();
    if got != turns {
        return Err(Error::Shape { name: "advantages", expected: format!("turns {turns:?}"), got });
    }
    Ok(())
}

/// Work done and time spent, over a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Throughput {
    stats: PlayStats,
    updated_tokens: f64,
    time: Duration,
}

impl Throughput {
    /// Adds one step that began at `began`, and its rates to the step's record: `time/seconds`,
    /// `time/tokens_per_second` (tokens sampled, read and trained on), `time/environment_share` and
    /// `time/policy_share` (decoding) of the step's time.
    pub fn add(&mut self, record: &mut Record, stats: &PlayStats, began: Instant) {
        let step = Self {
            stats: *stats,
            updated_tokens: record.number("updated_tokens").unwrap_or(0.0),
            time: began.elapsed(),
        };
        let seconds = step.time.as_secs_f64();
        record.set("time/seconds", seconds);
        record.set("time/tokens_per_second", step.tokens_per_second());
        record.set("time/environment_share", stats.env_time.as_secs_f64() / seconds);
        record.set("time/policy_share", stats.policy_time.as_secs_f64() / seconds);
        self.stats += step.stats;
        self.updated_tokens += step.updated_tokens;
        self.time += step.time;
    }

    /// Tokens sampled, read and trained on per second; 0 before the first step.
    pub fn tokens_per_second(&self) -> f64 {
        let played = (self.stats.sampled_tokens + self.stats.prompt_tokens) as f64;
        per_second(played + self.updated_tokens, self.time)
    }

    /// Environment steps per second spent in the environments; 0 before the first step.
    pub fn env_steps_per_second(&self) -> f64 {
        per_second(self.stats.env_steps as f64, self.stats.env_time)
    }
}

/// What an example prints last: the run in numbers, as a JSON object.
///
/// `seconds` is the wall time since `began`, successes are shares, scores are points; the rates are
/// [`Throughput`]'s.
pub fn summary(
    steps: u64,
    began: Instant,
    [before, after]: [&Outcome; 2],
    throughput: &Throughput,
    out: &Path,
) -> serde_json::Value {
    serde_json::json!({
        "steps": steps,
        "seconds": began.elapsed().as_secs_f64(),
        "success_before": before.success.mean,
        "success_after": after.success.mean,
        "score_before": before.score.mean,
        "score_after": after.score.mean,
        "tokens_per_second": throughput.tokens_per_second(),
        "env_steps_per_second": throughput.env_steps_per_second(),
        "out": out,
    })
}

fn per_second(work: f64, time: Duration) -> f64 {
    if time.is_zero() {
        0.0
    } else {
        work / time.as_secs_f64()
    }
}

/// The progress line of a finished step: step, success, score, entropy, β, tokens/s, time left.
pub fn step_line(record: &Record, done: u64, steps: u64, progress: &Progress) -> String {
    let show = |key| record.number(key).unwrap_or(f64::NAN);
    format!(
        "step {done}/{steps}  success {:.2}  score {:.1}  entropy {:.3}  β {:.2}  {:.0} tokens/s  {} left",
        show("success"),
        show("score"),
        show("entropy"),
        show("beta"),
        show("time/tokens_per_second"),
        progress.left().map_or("?".into(), clock),
    )
}
