//! Examining a policy on a fixed panel.

use std::collections::BTreeMap;

use super::{bootstrap_mean, wilson, Agent, Interval, Panel, Progress, Record, Recorder};
use crate::env::Environment;
use crate::rng::{Purpose, Stream};
use crate::rollout::{Episode, PlayConfig, Trajectory};
use crate::{Error, Result};

/// What an examination found.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// Share of solved tasks with its Wilson 95 % interval.
    pub success: Interval,
    /// Mean score with its bootstrap 95 % interval, points.
    pub score: Interval,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { success: a, score: b } = self;
        let (mean, low, high, n) = (a.mean, a.low, a.high, a.n);
        write!(f, "success {mean:.3} [{low:.3}, {high:.3}]  ")?;
        write!(f, "score {:.1} [{:.1}, {:.1}]  on {n} episodes", b.mean, b.low, b.high)
    }
}

/// When and how a run is examined.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Training steps between examinations; 0: only before and after training.
    pub every: u64,
    /// Episodes of each task of the panel.
    pub episodes: u32,
    /// Sampling temperature; 0 takes the most probable token.
    pub temperature: f64,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self { every: 30, episodes: 3, temperature: 1.0 }
    }
}

impl EvaluationConfig {
    /// Refuses an examination of nothing and a temperature that is none.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the field.
    pub fn validate(&self) -> Result<()> {
        if self.episodes == 0 {
            return Err(Error::setting("evaluation.episodes", 0, "must be at least 1"));
        }
        match self.temperature >= 0.0 && self.temperature.is_finite() {
            true => Ok(()),
            false => Err(Error::setting(
                "evaluation.temperature",
                self.temperature,
                "must be finite and at least 0",
            )),
        }
    }
}

/// One examination.
#[derive(Debug, Clone, Copy)]
pub struct Examination<'a> {
    /// The tasks.
    pub panel: &'a Panel,
    /// Episodes of each.
    pub episodes: u32,
    /// Limits of an episode.
    pub limits: PlayConfig,
    /// The run's seed.
    pub seed: u64,
    /// Training steps before it.
    pub step: u64,
}

/// Plays the panel, records phase `eval` and all the episodes.
///
/// # Errors
/// The policy failed, no episode could be played, or a record cannot be written.
pub fn examine(
    agent: &Agent,
    environments: &mut [Box<dyn Environment>],
    examination: &Examination,
    recorder: &mut Recorder,
) -> Result<Outcome> {
    let Examination { panel, episodes, limits, seed, step } = *examination;
    let episodes = panel_episodes(panel, seed, episodes);
    let mut progress = Progress::new("examination", episodes.len());
    let played = agent.play(environments, &episodes, &limits, &mut |done| progress.set(done, "episodes"))?;
    let mut record = Record::new("eval", step);
    let outcome = panel_metrics(&mut record, panel, &played.trajectories, seed);
    recorder.record(&record)?;
    for trajectory in &played.trajectories {
        recorder.episode(&serde_json::json!({ "step": step, "episode": trajectory }))?;
    }
    progress.finish(&outcome.to_string());
    Ok(outcome)
}

/// One episode for each task of the panel, `repeats` times over.
///
/// The draws depend on the seed, the task's place in the panel and the repeat only, so that every
/// examination of a run uses the same ones.
pub fn panel_episodes(panel: &Panel, seed: u64, repeats: u32) -> Vec<Episode> {
    let one = |(i, member): (usize, u32)| Episode {
        task: panel.tasks[i].clone(),
        group: i as u32,
        member,
        stream: Stream::new(seed, Purpose::Evaluation, 0, i as u32, member),
    };
    (0..panel.tasks.len()).flat_map(|i| (0..repeats).map(move |m| (i, m))).map(one).collect()
}

/// Adds the outcome on a panel to `record`: success rate with its Wilson 95 % interval, mean score with its
/// bootstrap 95 % interval (points), mean turns, valid-action rate, and both means for each task family.
pub fn panel_metrics(record: &mut Record, panel: &Panel, trajectories: &[Trajectory], seed: u64) -> Outcome {
    let solved = trajectories.iter().filter(|t| t.success).count();
    let success = wilson(solved, trajectories.len());
    let scores: Vec<f64> = trajectories.iter().map(Trajectory::score).collect();
    let score = bootstrap_mean(&scores, seed);
    let turns: usize = trajectories.iter().map(|t| t.turns.len()).sum();
    let valid = trajectories.iter().flat_map(|t| &t.turns).filter(|t| t.valid).count();
    record.set("panel", panel.name.as_str());
    record.set("n", trajectories.len());
    for (key, interval) in [("success", success), ("score", score)] {
        record.set(key, interval.mean);
        record.set(format!("{key}_low"), interval.low);
        record.set(format!("{key}_high"), interval.high);
    }
    record.set("turns", turns as f64 / trajectories.len() as f64);
    record.set("valid_actions", valid as f64 / turns as f64);
    let mut families: BTreeMap<&str, Vec<&Trajectory>> = BTreeMap::new();
    for t in trajectories {
        families.entry(&t.task.name).or_default().push(t);
    }
    for (name, family) in families {
        let mean =
            |f: &dyn Fn(&Trajectory) -> f64| family.iter().map(|t| f(t)).sum::<f64>() / family.len() as f64;
        record.set(format!("success/{name}"), mean(&|t| f64::from(u8::from(t.success))));
        record.set(format!("score/{name}"), mean(&Trajectory::score));
    }
    Outcome { success, score }
}
