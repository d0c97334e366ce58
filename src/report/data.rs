//! The contents of a run folder, as a report needs them.
//!
//! Metrics are read by key, not by a fixed structure: a report also shows runs that lack some keys
//! or record keys of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};

use crate::env::Task;
use crate::evaluation::outcomes::{
    add_outcome, read_outcome_lines, EvaluationOutcomes, OutcomeLine,
};
use crate::run::episodes::EpisodeLine;
use crate::run::folder::{flatten, read_config, CONFIG_FILE};
use crate::run::record::read_metrics;
use crate::run::recorder::EPISODES_FILE;
use crate::{Error, Result};

/// One run folder.
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) lines: Vec<Map<String, Value>>,
    pub(crate) outcomes: Vec<EvaluationOutcomes>,
    /// Episodes to show as dialogues.
    pub(crate) samples: Vec<EpisodeLine>,
}

/// Number of solved and of unsolved episodes to show from each evaluation set's last evaluation.
const SAMPLES: usize = 3;

impl Run {
    /// Reads run folders.
    ///
    /// # Errors
    /// [`Error::Setting`] without folders, and errors of reading one of them.
    pub(crate) fn read_all<P: AsRef<Path>>(dirs: &[P]) -> Result<Vec<Self>> {
        if dirs.is_empty() {
            return Err(Error::setting("runs", "none", "name at least one run folder"));
        }
        dirs.iter().map(|dir| Self::read(dir.as_ref())).collect()
    }

    fn read(dir: &Path) -> Result<Self> {
        let settings = read_settings(&dir.join(CONFIG_FILE))?;
        let name = dir
            .file_name()
            .map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into_owned());
        let lines = read_metrics(dir)?;
        let mut outcomes = Vec::new();
        let mut texts = Texts::default();
        read_outcome_lines(dir, |text, line| {
            add_outcome(&mut outcomes, line);
            texts.offer(text, line);
        })?;
        Ok(Self { name, settings, lines, outcomes, samples: texts.samples(dir)? })
    }

    /// The lines of one phase.
    pub(crate) fn phase<'a>(
        &'a self,
        phase: &'a str,
    ) -> impl Iterator<Item = &'a Map<String, Value>> {
        self.lines
            .iter()
            .filter(move |line| line.get("phase").and_then(Value::as_str) == Some(phase))
    }

    /// (step, value) of `key` over a phase. Missing values are left out; others that are not finite
    /// stay, as gaps.
    pub(crate) fn points(&self, phase: &str, key: &str) -> Vec<(f64, f64)> {
        self.phase(phase).filter_map(|line| Some((step(line)?, number(line.get(key)?)?))).collect()
    }

    /// (step, low, high) of two keys over a phase.
    pub(crate) fn intervals(&self, phase: &str, low: &str, high: &str) -> Vec<(f64, f64, f64)> {
        let interval = |line: &Map<String, Value>| {
            Some((step(line)?, number(line.get(low)?)?, number(line.get(high)?)?))
        };
        self.phase(phase).filter_map(interval).collect()
    }

    /// (step, values by index) of a series over a phase.
    pub(crate) fn columns(&self, phase: &str, key: &str) -> Vec<(f64, Vec<f64>)> {
        let column = |line: &Map<String, Value>| {
            let values = line.get(key)?.as_array()?;
            Some((step(line)?, values.iter().map(|v| number(v).unwrap_or(f64::NAN)).collect()))
        };
        self.phase(phase).filter_map(column).collect()
    }

    /// The names of the evaluation sets in order of first appearance.
    pub(crate) fn evaluation_sets(&self) -> Vec<String> {
        let mut sets = Vec::new();
        for line in self.phase("eval") {
            let set = evaluation_set(line);
            if !sets.contains(&set) {
                sets.push(set);
            }
        }
        sets
    }

    /// The evaluations on one evaluation set.
    pub(crate) fn evaluations<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = Evaluation> + 'a {
        self.phase("eval")
            .filter(move |line| evaluation_set(line) == name)
            .map(|line| Evaluation(line.clone()))
    }

    /// (step, kind, message) of each alarm.
    pub(crate) fn alarms(&self) -> Vec<(f64, String, String)> {
        let of_line = |line: &Map<String, Value>| {
            let step = step(line).unwrap_or(0.0);
            let alarm = |(key, value): (&String, &Value)| {
                let kind = key.strip_prefix("alarm/")?.replace('_', " ");
                Some((step, kind, value.as_str()?.to_owned()))
            };
            line.iter().filter_map(alarm).collect::<Vec<_>>()
        };
        self.phase("rl").flat_map(of_line).collect()
    }

    /// Every key that has a number in a phase.
    pub(crate) fn numeric_keys(&self, phase: &str) -> BTreeSet<String> {
        let numeric = |(key, value): (&String, &Value)| number(value).map(|_| key.clone());
        self.phase(phase).flat_map(|line| line.iter().filter_map(numeric)).collect()
    }
}

/// Candidates for the samples, unparsed: for each evaluation set the step of its newest evaluation
/// and the first few solved and unsolved episodes, one per task.
#[derive(Default)]
struct Texts(BTreeMap<String, (u64, [Vec<Text>; 2])>);

/// The line of an episode and its task.
struct Text {
    task: Task,
    line: String,
}

impl Texts {
    fn offer(&mut self, text: &str, line: &OutcomeLine) {
        let (step, kept) = self.0.entry(line.task_set.clone()).or_default();
        if line.step > *step {
            *step = line.step;
            *kept = Default::default();
        }
        if line.step < *step {
            return;
        }
        let kept = &mut kept[usize::from(!line.episode.success)];
        let task = &line.episode.task;
        if kept.iter().any(|text| text.task == *task) {
            return;
        }
        if kept.len() == SAMPLES {
            // A family that is not shown yet replaces one that is shown twice.
            let shown = |kept: &[Text], task: &Task| {
                kept.iter().filter(|text| text.task.name == task.name).count()
            };
            let twice = kept.iter().rposition(|text| shown(kept, &text.task) > 1);
            match twice.filter(|_| shown(kept, task) == 0) {
                Some(place) => drop(kept.remove(place)),
                None => return,
            }
        }
        kept.push(Text { task: task.clone(), line: text.to_owned() });
    }

    fn samples(self, dir: &Path) -> Result<Vec<EpisodeLine>> {
        let mut samples = Vec::new();
        for text in self.0.values().flat_map(|(_, texts)| texts.iter().flatten()) {
            let line = serde_json::from_str(&text.line)
                .map_err(|e| Error::file(dir.join(EPISODES_FILE), "episode", e.to_string()))?;
            samples.push(line);
        }
        Ok(samples)
    }
}

/// The metrics of one evaluation.
pub(crate) struct Evaluation(Map<String, Value>);

impl Evaluation {
    pub(crate) fn step(&self) -> f64 {
        step(&self.0).unwrap_or(0.0)
    }

    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        number(self.0.get(key)?)
    }

    /// Both ends of the interval of `key`.
    pub(crate) fn interval(&self, key: &str) -> Option<(f64, f64)> {
        Some((self.number(&format!("{key}_low"))?, self.number(&format!("{key}_high"))?))
    }
}

/// The settings of a `config.toml` by dotted name; none without the file.
fn read_settings(path: &Path) -> Result<BTreeMap<String, String>> {
    let mut settings = BTreeMap::new();
    if path.exists() {
        flatten("", &toml::Value::Table(read_config(path)?), &mut |key, value| {
            settings.insert(key, value.to_string());
        });
    }
    Ok(settings)
}

fn evaluation_set(line: &Map<String, Value>) -> String {
    line.get("panel").and_then(Value::as_str).unwrap_or("evaluation").to_owned()
}

fn step(line: &Map<String, Value>) -> Option<f64> {
    line.get("step")?.as_f64()
}

/// A number as the recorder writes it, including NaN and infinities.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(s) if ["NaN", "inf", "-inf"].contains(&s.as_str()) => s.parse().ok(),
        _ => value.as_f64(),
    }
}
