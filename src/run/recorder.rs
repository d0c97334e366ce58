//! Recording a run: one line a step, the same line for the same seed, and TensorBoard events beside it.
//!
//! ```text
//! RUN/metrics.jsonl        {"entropy":1.93,"phase":"rl","step":3,"success":0.25,"time/tokens_per_second":812.0}
//! RUN/episodes.jsonl       every episode of every evaluation, one a line
//! RUN/rollouts.jsonl       every training episode, one a line, where the run is asked to dump them
//! RUN/rollouts-N.jsonl     the same from line N on, once the file before was full
//! RUN/tensorboard/PHASE/   event files; an evaluation's panel is a folder below its phase
//! ```
//! - Keys are sorted. Keys that begin with `time/` depend on the clock; all others depend on the seed alone, and
//!   [`first_difference`](crate::run::first_difference) compares two runs without the former.
//! - JSON has no NaN and no infinity: they are written as the strings `"NaN"`, `"inf"` and `"-inf"`.
//! - A line is written by one call and is in the file when [`Recorder::record`] returns. A checkpoint stores
//!   [`Recorder::sync`]'s [`Position`]; [`Recorder::resume`] drops every line after it, which the resumed run writes
//!   again. A run killed at any moment and resumed thus has the lines of an uninterrupted one.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{create_folder, sync_folder};
use crate::run::record::{read_metrics, Record, METRICS_FILE};
use crate::run::rollout_log::RolloutLog;
use crate::run::tensorboard::EventFile;
use crate::{Error, Result};

/// The file of a run folder that holds the episodes of its evaluations.
pub const EPISODES_FILE: &str = "episodes.jsonl";
/// The file of a run folder that holds dumped training episodes, the first of them where there are several
/// ([`episode_files`](crate::run::episode_files)).
pub const ROLLOUTS_FILE: &str = "rollouts.jsonl";

/// Where a run's files stood when a checkpoint was taken: part of the checkpoint's state. Counted in lines, so that
/// it depends on the seed alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Lines of `metrics.jsonl`.
    pub metrics: u64,
    /// Lines of `episodes.jsonl`.
    pub episodes: u64,
    /// Lines of dumped training episodes, in all files together and those deleted since; 0 in checkpoints written before
    /// there were any.
    #[serde(default)]
    pub rollouts: u64,
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
    rollouts: RolloutLog,
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
            let record = Record::new(
                text(&line, "phase"),
                line.get("step").and_then(Value::as_u64).unwrap_or(0),
            );
            let record = match line.get("panel") {
                Some(Value::String(panel)) => record.with("panel", panel.as_str()),
                _ => record,
            };
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

    /// Appends one sample trajectory to `episodes.jsonl`.
    ///
    /// # Errors
    /// [`Error::File`] for a value that does not serialise, [`Error::Io`].
    pub fn episode(&mut self, episode: &impl Serialize) -> Result<()> {
        let json = serde_json::to_string(episode)
            .map_err(|e| Error::file(&self.episodes.path, "episode", e.to_string()))?;
        self.episodes.append(&json)
    }

    /// The same, keeping at most `bytes` of dumped training episodes, more or less a step: the oldest are deleted, an eighth
    /// at a time ([`Recorder::begin_rollouts`]), but nothing that came after the last [`Recorder::sync`].
    #[must_use]
    pub fn keeping_rollouts(self, bytes: u64) -> Self {
        Self { rollouts: self.rollouts.within(bytes), ..self }
    }

    /// Begins the dump of a step's episodes: in the next file where the current one is full.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin_rollouts(&mut self) -> Result<()> {
        self.rollouts.turn_over()
    }

    /// Appends a dumped training episode, as one line of JSON.
    ///
    /// # Errors
    /// [`Error::File`] for a value that does not serialise, [`Error::Io`].
    pub fn rollout(&mut self, episode: &impl Serialize) -> Result<()> {
        let json = serde_json::to_string(episode)
            .map_err(|e| Error::file(self.rollouts.path(), "episode", e.to_string()))?;
        self.rollouts.append(&json)
    }

    /// Makes everything recorded durable and says where the files stand: call it before writing a checkpoint and
    /// store the result in the checkpoint's state.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&mut self) -> Result<Position> {
        self.metrics.sync()?;
        self.episodes.sync()?;
        let rollouts = self.rollouts.sync()?;
        self.events.values().try_for_each(EventFile::sync)?;
        sync_folder(&self.dir)?;
        Ok(Position { metrics: self.metrics.count, episodes: self.episodes.count, rollouts })
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
                let purge =
                    self.purge.as_ref().map(|next| next.get(entry.key()).copied().unwrap_or(0));
                let dir = self.dir.join("tensorboard").join(entry.key());
                Ok(entry.insert(EventFile::create(&dir, purge)?))
            }
        }
    }
}

/// A file of lines that is only appended to.
#[derive(Debug)]
pub(crate) struct Lines {
    file: File,
    path: PathBuf,
    pub(crate) count: u64,
    /// Bytes.
    pub(crate) length: u64,
}

impl Lines {
    /// Opens or creates `path` and cuts it after `count` lines.
    pub(crate) fn open(path: PathBuf, count: u64) -> Result<Self> {
        let open = || -> std::io::Result<Option<(File, u64)>> {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            let Some(length) = length_of_lines(&mut file, count)? else { return Ok(None) };
            file.set_len(length)?;
            file.seek(SeekFrom::Start(length))?;
            Ok(Some((file, length)))
        };
        match open().map_err(|e| Error::io(&path, e))? {
            Some((file, length)) => Ok(Self { file, path, count, length }),
            None => Err(Error::file(
                path,
                "lines",
                format!("fewer than the {count} the checkpoint counted"),
            )),
        }
    }

    pub(crate) fn append(&mut self, line: &str) -> Result<()> {
        self.file
            .write_all(format!("{line}\n").as_bytes())
            .map_err(|e| Error::io(&self.path, e))?;
        (self.count, self.length) = (self.count + 1, self.length + line.len() as u64 + 1);
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<()> {
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

fn text<'a>(line: &'a serde_json::Map<String, Value>, key: &str) -> &'a str {
    line.get(key).and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
