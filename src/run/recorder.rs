//! The recorder of a run: one line of metrics per step, episodes, and TensorBoard events.
//!
//! ```text
//! RUN/metrics.jsonl        {"entropy":1.93,"phase":"rl","step":3,"success":0.25,"time/seconds":8}
//! RUN/episodes.jsonl       every episode of every evaluation, one per line
//! RUN/rollouts.jsonl       every training episode, one per line, if the run dumps them
//! RUN/rollouts-N.jsonl     the same from line N on, after the file before was full
//! RUN/tensorboard/PHASE/   event files; an evaluation set has a folder below its phase
//! ```
//! - Keys are sorted. Keys that begin with `time/` depend on the clock; all others depend on the
//!   seed alone. [`first_difference`](crate::run::first_difference) compares two runs without the
//!   former.
//! - JSON has no NaN and no infinity: they are written as the strings `"NaN"`, `"inf"`, `"-inf"`.
//! - A line is written by one call and is in the file when [`Recorder::record`] returns.
//! - A checkpoint stores the [`Position`] that [`Recorder::sync`] returns. [`Recorder::resume`]
//!   drops every later line, and the resumed run writes these lines again. A run that is killed at
//!   any moment and resumed therefore has the lines of an uninterrupted one.

use std::collections::hash_map::Entry;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{create_folder, sync_folder};
use crate::run::lines::Lines;
use crate::run::record::{read_metrics, Record, METRICS_FILE};
use crate::run::rollout_log::RolloutLog;
use crate::run::tensorboard::EventFile;
use crate::{Error, Result};

/// The file of a run folder that holds the episodes of its evaluations.
pub const EPISODES_FILE: &str = "episodes.jsonl";

/// The lengths of a run's files at a checkpoint, as part of the checkpoint's state.
///
/// Counted in lines, so that it depends on the seed alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Lines of `metrics.jsonl`.
    pub metrics: u64,
    /// Lines of `episodes.jsonl`.
    pub episodes: u64,
    /// Lines of dumped training episodes in all files together, deleted ones included.
    pub rollouts: u64,
}

/// Writer of a run folder's metrics, episodes and TensorBoard events.
///
/// ```
/// use epo::run::{read_metrics, Record, Recorder};
/// # let run = tempfile::tempdir()?;
/// let mut recorder = Recorder::create(run.path())?;
/// recorder.record(&Record::new("rl", 0).with("success", 0.25).with("time/seconds", 1.5))?;
/// let position = recorder.sync()?; // goes into the checkpoint
/// // Dropped on resume, because it came after the checkpoint.
/// recorder.record(&Record::new("rl", 1).with("success", 0.5))?;
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
    rollouts: RolloutLog,
    events: HashMap<String, EventFile>,
    /// The first step that is written again, by TensorBoard folder; set on resume.
    purge: Option<HashMap<String, u64>>,
}

impl Recorder {
    /// Starts recording in a new run folder, which is created if it is missing.
    ///
    /// # Errors
    /// [`Error::File`] if the folder already holds a run; [`Error::Io`].
    pub fn create(run_dir: impl AsRef<Path>) -> Result<Self> {
        let path = run_dir.as_ref().join(METRICS_FILE);
        if std::fs::metadata(&path).is_ok_and(|m| m.len() > 0) {
            let reason = "this folder already holds a run: resume it or choose another folder";
            return Err(Error::file(path, "run", reason));
        }
        Self::open(run_dir.as_ref(), Position::default())
    }

    /// Continues a run from the `position` that its checkpoint stored.
    ///
    /// Every later line is dropped, and new TensorBoard event files tell readers to discard the
    /// steps that are written again. The default position starts the run from the beginning.
    ///
    /// # Errors
    /// [`Error::File`] if a file holds fewer lines than the checkpoint counted; [`Error::Io`].
    pub fn resume(run_dir: impl AsRef<Path>, position: Position) -> Result<Self> {
        let run_dir = run_dir.as_ref();
        let mut recorder = Self::open(run_dir, position)?;
        let mut next = HashMap::new();
        for line in read_metrics(run_dir)? {
            let text = |key| line.get(key).and_then(Value::as_str);
            let step = line.get("step").and_then(Value::as_u64).unwrap_or(0);
            let mut record = Record::new(text("phase").unwrap_or(""), step);
            if let Some(name) = text("panel") {
                record.set("panel", name);
            }
            let entry = next.entry(record.folder()).or_insert(0);
            *entry = (*entry).max(record.step() + 1);
        }
        recorder.purge = Some(next);
        Ok(recorder)
    }

    fn open(run_dir: &Path, position: Position) -> Result<Self> {
        create_folder(run_dir)?;
        let metrics = Lines::open(run_dir.join(METRICS_FILE), position.metrics)?;
        let episodes = Lines::open(run_dir.join(EPISODES_FILE), position.episodes)?;
        let rollouts = RolloutLog::open(run_dir, position.rollouts)?;
        let dir = run_dir.to_path_buf();
        Ok(Self { dir, metrics, episodes, rollouts, events: HashMap::new(), purge: None })
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
        self.events_of(record.folder())?.scalars(record.step(), &scalars)
    }

    /// Appends one episode of an evaluation to `episodes.jsonl`.
    ///
    /// # Errors
    /// [`Error::File`] for a value that cannot be serialised; [`Error::Io`].
    pub fn episode(&mut self, episode: &impl Serialize) -> Result<()> {
        let json = serde_json::to_string(episode)
            .map_err(|e| Error::file(&self.episodes.path, "episode", e.to_string()))?;
        self.episodes.append(&json)
    }

    /// Limits the dumped training episodes to about `bytes`, give or take one step.
    ///
    /// The oldest episodes are deleted first, an eighth of the limit at a time
    /// ([`Recorder::begin_rollouts`]). Lines after the last [`Recorder::sync`] are never deleted.
    #[must_use]
    pub fn keeping_rollouts(self, bytes: u64) -> Self {
        Self { rollouts: self.rollouts.within(bytes), ..self }
    }

    /// Begins the dump of a step's episodes, in a new file if the current one is full.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin_rollouts(&mut self) -> Result<()> {
        self.rollouts.rotate()
    }

    /// Appends a dumped training episode, as one line of JSON.
    ///
    /// # Errors
    /// [`Error::File`] for a value that cannot be serialised; [`Error::Io`].
    pub fn rollout(&mut self, episode: &impl Serialize) -> Result<()> {
        let json = serde_json::to_string(episode)
            .map_err(|e| Error::file(self.rollouts.path(), "episode", e.to_string()))?;
        self.rollouts.append(&json)
    }

    /// Makes everything recorded durable and returns the files' lengths.
    ///
    /// Call it before writing a checkpoint and store the result in the checkpoint's state.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&mut self) -> Result<Position> {
        self.metrics.sync()?;
        self.episodes.sync()?;
        let rollouts = self.rollouts.sync()?;
        for events in self.events.values() {
            events.sync()?;
        }
        sync_folder(&self.dir)?;
        Ok(Position { metrics: self.metrics.count, episodes: self.episodes.count, rollouts })
    }

    /// The run folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn events_of(&mut self, folder: String) -> Result<&mut EventFile> {
        match self.events.entry(folder) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let purge =
                    self.purge.as_ref().map(|next| next.get(entry.key()).copied().unwrap_or(0));
                let dir = self.dir.join("tensorboard").join(entry.key());
                Ok(entry.insert(EventFile::create(&dir, purge)?))
            }
        }
    }
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
