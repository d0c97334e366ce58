//! Evaluation of a policy on fixed sets of tasks.
//!
//! All evaluations of a run use the same tasks and the same random streams, so differences between
//! them come from the policy. What is reported is fixed in advance: a mean over all episodes with
//! its confidence interval, never the best of several evaluations.

use std::collections::BTreeMap;

use crate::env::Environment;
use crate::evaluation::stats::{bootstrap_mean, wilson, Interval};
use crate::evaluation::task_set::TaskSet;
use crate::rng::{Purpose, Stream};
use crate::rollout::config::{PlayConfig, RolloutConfig};
use crate::rollout::engine::Episode;
use crate::rollout::trajectory::Trajectory;
use crate::run::episodes::EpisodeRef;
use crate::run::progress::Progress;
use crate::run::record::Record;
use crate::run::recorder::Recorder;
use crate::settings::{Count, NonNegative};
use crate::train::learn::agent::Agent;
use crate::{Error, Result};

/// Outcome of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// Share of solved tasks with its Wilson 95 % interval.
    pub success: Interval,
    /// Mean score with its bootstrap 95 % interval, points.
    pub score: Interval,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Interval { mean, low, high, n } = self.success;
        write!(f, "success {mean:.3} [{low:.3}, {high:.3}]  ")?;
        let Interval { mean, low, high, .. } = self.score;
        write!(f, "score {mean:.1} [{low:.1}, {high:.1}]  on {n} episodes")
    }
}

/// Settings of a run's evaluations (`evaluation` in its configuration).
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Training steps between evaluations; 0: only before and after training.
    pub every: u64,
    /// Episodes per task.
    pub episodes: Count,
    /// Sampling temperature; 0 is greedy.
    pub temperature: NonNegative,
    /// In addition, evaluate each set greedily, one episode per task, under its name plus
    /// [`GREEDY`].
    pub greedy: bool,
}

/// Suffix of an evaluation set's name for the additional evaluation at temperature 0.
pub const GREEDY: &str = "-greedy";

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            every: 30,
            episodes: Count::literal(3),
            temperature: NonNegative::literal(1.0),
            greedy: false,
        }
    }
}

impl EvaluationConfig {
    /// Checks that greedy evaluation differs from the sampled one.
    ///
    /// # Errors
    /// [`Error::Setting`] if both have temperature 0.
    pub fn check(&self) -> Result<()> {
        if self.greedy && self.temperature.get() == 0.0 {
            let reason = "evaluation.temperature = 0 is greedy already";
            return Err(Error::setting("evaluation.greedy", true, reason));
        }
        Ok(())
    }
}

/// Parameters of one evaluation.
#[derive(Debug, Clone, Copy)]
pub struct Evaluation<'a> {
    /// The tasks.
    pub tasks: &'a TaskSet,
    /// Episodes per task.
    pub episodes: u32,
    /// Limits of an episode.
    pub limits: PlayConfig,
    /// The run's seed.
    pub seed: u64,
    /// Number of training steps before it.
    pub step: u64,
}

/// Plays the tasks and records the outcome (phase `eval`) and all episodes under the set's name.
///
/// # Errors
/// The policy failed, no episode could be played, or a record cannot be written.
pub fn evaluate(
    agent: &Agent,
    environments: &mut [Box<dyn Environment>],
    evaluation: &Evaluation,
    recorder: &mut Recorder,
) -> Result<Outcome> {
    let Evaluation { tasks, episodes, limits, seed, step } = *evaluation;
    let episodes = evaluation_episodes(tasks, seed, episodes);
    let mut progress = Progress::new(format!("evaluation {}", tasks.name), episodes.len());
    let played =
        agent.play(environments, &episodes, &limits, &mut |done| progress.set(done, "episodes"))?;
    let mut record = Record::new("eval", step).with("temperature", limits.temperature);
    let outcome = evaluation_metrics(&mut record, tasks, &played.trajectories, seed);
    recorder.record(&record)?;
    for episode in &played.trajectories {
        let line =
            EpisodeRef { phase: "eval", step, panel: Some(&tasks.name), used: None, episode };
        recorder.episode(&line)?;
    }
    progress.finish(&outcome.to_string());
    Ok(outcome)
}

/// Evaluates every set at `config.temperature` and, if `config.greedy` is set, greedily in
/// addition.
///
/// Returns the outcomes at `config.temperature`, in the order of the sets.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_all(
    agent: &Agent,
    environments: &mut [Box<dyn Environment>],
    sets: &[&TaskSet],
    (config, rollout): (&EvaluationConfig, &RolloutConfig),
    (seed, step): (u64, u64),
    recorder: &mut Recorder,
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(sets.len());
    for &tasks in sets {
        let limits = rollout.play(config.temperature.get());
        let evaluation =
            Evaluation { tasks, episodes: config.episodes.get() as u32, limits, seed, step };
        outcomes.push(evaluate(agent, environments, &evaluation, recorder)?);
        if config.greedy {
            let name = format!("{}{GREEDY}", tasks.name);
            let tasks = &TaskSet { name, tasks: tasks.tasks.clone() };
            let limits = rollout.play(0.0);
            let evaluation = Evaluation { tasks, episodes: 1, limits, seed, step };
            evaluate(agent, environments, &evaluation, recorder)?;
        }
    }
    Ok(outcomes)
}

/// `repeats` episodes of each task of an evaluation.
///
/// The random streams depend only on the seed, the task's index and the repeat, so all evaluations
/// of a run use the same ones.
pub fn evaluation_episodes(tasks: &TaskSet, seed: u64, repeats: u32) -> Vec<Episode> {
    let one = |(i, member): (usize, u32)| Episode {
        task: tasks.tasks[i].clone(),
        group: i as u32,
        member,
        stream: Stream::new(seed, Purpose::Evaluation, 0, i as u32, member),
    };
    (0..tasks.tasks.len()).flat_map(|i| (0..repeats).map(move |m| (i, m))).map(one).collect()
}

/// Adds the outcome of an evaluation to `record`: success rate with its Wilson 95 % interval, mean
/// score with its bootstrap 95 % interval (points), mean turns and valid-action rate. For each task
/// family it adds `n/FAMILY`, `success/FAMILY` and `score/FAMILY` with their intervals
/// (`success_low/FAMILY`, …).
pub fn evaluation_metrics(
    record: &mut Record,
    tasks: &TaskSet,
    trajectories: &[Trajectory],
    seed: u64,
) -> Outcome {
    let turns: usize = trajectories.iter().map(|t| t.turns.len()).sum();
    let valid = trajectories.iter().flat_map(|t| &t.turns).filter(|t| t.valid).count();
    record.set("panel", tasks.name.as_str());
    record.set("turns", turns as f64 / trajectories.len() as f64);
    record.set("valid_actions", valid as f64 / turns as f64);
    let mut families: BTreeMap<&str, Vec<&Trajectory>> = BTreeMap::new();
    for t in trajectories {
        families.entry(&t.task.name).or_default().push(t);
    }
    for (name, family) in families {
        set_outcome(record, &format!("/{name}"), &family, seed);
    }
    set_outcome(record, "", &trajectories.iter().collect::<Vec<_>>(), seed)
}

/// Adds number, success and score of episodes with their intervals under keys that end in `suffix`.
fn set_outcome(
    record: &mut Record,
    suffix: &str,
    trajectories: &[&Trajectory],
    seed: u64,
) -> Outcome {
    let solved = trajectories.iter().filter(|t| t.success).count();
    let success = wilson(solved, trajectories.len());
    let scores: Vec<f64> = trajectories.iter().map(|t| t.score()).collect();
    let score = bootstrap_mean(&scores, seed);
    record.set(format!("n{suffix}"), trajectories.len());
    for (key, interval) in [("success", success), ("score", score)] {
        record.set(format!("{key}{suffix}"), interval.mean);
        record.set(format!("{key}_low{suffix}"), interval.low);
        record.set(format!("{key}_high{suffix}"), interval.high);
    }
    Outcome { success, score }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Task;
    use crate::rollout::trajectory::Turn;

    fn episode(name: &str, success: bool) -> Trajectory {
        let score = f64::from(u8::from(success)) * 100.0;
        let task = Task { name: name.into(), variation: 0 };
        let turns = vec![Turn { score, valid: success, ..Turn::default() }];
        Trajectory { task, success, ..Trajectory::of_turns(turns) }
    }

    /// 3 of 4 and 0 of 2; the expected values are Wilson's closed form, computed in Python.
    #[test]
    fn each_family_has_its_own_mean_and_interval() {
        let tasks = TaskSet::new("p", vec![Task { name: "a".into(), variation: 0 }]).unwrap();
        let played =
            [("a", true), ("b", false), ("a", true), ("a", false), ("b", false), ("a", true)];
        let played: Vec<_> = played.iter().map(|(name, success)| episode(name, *success)).collect();
        let mut record = Record::new("eval", 0);
        let outcome = evaluation_metrics(&mut record, &tasks, &played, 0);
        let number = |key| record.number(key).unwrap();
        assert_eq!((number("n"), number("n/a"), number("n/b")), (6.0, 4.0, 2.0));
        assert_eq!((number("success"), number("success/a"), number("score/a")), (0.5, 0.75, 75.0));
        for (key, value) in [
            ("success_low/a", 0.300642),
            ("success_high/a", 0.954413),
            ("success_low/b", 0.0),
            ("success_high/b", 0.657620),
            ("success_low", 0.187616),
        ] {
            assert!((number(key) - value).abs() < 1e-6, "{key}: {}", number(key));
        }
        assert_eq!((number("score_low/a"), number("score_high/a")), (25.0, 100.0));
        assert_eq!(outcome.success.mean, 0.5);
        assert_eq!((number("valid_actions"), number("turns")), (0.5, 1.0));
    }

    #[test]
    fn greedy_needs_a_temperature_above_0() {
        let both = EvaluationConfig { greedy: true, ..EvaluationConfig::default() };
        both.check().unwrap();
        let temperature = NonNegative::literal(0.0);
        let error = EvaluationConfig { temperature, ..both }.check().unwrap_err().to_string();
        assert!(error.contains("evaluation.greedy"), "{error}");
    }
}
