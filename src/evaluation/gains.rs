//! What evaluations found, task by task, and what was gained from the first to the last.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::env::Task;
use crate::evaluation::stats::{paired_gain, Interval, PairedGain};
use crate::run::record::{bad_line, read_metrics, whole_lines, METRICS_FILE};
use crate::run::recorder::EPISODES_FILE;
use crate::Result;

/// One episode's end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpisodeOutcome {
    /// The task was solved.
    pub success: bool,
    /// The final score, in the environment's points and at least 0.
    pub score: f64,
}

/// One evaluation of a panel, by task and member.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationOutcomes {
    /// The panel.
    pub panel: String,
    /// Training steps before it.
    pub step: u64,
    /// The episodes of each task, by member.
    pub tasks: BTreeMap<Task, BTreeMap<u32, EpisodeOutcome>>,
}

impl EvaluationOutcomes {
    /// For each task whether its episodes were solved, 1 or 0.
    pub fn successes(&self) -> BTreeMap<Task, Vec<f64>> {
        self.values(|outcome| f64::from(u8::from(outcome.success)))
    }

    /// For each task its episodes' final scores.
    pub fn scores(&self) -> BTreeMap<Task, Vec<f64>> {
        self.values(|outcome| outcome.score)
    }

    fn values(&self, value: impl Fn(&EpisodeOutcome) -> f64) -> BTreeMap<Task, Vec<f64>> {
        let of = |members: &BTreeMap<u32, EpisodeOutcome>| members.values().map(&value).collect();
        self.tasks.iter().map(|(task, members)| (task.clone(), of(members))).collect()
    }
}

/// The parts of a line of `episodes.jsonl` that say how an episode ended.
#[derive(Deserialize)]
pub(crate) struct Line {
    #[serde(default)]
    pub(crate) panel: Option<String>,
    pub(crate) step: u64,
    pub(crate) episode: Ended,
}

#[derive(Deserialize)]
pub(crate) struct Ended {
    pub(crate) task: Task,
    #[serde(default)]
    member: u32,
    pub(crate) success: bool,
    turns: Vec<Score>,
}

#[derive(Deserialize)]
struct Score {
    score: f64,
}

impl Ended {
    fn outcome(&self) -> EpisodeOutcome {
        let score = self.turns.last().map_or(0.0, |turn| turn.score.max(0.0));
        EpisodeOutcome { success: self.success, score }
    }
}

/// Calls `each` with every line of a run's `episodes.jsonl` as text and how it ended, its panel filled in. A run folder
/// without the file has no episodes.
pub(crate) fn ended_episodes(run_dir: &Path, mut each: impl FnMut(&str, &Line)) -> Result<()> {
    let path = run_dir.join(EPISODES_FILE);
    if !path.is_file() {
        return Ok(());
    }
    let mut panels = Panels::of(run_dir)?;
    whole_lines(&path, |number, text| {
        let mut line: Line = serde_json::from_str(text).map_err(|e| bad_line(&path, number, &e))?;
        line.panel = line.panel.or_else(|| panels.next(line.step));
        each(text, &line);
        Ok(())
    })
}

/// Whose the lines of older runs are, which do not name their panel: they follow the order of the evaluations in
/// `metrics.jsonl`.
pub(crate) struct Panels(Vec<(u64, String, u64)>);

impl Panels {
    pub(crate) fn of(run_dir: &Path) -> Result<Self> {
        if !run_dir.join(METRICS_FILE).is_file() {
            return Ok(Self(Vec::new()));
        }
        let lines = read_metrics(run_dir)?;
        let evaluations =
            lines.iter().filter(|line| line.get("phase").is_some_and(|p| p == "eval"));
        let of = |line: &serde_json::Map<String, serde_json::Value>| {
            let (step, n) = (line.get("step")?.as_u64()?, line.get("n")?.as_u64()?);
            Some((step, line.get("panel")?.as_str()?.to_owned(), n))
        };
        Ok(Self(evaluations.filter_map(of).collect()))
    }

    /// The panel of the next line without one, of an evaluation after `step` steps.
    pub(crate) fn next(&mut self, step: u64) -> Option<String> {
        let (_, panel, left) = self.0.iter_mut().find(|(at, _, left)| *at == step && *left > 0)?;
        *left -= 1;
        Some(panel.clone())
    }
}

/// Every evaluation of a run, in the order they were made; empty without an `episodes.jsonl`.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io), [`Error::File`](crate::Error::File) naming the line and what is wrong with it.
pub fn read_outcomes(run_dir: impl AsRef<Path>) -> Result<Vec<EvaluationOutcomes>> {
    let mut found: Vec<EvaluationOutcomes> = Vec::new();
    ended_episodes(run_dir.as_ref(), |_, line| add(&mut found, line))?;
    Ok(found)
}

/// Adds an episode to the evaluation it belongs to.
pub(crate) fn add(found: &mut Vec<EvaluationOutcomes>, line: &Line) {
    let panel = line.panel.as_deref().unwrap_or("evaluation");
    let place = found.iter().rposition(|e| (e.panel.as_str(), e.step) == (panel, line.step));
    let place = place.unwrap_or_else(|| {
        found.push(EvaluationOutcomes {
            panel: panel.to_owned(),
            step: line.step,
            tasks: BTreeMap::new(),
        });
        found.len() - 1
    });
    let members = found[place].tasks.entry(line.episode.task.clone()).or_default();
    members.insert(line.episode.member, line.episode.outcome());
}

/// The gain on one panel, of one run or of several pooled.
#[derive(Debug, Clone, PartialEq)]
pub struct PanelGain {
    /// The run; `None`: all runs pooled, paired by task within each run.
    pub run: Option<String>,
    /// The panel.
    pub panel: String,
    /// Training steps before the first and before the last evaluation; those of the pooled runs' first.
    pub steps: (u64, u64),
    /// In the share of episodes solved.
    pub success: PairedGain,
    /// In the environment's points.
    pub score: PairedGain,
}

/// Outcomes by run and task: what several runs are paired by.
type Values = BTreeMap<(usize, Task), Vec<f64>>;

/// Several runs' outcomes on one panel.
#[derive(Default)]
struct Pool {
    steps: (u64, u64),
    runs: usize,
    values: [Values; 4],
}

/// The paired gains from each panel's first to its last evaluation, for each of the `runs` (a name and its
/// evaluations), and for several runs also over all of them, pooled by panel. Panels that were evaluated once are left
/// out.
pub fn panel_gains(runs: &[(String, Vec<EvaluationOutcomes>)]) -> Vec<PanelGain> {
    let mut gains = Vec::new();
    let mut pooled: BTreeMap<&str, Pool> = BTreeMap::new();
    for (index, (name, evaluations)) in runs.iter().enumerate() {
        for (first, last) in first_and_last(evaluations) {
            let steps = (first.step, last.step);
            let values = [first.successes(), last.successes(), first.scores(), last.scores()];
            let values = values
                .map(|v| v.into_iter().map(|(task, xs)| ((index, task), xs)).collect::<Values>());
            gains.push(gain(Some(name.clone()), &first.panel, steps, &values));
            let pool =
                pooled.entry(&first.panel).or_insert_with(|| Pool { steps, ..Pool::default() });
            pool.runs += 1;
            pool.values.iter_mut().zip(values).for_each(|(all, some)| all.extend(some));
        }
    }
    let several = pooled.into_iter().filter(|(_, pool)| pool.runs > 1);
    gains.extend(several.map(|(panel, pool)| gain(None, panel, pool.steps, &pool.values)));
    gains
}

fn gain(run: Option<String>, panel: &str, steps: (u64, u64), values: &[Values; 4]) -> PanelGain {
    let [before, after, score_before, score_after] = values;
    let (success, score) =
        (paired_gain(before, after, 0), paired_gain(score_before, score_after, 0));
    PanelGain { run, panel: panel.to_owned(), steps, success, score }
}

/// The first and the last evaluation of each panel that has two, in order of first appearance.
fn first_and_last(
    evaluations: &[EvaluationOutcomes],
) -> Vec<(&EvaluationOutcomes, &EvaluationOutcomes)> {
    let mut panels: Vec<(&EvaluationOutcomes, &EvaluationOutcomes)> = Vec::new();
    for evaluation in evaluations {
        match panels.iter_mut().find(|(first, _)| first.panel == evaluation.panel) {
            Some((_, last)) => *last = evaluation,
            None => panels.push((evaluation, evaluation)),
        }
    }
    panels.retain(|(first, last)| first.step != last.step);
    panels
}

/// Gains as a table of text: run, panel, steps, number of tasks, and for success and score the mean before, the mean
/// after and the gain with its 95 % interval.
pub fn gains_table(gains: &[PanelGain]) -> String {
    let head =
        ["run", "panel", "steps", "tasks", "success", "gain", "score", "gain"].map(str::to_owned);
    let rows = std::iter::once(head).chain(gains.iter().map(|row| {
        let of = |g: &PairedGain| {
            // Shares and small points need their digits, points of a hundred do not have them.
            let digits = if g.before.max(g.after) < 10.0 { 3 } else { 1 };
            let Interval { mean, low, high, .. } = g.gain;
            let means = format!("{:.digits$} → {:.digits$}", g.before, g.after);
            [means, format!("{mean:+.digits$} [{low:+.digits$}, {high:+.digits$}]")]
        };
        let ([success, gained], [score, points]) = (of(&row.success), of(&row.score));
        let (run, steps) = (
            row.run.as_deref().unwrap_or("all runs"),
            format!("{} → {}", row.steps.0, row.steps.1),
        );
        let tasks = row.success.gain.n.to_string();
        [run.to_owned(), row.panel.clone(), steps, tasks, success, gained, score, points]
    }));
    let rows: Vec<[String; 8]> = rows.collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let line = |row: &[String; 8]| {
        let cells = row.iter().enumerate().map(|(i, cell)| format!("{cell:<0$}", width(i)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::record::Record;
    use crate::run::recorder::Recorder;
    use serde_json::{json, Value};

    fn episode(task: u32, member: u32, success: bool, scores: &[f64]) -> Value {
        let turns: Vec<Value> = scores.iter().map(|score| json!({ "score": score })).collect();
        json!({ "task": { "name": "t", "variation": task }, "member": member, "success": success, "turns": turns })
    }

    /// Two panels evaluated twice; `named`: as the lines are written now.
    fn run(dir: &Path, named: bool, after: [bool; 3]) {
        let mut recorder = Recorder::create(dir).unwrap();
        let mut evaluate = |panel: &str, step: u64, episodes: Vec<Value>| {
            let record = Record::new("eval", step).with("panel", panel).with("n", episodes.len());
            recorder.record(&record).unwrap();
            for episode in episodes {
                let mut line = json!({ "step": step, "episode": episode });
                if named {
                    line["panel"] = panel.into();
                }
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
    fn examinations_are_read_by_panel_with_and_without_names() {
        for named in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            run(dir.path(), named, [true, true, true]);
            let found = read_outcomes(dir.path()).unwrap();
            let of: Vec<_> =
                found.iter().map(|e| (e.panel.as_str(), e.step, e.tasks.len())).collect();
            assert_eq!(
                of,
                [("seen", 0, 3), ("unseen", 0, 1), ("seen", 7, 3), ("unseen", 7, 1)],
                "{named}"
            );
            let task = Task { name: "t".into(), variation: 0 };
            assert_eq!(found[1].successes()[&task], [0.0, 1.0]);
            assert_eq!(found[1].scores()[&task], [30.0, 100.0]);
            assert_eq!(found[0].scores()[&task], [0.0], "a failure's −100 counts as nothing");
        }
    }

    #[test]
    fn gains_are_first_to_last_by_panel_and_pooled_within_runs() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        run(dirs[0].path(), true, [true, true, true]);
        run(dirs[1].path(), true, [false, false, false]);
        let runs = [0, 1].map(|i| (format!("run{i}"), read_outcomes(dirs[i].path()).unwrap()));
        let gains = panel_gains(&runs);
        let of =
            |g: &PanelGain| (g.run.clone(), g.panel.clone(), g.success.gain.n, g.success.gain.mean);
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
        assert_eq!(panel_gains(&runs[..1]).len(), 2, "one run is not pooled");
        let table = gains_table(&gains);
        let last: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(
            last.join(" "),
            "all runs unseen 0 → 7 2 0.500 → 1.000 +0.500 [+0.500, +0.500] 65.0 → 100.0 +35.0 [+35.0, +35.0]"
        );
    }

    #[test]
    fn a_panel_examined_once_gains_nothing_and_a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path()).unwrap();
        assert_eq!(read_outcomes(dir.path()).unwrap(), []);
        recorder
            .episode(&json!({ "step": 0, "panel": "p", "episode": episode(0, 0, true, &[1.0]) }))
            .unwrap();
        let outcomes = read_outcomes(dir.path()).unwrap();
        assert_eq!(panel_gains(&[("r".into(), outcomes)]), []);
        recorder
            .episode(&json!({ "step": 0, "episode": { "success": true, "turns": [] } }))
            .unwrap();
        let error = read_outcomes(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("episodes.jsonl") && error.contains("line 2") && error.contains("task"),
            "{error}"
        );
    }
}
