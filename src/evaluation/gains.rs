//! Paired gains between a run's first and last evaluation.

use std::collections::BTreeMap;

use crate::env::Task;
use crate::evaluation::outcomes::EvaluationOutcomes;
use crate::evaluation::stats::{paired_gain, Interval, PairedGain};

/// The gain on one task set, of one run or of several runs pooled.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSetGain {
    /// The run; `None` for all runs pooled, paired by task within each run.
    pub run: Option<String>,
    /// The name of the task set.
    pub task_set: String,
    /// Training steps before the first and before the last evaluation (of the first pooled run).
    pub steps: (u64, u64),
    /// Gain in the share of solved episodes.
    pub success: PairedGain,
    /// Gain in the environment's points.
    pub score: PairedGain,
}

/// Outcomes by run and task, the key of the pairing.
type Values = BTreeMap<(usize, Task), Vec<f64>>;

/// Outcomes of several runs on one task set: successes before and after, scores before and after.
#[derive(Default)]
struct Pool {
    steps: (u64, u64),
    runs: usize,
    values: [Values; 4],
}

/// Computes the paired gains from each task set's first to its last evaluation.
///
/// `runs` holds each run's name and evaluations. With several runs, the gains pooled over all runs
/// follow, by task set. Task sets that were evaluated once are left out.
pub fn task_set_gains(runs: &[(String, Vec<EvaluationOutcomes>)]) -> Vec<TaskSetGain> {
    let mut gains = Vec::new();
    let mut pooled: BTreeMap<&str, Pool> = BTreeMap::new();
    for (index, (name, evaluations)) in runs.iter().enumerate() {
        for (first, last) in first_and_last(evaluations) {
            let steps = (first.step, last.step);
            let values = [first.successes(), last.successes(), first.scores(), last.scores()];
            let values = values
                .map(|v| v.into_iter().map(|(task, xs)| ((index, task), xs)).collect::<Values>());
            gains.push(gain(Some(name.clone()), &first.task_set, steps, &values));
            let pool =
                pooled.entry(&first.task_set).or_insert_with(|| Pool { steps, ..Pool::default() });
            pool.runs += 1;
            for (all, some) in pool.values.iter_mut().zip(values) {
                all.extend(some);
            }
        }
    }
    let several = pooled.into_iter().filter(|(_, pool)| pool.runs > 1);
    gains.extend(several.map(|(name, pool)| gain(None, name, pool.steps, &pool.values)));
    gains
}

fn gain(
    run: Option<String>,
    task_set: &str,
    steps: (u64, u64),
    values: &[Values; 4],
) -> TaskSetGain {
    let [before, after, score_before, score_after] = values;
    let success = paired_gain(before, after, 0);
    let score = paired_gain(score_before, score_after, 0);
    TaskSetGain { run, task_set: task_set.to_owned(), steps, success, score }
}

/// The first and the last evaluation of each task set that has two, in order of first appearance.
fn first_and_last(
    evaluations: &[EvaluationOutcomes],
) -> Vec<(&EvaluationOutcomes, &EvaluationOutcomes)> {
    let mut sets: Vec<(&EvaluationOutcomes, &EvaluationOutcomes)> = Vec::new();
    for evaluation in evaluations {
        match sets.iter_mut().find(|(first, _)| first.task_set == evaluation.task_set) {
            Some((_, last)) => *last = evaluation,
            None => sets.push((evaluation, evaluation)),
        }
    }
    sets.retain(|(first, last)| first.step != last.step);
    sets
}

/// Formats gains as a table of text.
///
/// The columns are run, task set, steps, number of tasks, and for success and score the mean before
/// and after and the gain with its 95 % interval.
pub fn gains_table(gains: &[TaskSetGain]) -> String {
    let head = ["run", "task set", "steps", "tasks", "success", "gain", "score", "gain"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(gains.iter().map(row));
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let line = |row: &[String; 8]| {
        let cells = row.iter().enumerate().map(|(i, cell)| format!("{cell:<0$}", width(i)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn row(gain: &TaskSetGain) -> [String; 8] {
    let run = gain.run.clone().unwrap_or_else(|| "all runs".to_owned());
    let steps = format!("{} → {}", gain.steps.0, gain.steps.1);
    let tasks = gain.success.gain.n.to_string();
    let [success, gained] = cells(&gain.success);
    let [score, points] = cells(&gain.score);
    [run, gain.task_set.clone(), steps, tasks, success, gained, score, points]
}

/// Means and gain with three digits for shares and small scores, one digit for larger scores.
fn cells(g: &PairedGain) -> [String; 2] {
    let digits = if g.before.max(g.after) < 10.0 { 3 } else { 1 };
    let Interval { mean, low, high, .. } = g.gain;
    let means = format!("{:.digits$} → {:.digits$}", g.before, g.after);
    [means, format!("{mean:+.digits$} [{low:+.digits$}, {high:+.digits$}]")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::outcomes::read_outcomes;
    use crate::run::recorder::Recorder;
    use serde_json::{json, Value};
    use std::path::Path;

    fn episode(task: u32, member: u32, success: bool, scores: &[f64]) -> Value {
        let turns: Vec<Value> = scores.iter().map(|score| json!({ "score": score })).collect();
        let task = json!({ "name": "t", "variation": task });
        json!({ "task": task, "member": member, "success": success, "turns": turns })
    }

    /// Two task sets evaluated twice.
    fn run(dir: &Path, after: [bool; 3]) {
        let mut recorder = Recorder::create(dir).unwrap();
        let mut evaluate = |name: &str, step: u64, episodes: Vec<Value>| {
            for episode in episodes {
                let line = json!({ "step": step, "panel": name, "episode": episode });
                recorder.episode(&line).unwrap();
            }
        };
        let all = |solved: [bool; 3]| {
            (0..3).map(|i| episode(i, 0, solved[i as usize], &[5.0, -100.0])).collect()
        };
        evaluate("seen", 0, all([false, false, true]));
        evaluate(
            "unseen",
            0,
            vec![episode(0, 0, false, &[30.0]), episode(0, 1, true, &[20.0, 100.0])],
        );
        evaluate("seen", 7, all(after));
        evaluate("unseen", 7, vec![episode(0, 0, true, &[100.0]), episode(0, 1, true, &[100.0])]);
    }

    #[test]
    fn evaluations_are_read_by_task_set() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), [true, true, true]);
        let found = read_outcomes(dir.path()).unwrap();
        let of: Vec<_> =
            found.iter().map(|e| (e.task_set.as_str(), e.step, e.tasks.len())).collect();
        assert_eq!(of, [("seen", 0, 3), ("unseen", 0, 1), ("seen", 7, 3), ("unseen", 7, 1)]);
        let task = Task { name: "t".into(), variation: 0 };
        assert_eq!(found[1].successes()[&task], [0.0, 1.0]);
        assert_eq!(found[1].scores()[&task], [30.0, 100.0]);
        assert_eq!(found[0].scores()[&task], [0.0], "a negative final score counts as 0");
    }

    #[test]
    fn gains_are_first_to_last_by_task_set_and_pooled_within_runs() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        run(dirs[0].path(), [true, true, true]);
        run(dirs[1].path(), [false, false, false]);
        let runs = [0, 1].map(|i| (format!("run{i}"), read_outcomes(dirs[i].path()).unwrap()));
        let gains = task_set_gains(&runs);
        let of = |g: &TaskSetGain| {
            (g.run.clone(), g.task_set.clone(), g.success.gain.n, g.success.gain.mean)
        };
        let some = |run: &str| Some(run.to_owned());
        let expected = [
            (some("run0"), "seen".to_owned(), 3, 2.0 / 3.0),
            (some("run0"), "unseen".to_owned(), 1, 0.5),
            (some("run1"), "seen".to_owned(), 3, -1.0 / 3.0),
            (some("run1"), "unseen".to_owned(), 1, 0.5),
            (None, "seen".to_owned(), 6, 1.0 / 6.0),
            (None, "unseen".to_owned(), 2, 0.5),
        ];
        for (gain, expected) in gains.iter().map(of).zip(expected) {
            assert_eq!((&gain.0, &gain.1, gain.2), (&expected.0, &expected.1, expected.2));
            assert!((gain.3 - expected.3).abs() < 1e-12, "{gain:?}");
        }
        assert_eq!(task_set_gains(&runs[..1]).len(), 2, "one run is not pooled");
        let table = gains_table(&gains);
        let last: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(
            last.join(" "),
            "all runs unseen 0 → 7 2 0.500 → 1.000 +0.500 [+0.500, +0.500] \
             65.0 → 100.0 +35.0 [+35.0, +35.0]"
        );
    }

    #[test]
    fn a_task_set_evaluated_once_has_no_gain_and_a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path()).unwrap();
        assert_eq!(read_outcomes(dir.path()).unwrap(), []);
        recorder
            .episode(&json!({ "step": 0, "panel": "p", "episode": episode(0, 0, true, &[1.0]) }))
            .unwrap();
        let outcomes = read_outcomes(dir.path()).unwrap();
        assert_eq!(task_set_gains(&[("r".into(), outcomes)]), []);
        recorder
            .episode(&json!({ "step": 0, "panel": "p", "episode": { "success": true } }))
            .unwrap();
        let error = read_outcomes(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("episodes.jsonl") && error.contains("line 2") && error.contains("task"),
            "{error}"
        );
    }
}
