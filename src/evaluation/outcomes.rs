//! Outcomes of a run's evaluations, read from `episodes.jsonl` task by task.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::env::Task;
use crate::run::lines::{bad_line, whole_lines};
use crate::run::recorder::EPISODES_FILE;
use crate::Result;

/// The end of one episode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpisodeOutcome {
    /// The task was solved.
    pub success: bool,
    /// The final score, in the environment's points and at least 0.
    pub score: f64,
}

/// One evaluation of a task set, by task and group member.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationOutcomes {
    /// The name of the task set.
    pub task_set: String,
    /// Training steps before the evaluation.
    pub step: u64,
    /// The episodes of each task, by member.
    pub tasks: BTreeMap<Task, BTreeMap<u32, EpisodeOutcome>>,
}

impl EvaluationOutcomes {
    /// The success of each task's episodes: 1 if solved, else 0.
    pub fn successes(&self) -> BTreeMap<Task, Vec<f64>> {
        self.values(|outcome| f64::from(u8::from(outcome.success)))
    }

    /// The final scores of each task's episodes.
    pub fn scores(&self) -> BTreeMap<Task, Vec<f64>> {
        self.values(|outcome| outcome.score)
    }

    fn values(&self, value: impl Fn(&EpisodeOutcome) -> f64) -> BTreeMap<Task, Vec<f64>> {
        let of = |members: &BTreeMap<u32, EpisodeOutcome>| members.values().map(&value).collect();
        self.tasks.iter().map(|(task, members)| (task.clone(), of(members))).collect()
    }
}

/// The fields of a line of `episodes.jsonl` that an outcome needs.
#[derive(Deserialize)]
pub(crate) struct OutcomeLine {
    #[serde(rename = "panel")]
    pub(crate) task_set: String,
    pub(crate) step: u64,
    pub(crate) episode: EndedEpisode,
}

#[derive(Deserialize)]
pub(crate) struct EndedEpisode {
    pub(crate) task: Task,
    member: u32,
    pub(crate) success: bool,
    turns: Vec<TurnScore>,
}

#[derive(Deserialize)]
struct TurnScore {
    score: f64,
}

impl EndedEpisode {
    fn outcome(&self) -> EpisodeOutcome {
        let score = self.turns.last().map_or(0.0, |turn| turn.score.max(0.0));
        EpisodeOutcome { success: self.success, score }
    }
}

/// Calls `each` with the text and the outcome of every line of a run's `episodes.jsonl`.
///
/// A run folder without the file has no episodes.
pub(crate) fn read_outcome_lines(
    run_dir: &Path,
    mut each: impl FnMut(&str, &OutcomeLine),
) -> Result<()> {
    let path = run_dir.join(EPISODES_FILE);
    if !path.is_file() {
        return Ok(());
    }
    whole_lines(&path, |number, text| {
        let line = serde_json::from_str(text).map_err(|e| bad_line(&path, number, &e))?;
        each(text, &line);
        Ok(())
    })
}

/// Reads every evaluation of a run, in order; the list is empty without an `episodes.jsonl`.
///
/// # Errors
/// [`Error::File`](crate::Error::File) with the line and the field that is wrong;
/// [`Error::Io`](crate::Error::Io).
pub fn read_outcomes(run_dir: impl AsRef<Path>) -> Result<Vec<EvaluationOutcomes>> {
    let mut outcomes: Vec<EvaluationOutcomes> = Vec::new();
    read_outcome_lines(run_dir.as_ref(), |_, line| add_outcome(&mut outcomes, line))?;
    Ok(outcomes)
}

/// Adds an episode to its evaluation.
pub(crate) fn add_outcome(outcomes: &mut Vec<EvaluationOutcomes>, line: &OutcomeLine) {
    let own = |e: &EvaluationOutcomes| e.task_set == line.task_set && e.step == line.step;
    let index = outcomes.iter().rposition(own).unwrap_or_else(|| {
        let task_set = line.task_set.clone();
        outcomes.push(EvaluationOutcomes { task_set, step: line.step, tasks: BTreeMap::new() });
        outcomes.len() - 1
    });
    let members = outcomes[index].tasks.entry(line.episode.task.clone()).or_default();
    members.insert(line.episode.member, line.episode.outcome());
}
