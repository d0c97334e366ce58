//! The pieces of one training step between the rollouts and the record.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::env::Task;
use crate::evaluation::task_set::TaskSchedule;
use crate::rng::{Purpose, Stream};
use crate::rollout::engine::{Episode, PlayStats, Rollouts};
use crate::rollout::trajectory::Trajectory;
use crate::run::progress::{clock, Progress};
use crate::run::record::Record;
use crate::train::credit::gae::explained_variance;
use crate::train::credit::sampling::DynamicSampling;
use crate::train::evaluate::Outcome;
use crate::train::learn::accumulate::{over_rows, rows_of};
use crate::train::learn::agent::Agent;
use crate::train::learn::critic::{Critic, ValueBatch};
use crate::train::learn::learner::PolicyBatch;
use crate::train::learn::step_settings::StepSettings;
use crate::train::watch::diagnostics::{band_metrics, step_entropy, trajectory_metrics};
use crate::{Error, Result};

/// The episodes of step `step`: `group` of each task the schedule names, all with streams of their own.
pub fn group_episodes(schedule: &TaskSchedule, seed: u64, step: u64, group: usize) -> Vec<Episode> {
    episodes_of(&schedule.at(step), 0, seed, step, group)
}

/// The episodes of round `round` (from 0) of step `step`, where a step has up to `max_rounds` ([`DynamicSampling`]): its
/// place in the schedule, the groups' numbers and the streams are those of no other round of any step.
///
/// Tasks of rounds that are not played are passed over until the schedule comes to them again.
pub fn round_episodes(
    schedule: &TaskSchedule,
    seed: u64,
    step: u64,
    round: u64,
    sampling: DynamicSampling,
    group: usize,
) -> Vec<Episode> {
    let tasks = schedule.at(step * sampling.max_rounds + round);
    episodes_of(&tasks, round as usize * tasks.len(), seed, step, group)
}

/// `group` episodes of each task, the groups numbered from `first`.
fn episodes_of(tasks: &[Task], first: usize, seed: u64, step: u64, group: usize) -> Vec<Episode> {
    let tasks = (first..).zip(tasks);
    let members = tasks.flat_map(|(g, task)| (0..group).map(move |m| (g, m, task)));
    members
        .map(|(g, m, task)| Episode {
            task: task.clone(),
            group: g as u32,
            member: m as u32,
            stream: Stream::new(seed, Purpose::Rollout, step, g as u32, m as u32),
        })
        .collect()
}

/// What each sampled token is to be credited with; one list a trajectory.
#[derive(Debug, Clone, PartialEq)]
pub enum Advantages {
    /// One number a turn, for all its tokens ([`crate::train::credit::turn_advantages`]).
    Turns(Vec<Vec<f64>>),
    /// One number a sampled token, turn after turn ([`crate::train::credit::token_advantages`]).
    Tokens(Vec<Vec<f64>>),
}

impl Advantages {
    /// One number a sampled token.
    fn over_tokens(&self, trajectories: &[Trajectory]) -> Result<Vec<Vec<f64>>> {
        let of_turns = match self {
            Self::Tokens(advantages) => return Ok(advantages.clone()),
            Self::Turns(advantages) => advantages,
        };
        let turns: Vec<usize> = trajectories.iter().map(|t| t.turns.len()).collect();
        let got: Vec<usize> = of_turns.iter().map(Vec::len).collect();
        if got != turns {
            return Err(Error::Shape {
                name: "advantages",
                expected: format!("turns {turns:?}"),
                got,
            });
        }
        let spread = |(t, advantages): (&Trajectory, &Vec<f64>)| {
            let turns = t.turns.iter().zip(advantages);
            turns.flat_map(|(turn, &a)| std::iter::repeat_n(a, turn.action_ids.len())).collect()
        };
        Ok(trajectories.iter().zip(of_turns).map(spread).collect())
    }
}

/// Updates the policy on played episodes and returns the step's record: phase `rl`, diagnostics of the
/// episodes, metrics of the loss, the entropy band and β.
///
/// `returns` holds one number an episode. The entropies enter the control's history.
///
/// # Errors
/// No episodes, one without sampled tokens, a length that differs, a non-finite loss or gradient, a control whose
/// step is not finished.
pub fn update_policy(
    agent: &mut Agent,
    rollouts: &Rollouts,
    returns: &[f64],
    advantages: &Advantages,
    settings: &StepSettings,
) -> Result<Record> {
    check_episodes(rollouts, returns, settings.step)?;
    let rows = rows_of(&rollouts.trajectories, settings.rows)?;
    let of_tokens = advantages.over_tokens(&rollouts.trajectories)?;
    let advantages = over_rows("advantages", &rows, &of_tokens)?;
    observe(agent, rollouts, returns, settings, |agent, record| {
        let (began, before) = (Instant::now(), agent.learner.optimizer.time());
        let StepSettings { seed, step, lr, update, .. } = *settings;
        let compared = update.policy.kl.is_some(); // a reference may be there for the reward alone
        let reference = compared
            .then(|| agent.learner.reference_log_probs(&rows, update))
            .transpose()?
            .flatten();
        let reference = reference.as_deref();
        let data = PolicyBatch { rows: &rows, advantages: &advantages, reference, seed, step };
        let metrics = agent.learner.policy_step(&data, update, &agent.entropy, lr)?;
        record.set("lr", lr);
        metrics.iter().for_each(|(name, value)| record.set(name, value));
        record
            .set("updated_tokens", rows.iter().map(|r| r.ids.len()).sum::<usize>() * update.epochs);
        add_times(record, began.elapsed(), agent.learner.optimizer.time() - before);
        Ok(())
    })
}

/// The record of a step in which the policy waits for its critic ([`Critic::warms_up`]): as [`update_policy`]'s, without the
/// loss and the learning rate. The entropies enter the control's history, as those of every step do.
///
/// # Errors
/// No episodes, a length that differs, a control whose step is not finished.
pub fn record_without_update(
    agent: &mut Agent,
    rollouts: &Rollouts,
    returns: &[f64],
    settings: &StepSettings,
) -> Result<Record> {
    check_episodes(rollouts, returns, settings.step)?;
    observe(agent, rollouts, returns, settings, |_, _| Ok(()))
}

/// A step of the entropy control around `update`, and the record of both.
fn observe(
    agent: &mut Agent,
    rollouts: &Rollouts,
    returns: &[f64],
    settings: &StepSettings,
    update: impl FnOnce(&mut Agent, &mut Record) -> Result<()>,
) -> Result<Record> {
    let entropy = step_entropy(&rollouts.trajectories)?;
    agent.entropy.begin_step(settings.step, entropy.clone())?;
    let mut record = Record::new("rl", settings.step).with("beta", agent.entropy.beta());
    trajectory_metrics(&mut record, &rollouts.trajectories, returns, &entropy);
    update(agent, &mut record)?;
    band_metrics(&mut record, &entropy, &agent.entropy)?;
    record.set("dropped_episodes", rollouts.stats.dropped);
    agent.entropy.finish_step()?;
    Ok(record)
}

/// Requires some episodes, and one return for each.
fn check_episodes(rollouts: &Rollouts, returns: &[f64], step: u64) -> Result<()> {
    let episodes = rollouts.trajectories.len();
    if episodes == 0 {
        return Err(Error::EmptyMask { name: "rollouts", at: format!("step {step}") });
    }
    if returns.len() != episodes {
        let expected = format!("[{episodes}]");
        return Err(Error::Shape { name: "returns", expected, got: vec![returns.len()] });
    }
    Ok(())
}

/// Updates the critic on the rows, and in the order, of the policy's update, and adds `value_loss`, `value_clipfrac`,
/// `explained_variance` (of the values before), `critic_grad_norm` and `critic_lr` to the step's record.
///
/// `values` are those before the update and `returns` what they should have been, one list a trajectory over its sampled
/// tokens.
///
/// # Errors
/// An episode without sampled tokens, a length that differs, a non-finite number, loss or gradient.
pub fn update_critic(
    critic: &mut Critic,
    rollouts: &Rollouts,
    values: &[Vec<f64>],
    returns: &[Vec<f64>],
    settings: &StepSettings,
    record: &mut Record,
) -> Result<()> {
    let (began, before) = (Instant::now(), critic.optimizer.time());
    let StepSettings { seed, step, update, .. } = *settings;
    let rows = rows_of(&rollouts.trajectories, settings.rows)?;
    let old = over_rows("values", &rows, values)?;
    let targets = over_rows("value returns", &rows, returns)?;
    let data = ValueBatch { rows: &rows, values: &old, returns: &targets, seed, step };
    let metrics = critic.value_step(&data, update)?;
    metrics.iter().for_each(|(name, value)| record.set(name, value));
    record.set("explained_variance", explained_variance(values, returns));
    record.set("critic_lr", critic.config().lr(step));
    let values = std::mem::take(&mut critic.values_time);
    add_times(record, values + began.elapsed(), critic.optimizer.time() - before);
    Ok(())
}

/// Adds an update's time to `time/update_seconds`, and its optimiser's part to `time/optimizer_seconds`.
fn add_times(record: &mut Record, update: Duration, optimizer: Duration) {
    for (key, time) in [(UPDATE_SECONDS, update), (OPTIMIZER_SECONDS, optimizer)] {
        record.set(key, record.number(key).unwrap_or(0.0) + time.as_secs_f64());
    }
}

const UPDATE_SECONDS: &str = "time/update_seconds";
const OPTIMIZER_SECONDS: &str = "time/optimizer_seconds";

/// Work done and time spent, over a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Throughput {
    stats: PlayStats,
    updated_tokens: f64,
    time: Duration,
}

impl Throughput {
    /// Adds one step that began at `began`, and its rates to the step's record: `time/seconds`,
    /// `time/tokens_per_second` (tokens sampled, read and trained on), and of the step's time `time/environment_share`,
    /// `time/policy_share` (decoding), `time/update_share` (policy and critic, its values before and their optimisers
    /// included) and `time/optimizer_share`.
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
        for (key, share) in
            [(UPDATE_SECONDS, "time/update_share"), (OPTIMIZER_SECONDS, "time/optimizer_share")]
        {
            record.set(share, record.number(key).unwrap_or(0.0) / seconds);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_parts_of_the_step() {
        let mut record = Record::new("rl", 0);
        let began = Instant::now().checked_sub(Duration::from_secs(8)).unwrap();
        add_times(&mut record, Duration::from_secs(4), Duration::from_secs(1));
        add_times(&mut record, Duration::from_secs(2), Duration::from_secs(1));
        let stats = PlayStats { policy_time: Duration::from_secs(2), ..PlayStats::default() };
        Throughput::default().add(&mut record, &stats, began);
        let shares = ["environment", "policy", "update", "optimizer"];
        for (name, expected) in shares.into_iter().zip([0.0, 0.25, 0.75, 0.25]) {
            let share = record.number(&format!("time/{name}_share")).unwrap();
            assert!((share - expected).abs() < 0.02, "{name}: {share}");
        }
    }
}
