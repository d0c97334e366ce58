//! The parts of one training step: its episodes, the updates of policy and critic, and its record.

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
use crate::train::learn::policy_batch::PolicyBatch;
use crate::train::learn::step_settings::StepSettings;
use crate::train::watch::diagnostics::{band_metrics, step_entropy, trajectory_metrics};
use crate::{Error, Result};

/// The episodes of step `step`: `group` of each scheduled task, each with its own random stream.
pub fn group_episodes(schedule: &TaskSchedule, seed: u64, step: u64, group: usize) -> Vec<Episode> {
    episodes_of(&schedule.at(step), 0, seed, step, group)
}

/// The episodes of round `round` (from 0) of step `step` under dynamic sampling.
///
/// Each round of each step has its own place in the schedule, its own group numbers and its own
/// random streams. Tasks of rounds that are not played are skipped until the schedule reaches them
/// again.
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

/// `group` episodes of each task, with groups numbered from `first`.
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

/// Advantages of a step's episodes, one list per trajectory.
#[derive(Debug, Clone, PartialEq)]
pub enum Advantages {
    /// One number per turn, for all its tokens ([`crate::train::credit::turn_advantages`]).
    Turns(Vec<Vec<f64>>),
    /// One number per sampled token, turn after turn ([`crate::train::credit::token_advantages`]).
    Tokens(Vec<Vec<f64>>),
}

impl Advantages {
    /// One number per sampled token.
    fn over_tokens(&self, trajectories: &[Trajectory]) -> Result<Vec<Vec<f64>>> {
        let of_turns = match self {
            Self::Tokens(advantages) => return Ok(advantages.clone()),
            Self::Turns(advantages) => advantages,
        };
        let turns: Vec<usize> = trajectories.iter().map(|t| t.turns.len()).collect();
        let got: Vec<usize> = of_turns.iter().map(Vec::len).collect();
        if got != turns {
            let expected = format!("turns {turns:?}");
            return Err(Error::Shape { name: "advantages", expected, got });
        }
        let spread = |(t, advantages): (&Trajectory, &Vec<f64>)| {
            let turns = t.turns.iter().zip(advantages);
            turns.flat_map(|(turn, &a)| std::iter::repeat_n(a, turn.action_ids.len())).collect()
        };
        Ok(trajectories.iter().zip(of_turns).map(spread).collect())
    }
}

/// Updates the policy on played episodes and returns the step's record (phase `rl`): diagnostics of
/// the episodes, metrics of the loss, the entropy band and β.
///
/// `returns` holds one number per episode. The entropies are added to the control's history.
///
/// # Errors
/// No episodes, an episode without sampled tokens, lengths that differ, a non-finite loss or
/// gradient, or an entropy control whose previous step is not finished.
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
        let began = Instant::now();
        let optimizer_before = agent.learner.optimizer.time();
        let StepSettings { seed, step, lr, update, .. } = *settings;
        let reference = if update.policy.kl.is_some() {
            agent.learner.reference_log_probs(&rows, update)?
        } else {
            None // the learner may have a reference for the reward alone
        };
        let reference = reference.as_deref();
        let data = PolicyBatch { rows: &rows, advantages: &advantages, reference, seed, step };
        let metrics = agent.learner.policy_step(&data, update, &agent.entropy, lr)?;
        record.set("lr", lr);
        for (name, value) in metrics.iter() {
            record.set(name, value);
        }
        let tokens: usize = rows.iter().map(|row| row.ids.len()).sum();
        record.set(TRAINED_TOKENS, tokens * update.epochs.get());
        let optimizer = agent.learner.optimizer.time() - optimizer_before;
        add_times(record, began.elapsed(), optimizer);
        Ok(())
    })
}

/// Records a step in which only the critic is updated ([`Critic::warms_up`]): as [`update_policy`],
/// without loss and learning rate. The entropies are added to the control's history as in every
/// step.
///
/// # Errors
/// No episodes, lengths that differ, or an entropy control whose previous step is not finished.
pub fn record_without_update(
    agent: &mut Agent,
    rollouts: &Rollouts,
    returns: &[f64],
    settings: &StepSettings,
) -> Result<Record> {
    check_episodes(rollouts, returns, settings.step)?;
    observe(agent, rollouts, returns, settings, |_, _| Ok(()))
}

/// Runs `update` within a step of the entropy control and returns the record of both.
fn observe(
    agent: &mut Agent,
    rollouts: &Rollouts,
    returns: &[f64],
    settings: &StepSettings,
    update: impl FnOnce(&mut Agent, &mut Record) -> Result<()>,
) -> Result<Record> {
    let entropy = step_entropy(&rollouts.trajectories)?;
    agent.entropy.begin_step_with(settings.step, entropy.clone())?;
    let mut record = Record::new("rl", settings.step).with("beta", agent.entropy.beta());
    trajectory_metrics(&mut record, &rollouts.trajectories, returns, &entropy);
    update(agent, &mut record)?;
    band_metrics(&mut record, &entropy, &agent.entropy)?;
    record.set("dropped_episodes", rollouts.stats.dropped);
    record.set("sampled_tokens", rollouts.stats.sampled_tokens);
    record.set("read_tokens", rollouts.stats.read_tokens);
    agent.entropy.finish_step()?;
    Ok(record)
}

/// Requires at least one episode, and one return per episode.
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

/// Updates the critic on the same rows, in the same order, as the policy.
///
/// Adds `value_loss`, `value_clipfrac`, `explained_variance` (of the values before the update),
/// `critic_grad_norm` and `critic_lr` to the step's record. `values` are those before the update
/// and `returns` their targets, one list per trajectory over its sampled tokens.
///
/// # Errors
/// An episode without sampled tokens, lengths that differ, or a non-finite number, loss or
/// gradient.
pub fn update_critic(
    critic: &mut Critic,
    rollouts: &Rollouts,
    values: &[Vec<f64>],
    returns: &[Vec<f64>],
    settings: &StepSettings,
    record: &mut Record,
) -> Result<()> {
    let began = Instant::now();
    let optimizer_before = critic.optimizer.time();
    let StepSettings { seed, step, update, .. } = *settings;
    let rows = rows_of(&rollouts.trajectories, settings.rows)?;
    let old = over_rows("values", &rows, values)?;
    let targets = over_rows("value returns", &rows, returns)?;
    let data = ValueBatch { rows: &rows, values: &old, returns: &targets, seed, step };
    let metrics = critic.value_step(&data, update)?;
    for (name, value) in metrics.iter() {
        record.set(name, value);
    }
    record.set("explained_variance", explained_variance(values, returns));
    record.set("critic_lr", critic.config().lr(step));
    let values_time = std::mem::take(&mut critic.values_time);
    let optimizer = critic.optimizer.time() - optimizer_before;
    add_times(record, values_time + began.elapsed(), optimizer);
    Ok(())
}

/// Adds an update's time to `time/update_seconds`, and the optimiser's part of it to
/// `time/optimizer_seconds`.
fn add_times(record: &mut Record, update: Duration, optimizer: Duration) {
    for (key, time) in [(UPDATE_SECONDS, update), (OPTIMIZER_SECONDS, optimizer)] {
        record.set(key, record.number(key).unwrap_or(0.0) + time.as_secs_f64());
    }
}

const TRAINED_TOKENS: &str = "trained_tokens";
const UPDATE_SECONDS: &str = "time/update_seconds";
const OPTIMIZER_SECONDS: &str = "time/optimizer_seconds";

/// Work and time of a run, for its rates.
#[derive(Debug, Clone, Copy, Default)]
pub struct Throughput {
    stats: PlayStats,
    trained_tokens: f64,
    time: Duration,
}

impl Throughput {
    /// Adds one step that began at `began`, and its rates to the step's record.
    ///
    /// They are `time/seconds`; tokens per second of the step's whole time, `time/sampled_…`,
    /// `time/read_…` and `time/trained_tokens_per_second` with their sum `time/tokens_per_second`;
    /// and the shares of the step's time `time/environment_share`, `time/policy_share` (decoding),
    /// `time/update_share` (policy and critic, with the critic's values and both optimisers) and
    /// `time/optimizer_share`.
    pub fn add(&mut self, record: &mut Record, stats: &PlayStats, began: Instant) {
        let step = Self {
            stats: *stats,
            trained_tokens: record.number(TRAINED_TOKENS).unwrap_or(0.0),
            time: began.elapsed(),
        };
        let seconds = step.time.as_secs_f64();
        record.set("time/seconds", seconds);
        record.set("time/tokens_per_second", step.tokens_per_second());
        for (key, rate) in step.token_rates() {
            record.set(format!("time/{key}"), rate);
        }
        record.set("time/environment_share", stats.env_time.as_secs_f64() / seconds);
        record.set("time/policy_share", stats.policy_time.as_secs_f64() / seconds);
        for (key, share) in
            [(UPDATE_SECONDS, "time/update_share"), (OPTIMIZER_SECONDS, "time/optimizer_share")]
        {
            record.set(share, record.number(key).unwrap_or(0.0) / seconds);
        }
        self.stats += step.stats;
        self.trained_tokens += step.trained_tokens;
        self.time += step.time;
    }

    /// Tokens sampled, read and trained on, per second of all steps; 0 before the first step.
    ///
    /// Sampled tokens are those that the policy drew. Read tokens are the prompt tokens that were
    /// computed, without those found in the cache. Trained tokens are those of the policy's rows
    /// (prompts, observations and actions), once per epoch.
    pub fn tokens_per_second(&self) -> f64 {
        let played = (self.stats.sampled_tokens + self.stats.read_tokens) as f64;
        per_second(played + self.trained_tokens, self.time)
    }

    /// The parts of [`Throughput::tokens_per_second`], by key.
    fn token_rates(&self) -> [(&'static str, f64); 3] {
        let PlayStats { sampled_tokens, read_tokens, .. } = self.stats;
        [
            ("sampled_tokens_per_second", per_second(sampled_tokens as f64, self.time)),
            ("read_tokens_per_second", per_second(read_tokens as f64, self.time)),
            ("trained_tokens_per_second", per_second(self.trained_tokens, self.time)),
        ]
    }

    /// Environment steps per second of time in the environments; 0 before the first step.
    pub fn env_steps_per_second(&self) -> f64 {
        per_second(self.stats.env_steps as f64, self.stats.env_time)
    }
}

/// Summary of a run as a JSON object, as the examples print it last.
///
/// `seconds` is the wall time since `began`, successes are shares, scores are in points, and the
/// rates are those of [`Throughput`].
pub fn summary(
    steps: u64,
    began: Instant,
    [before, after]: [&Outcome; 2],
    throughput: &Throughput,
    out: &Path,
) -> serde_json::Value {
    let mut summary = serde_json::json!({
        "steps": steps,
        "seconds": began.elapsed().as_secs_f64(),
        "success_before": before.success.mean,
        "success_after": after.success.mean,
        "score_before": before.score.mean,
        "score_after": after.score.mean,
        "tokens_per_second": throughput.tokens_per_second(),
        "env_steps_per_second": throughput.env_steps_per_second(),
        "out": out.to_string_lossy(),
    });
    for (key, rate) in throughput.token_rates() {
        summary[key] = rate.into();
    }
    summary
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
        "step {done}/{steps}  success {:.2}  score {:.1}  entropy {:.3}  β {:.2}  {:.0} tokens/s  \
         {} left",
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
    fn shares_and_rates_are_parts_of_the_step() {
        let mut record = Record::new("rl", 0);
        let began = Instant::now().checked_sub(Duration::from_secs(8)).unwrap();
        add_times(&mut record, Duration::from_secs(4), Duration::from_secs(1));
        add_times(&mut record, Duration::from_secs(2), Duration::from_secs(1));
        let stats = PlayStats {
            policy_time: Duration::from_secs(2),
            sampled_tokens: 80,
            read_tokens: 160,
            ..PlayStats::default()
        };
        record.set(TRAINED_TOKENS, 400usize);
        Throughput::default().add(&mut record, &stats, began);
        let shares = ["environment", "policy", "update", "optimizer"];
        for (name, expected) in shares.into_iter().zip([0.0, 0.25, 0.75, 0.25]) {
            let share = record.number(&format!("time/{name}_share")).unwrap();
            assert!((share - expected).abs() < 0.02, "{name}: {share}");
        }
        let rate = |name: &str| record.number(&format!("time/{name}tokens_per_second")).unwrap();
        let rates = ["sampled_", "read_", "trained_"].map(rate);
        assert!((rates.iter().sum::<f64>() / rate("") - 1.0).abs() < 1e-9);
        assert_eq!(rates.map(|rate| (rate / rates[0]).round()), [1.0, 2.0, 5.0]);
    }
}
