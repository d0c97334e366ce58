//! Recording a run: one line a step, the same line for the same seed, and TensorBoard events beside it.
//!
//! ```text
//! RUN/metrics.jsonl        {"entropy":1.93,"phase":"rl","step":3,"success":0.25,"time/tokens_per_second":812.0}
//! RUN/episodes.jsonl       sample trajectories, one a line, where the run records any
//! RUN/tensorboard/PHASE/   event files; an evaluation's panel is a folder below its phase
//! ```
//! - Keys are sorted. Keys that begin with `time/` depend on the clock; all others depend on the seed alone, and
//!   [`first_difference`] compares two runs without the former.
//! - JSON has no NaN and no infinity: they are written as the strings `"NaN"`, `"inf"` and `"-inf"`.
//! - A line is written by one call and is in the file when [`Recorder::record`] returns. A checkpoint stores
//!   [`Recorder::sync`]'s [`Position`]; [`Recorder::resume`] drops every line after it, which the resumed run writes
//!   again. A run killed at any moment and resumed thus has the lines of an uninterrupted one.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::atomic::{create_folder, sync_folder};
use super::tensorboard::EventFile;
use crate::{Error, Result};

/// The file of a run folder that holds its metrics.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// The file of a run folder that holds sample trajectories.
pub const EPISODES_FILE: &str = "episodes.jsonl";
/// How keys begin that depend on the clock.
pub const TIME_PREFIX: &str = "time/";

/// One line of `metrics.jsonl`: a phase, a step and its values, keys sorted.
///
/// ```
/// use epo::train::Record;
/// let record = Record::new("rl", 3).with("entropy", 1.5).with("entropy_turn", [1.0, f64::NAN]);
/// assert_eq!(record.to_json(), r#"{"entropy":1.5,"entropy_turn":[1.0,"NaN"],"phase":"rl","step":3}"#);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    phase: String,
    step: u64,
    values: BTreeMap<String, Metric>,
}

impl Record {
    /// An empty record of `step` (counted from 0 within its phase) in `phase` (`clone`, `rl`, `eval`, …).
    pub fn new(phase: impl Into<String>, step: u64) -> Self {
        Self { phase: phase.into(), step, values: BTreeMap::new() }
    }

    /// The record with one more value; the last one set under a key counts.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Metric>) -> Self {
        self.set(key, value);
        self
    }

    /// Sets a value; the last one set under a key counts. `phase` and `step` cannot be replaced.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Metric>) {
        self.values.insert(key.into(), value.into());
    }

    /// The value under `key`, where it is a number.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.values.get(key)? {
            Metric::Number(x) => Some(*x),
            Metric::Count(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// The line, without its end.
    pub fn to_json(&self) -> String {
        let mut sorted: BTreeMap<&str, Value> =
            self.values.iter().map(|(key, value)| (key.as_str(), value.to_json())).collect();
        sorted.insert("phase", Value::from(self.phase.as_str()));
        sorted.insert("step", Value::from(self.step));
        let fields: Vec<String> = sorted.iter().map(|(k, v)| format!("{}:{v}", Value::from(*k))).collect();
        format!("{{{}}}", fields.join(","))
    }

    /// Every number as (tag, value), the entries of a series under `key/00`, `key/01`, ….
    fn scalars(&self) -> Vec<(String, f64)> {
        let mut scalars = Vec::new();
        for (key, value) in &self.values {
            match value {
                Metric::Series(xs) => {
                    scalars.extend(xs.iter().enumerate().map(|(i, x)| (format!("{key}/{i:02}"), *x)));
                }
                _ => scalars.extend(self.number(key).map(|x| (key.clone(), x))),
            }
        }
        scalars
    }

    /// The TensorBoard folder: `phase`, or `phase/panel`.
    fn folder(&self) -> String {
        match self.values.get("panel") {
            Some(Metric::Text(panel)) => format!("{}/{}", folder_safe(&self.phase), folder_safe(panel)),
            _ => folder_safe(&self.phase),
        }
    }
}

/// A value of a [`Record`].
#[derive(Debug, Clone, PartialEq)]
pub enum Metric {
    /// A real number; NaN and infinities are written as strings.
    Number(f64),
    /// A count.
    Count(u64),
    /// Yes or no.
    Flag(bool),
    /// A name.
    Text(String),
    /// Numbers by index, as one per turn index.
    Series(Vec<f64>),
    /// A value that does not exist in this step, written as `null`.
    Missing,
}

impl Metric {
    fn to_json(&self) -> Value {
        match self {
            Self::Number(x) => number_to_json(*x),
            Self::Count(n) => Value::from(*n),
            Self::Flag(b) => Value::from(*b),
            Self::Text(s) => Value::from(s.as_str()),
            Self::Series(xs) => xs.iter().map(|x| number_to_json(*x)).collect(),
            Self::Missing => Value::Null,
        }
    }
}

macro_rules! metric_from {
    ($($from:ty => $variant:ident($convert:expr)),* $(,)?) => {$(
        impl From<$from> for Metric {
            fn from(value: $from) -> Self {
                Self::$variant($convert(value))
            }
        }
    )*};
}
metric_from! {
    f64 => Number(f64::from), f32 => Number(f64::from),
    u64 => Count(u64::from), u32 => Count(u64::from), usize => Count(|n| n as u64),
    bool => Flag(bool::from), String => Text(String::from), &str => Text(String::from),
    Vec<f64> => Series(Vec::from), &[f64] => Series(<[f64]>::to_vec),
}

impl<const N: usize> From<[f64; N]> for Metric {
    fn from(values: [f64; N]) -> Self {
        Self::Series(values.to_vec())
    }
}

impl<T: Into<Metric>> From<Option<T>> for Metric {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Missing, Into::into)
    }
}

/// Where a run's files stood when a checkpoint was taken: part of the checkpoint's state. Counted in lines, so that
/// it depends on the seed alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Lines of `metrics.jsonl`.
    pub metrics: u64,
    /// Lines of `episodes.jsonl`.
    pub episodes: u64,
}

/// Owner of a run folder's `metrics.jsonl`, `episodes.jsonl` and TensorBoard events.
///
/// ```
/// use epo::train::{read_metrics, Record, Recorder};
/// # let run = tempfile::tempdir()?;
/// let mut recorder = Recorder::create(run.path())?;
/// recorder.record(&Record::new("rl", 0).with("success", 0.25).with("time/seconds", 1.5))?;
/// let position = recorder.sync()?; // goes into the checkpoint
/// recorder.record(&Record::new("rl", 1).with("success", 0.5))?; // lost in a crash, written again after it
///
/// let recorder = Recorder::resume(run.path(), position)?;
/// assert_eq!(read_metrics(run.path())?.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Recorder {
    dir: PathBuf,
    metrics: Lines,
    episodes: Lines,
    events: HashMap<String, EventFile>,
    /// First step to be written again, by TensorBoard folder; set on resume.
    purge: Option<HashMap<String, u64>>,
}

impl Recorder {
    /// Starts recording in a new run folder, created where it is missing.
    ///
    /// # Errors
    /// [`Error::File`] where the folder already holds a run, [`Error::Io`].
    pub fn create(run_dir: impl AsRef<Path>) -> Result<Self> {
        let path = run_dir.as_ref().join(METRICS_FILE);
        if std::fs::metadata(&path).is_ok_and(|m| m.len() > 0) {
            return Err(Error::file(
                path,
                "run",
                "this folder already holds a run; resume it or name another",
            ));
        }
        Self::open(run_dir.as_ref(), Position::default())
    }

    /// Continues a run from the `position` its checkpoint stored: every later line is dropped, and TensorBoard is
    /// told to forget the steps that will be written again. The default position starts the run anew.
    ///
    /// # Errors
    /// [`Error::File`] where the files hold fewer lines than the checkpoint counted, [`Error::Io`].
    pub fn resume(run_dir: impl AsRef<Path>, position: Position) -> Result<Self> {
        let run_dir = run_dir.as_ref();
        let mut recorder = Self::open(run_dir, position)?;
        let mut next = HashMap::new();
        for line in read_metrics(run_dir)? {
            let record =
                Record::new(text(&line, "phase"), line.get("step").and_then(Value::as_u64).unwrap_or(0));
            let record = match line.get("panel") {
                Some(Value::String(panel)) => record.with("panel", panel.as_str()),
                _ => record,
            };
            let entry = next.entry(record.folder()).or_insert(0);
            *entry = (*entry).max(record.step + 1);
        }
        recorder.purge = Some(next);
        Ok(recorder)
    }

    fn open(run_dir: &Path, position: Position) -> Result<Self> {
        create_folder(run_dir)?;
        let metrics = Lines::open(run_dir.join(METRICS_FILE), position.metrics)?;
        let episodes = Lines::open(run_dir.join(EPISODES_FILE), position.episodes)?;
        Ok(Self { dir: run_dir.to_path_buf(), metrics, episodes, events: HashMap::new(), purge: None })
    }

    /// Appends one step's record to `metrics.jsonl` and to the TensorBoard events of its phase.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn record(&mut self, record: &Record) -> Result<()> {
        self.metrics.append(&record.to_json())?;
        let scalars = record.scalars();
        if scalars.is_empty() {
            return Ok(());
        }
        self.events_of(record.folder())?.scalars(record.step, &scalars)
    }

    /// Appends one sample trajectory to `episodes.jsonl`.
    ///
    /// # Errors
    /// [`Error::File`] for a value that does not serialise, [`Error::Io`].
    pub fn episode(&mut self, episode: &impl Serialize) -> Result<()> {
        let json = serde_json::to_string(episode)
            .map_err(|e| Error::file(&self.episodes.path, "episode", e.to_string()))?;
        self.episodes.append(&json)
    }

    /// Makes everything recorded durable and says where the files stand: call it before writing a checkpoint and
    /// store the result in the checkpoint's state.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&self) -> Result<Position> {
        self.metrics.sync()?;
        self.episodes.sync()?;
        self.events.values().try_for_each(EventFile::sync)?;
        sync_folder(&self.dir)?;
        Ok(Position { metrics: self.metrics.count, episodes: self.episodes.count })
    }

    /// The run folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn events_of(&mut self, folder: String) -> Result<&mut EventFile> {
        use std::collections::hash_map::Entry;
        match self.events.entry(folder) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let purge = self.purge.as_ref().map(|next| next.get(entry.key()).copied().unwrap_or(0));
                let dir = self.dir.join("tensorboard").join(entry.key());
                Ok(entry.insert(EventFile::create(&dir, purge)?))
            }
        }
    }
}

/// A file of lines that is only appended to.
#[derive(Debug)]
struct Lines {
    file: File,
    path: PathBuf,
    count: u64,
}

impl Lines {
    /// Opens or creates `path` and cuts it after `count` lines.
    fn open(path: PathBuf, count: u64) -> Result<Self> {
        let open = || -> std::io::Result<Option<File>> {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            let Some(length) = length_of_lines(&mut file, count)? else { return Ok(None) };
            file.set_len(length)?;
            file.seek(SeekFrom::Start(length))?;
            Ok(Some(file))
        };
        match open().map_err(|e| Error::io(&path, e))? {
            Some(file) => Ok(Self { file, path, count }),
            None => Err(Error::file(path, "lines", format!("fewer than the {count} the checkpoint counted"))),
        }
    }

    fn append(&mut self, line: &str) -> Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(|e| Error::io(&self.path, e))?;
        self.count += 1;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }
}

/// Bytes of the first `count` lines, `None` where the file ends before.
fn length_of_lines(file: &mut File, count: u64) -> std::io::Result<Option<u64>> {
    let mut reader = BufReader::new(file);
    let mut length = 0;
    for _ in 0..count {
        let mut line = Vec::new();
        length += reader.by_ref().read_until(b'\n', &mut line)? as u64;
        if line.last() != Some(&b'\n') {
            return Ok(None);
        }
    }
    Ok(Some(length))
}

/// The lines of a run's `metrics.jsonl`; a last line without its end, cut off by a kill, is left out.
///
/// # Errors
/// [`Error::File`] naming the line that is not a JSON object, [`Error::Io`].
pub fn read_metrics(run_dir: impl AsRef<Path>) -> Result<Vec<serde_json::Map<String, Value>>> {
    read_lines(&run_dir.as_ref().join(METRICS_FILE))
}

/// The lines of a file of JSON objects, without a last line that was cut off.
pub(super) fn read_lines(path: &Path) -> Result<Vec<serde_json::Map<String, Value>>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(i, line)| {
        serde_json::from_str(line).map_err(|e| Error::file(path, format!("line {}", i + 1), e.to_string()))
    };
    whole.lines().enumerate().map(parse).collect()
}

/// The first difference between the metrics of two runs, times left out; `None` where they are the same.
///
/// Numbers are compared to the bit.
///
/// # Errors
/// Those of [`read_metrics`].
pub fn first_difference(run_a: impl AsRef<Path>, run_b: impl AsRef<Path>) -> Result<Option<String>> {
    let (a, b) = (without_times(run_a.as_ref())?, without_times(run_b.as_ref())?);
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let keys = a.keys().chain(b.keys());
        if let Some(key) = keys.into_iter().find(|k| a.get(*k) != b.get(*k)) {
            let show = |v: Option<&Value>| v.map_or("absent".to_owned(), Value::to_string);
            let (a, b) = (show(a.get(key)), show(b.get(key)));
            return Ok(Some(format!("line {}: `{key}` is {a} and {b}", i + 1)));
        }
    }
    Ok((a.len() != b.len()).then(|| format!("{} lines and {} lines", a.len(), b.len())))
}

fn without_times(run_dir: &Path) -> Result<Vec<serde_json::Map<String, Value>>> {
    let mut lines = read_metrics(run_dir)?;
    lines.iter_mut().for_each(|line| line.retain(|key, _| !key.starts_with(TIME_PREFIX)));
    Ok(lines)
}

fn number_to_json(x: f64) -> Value {
    serde_json::Number::from_f64(x).map_or_else(|| Value::from(x.to_string()), Value::Number)
}

fn text<'a>(line: &'a serde_json::Map<String, Value>, key: &str) -> &'a str {
    line.get(key).and_then(Value::as_str).unwrap_or("")
}

fn folder_safe(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.chars().map(safe).collect();
    if name.chars().all(|c| c == '.') {
        "_".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
