//! A run's folder: its configuration and the checkpoint from which it continues.
//!
//! A run resumes with the settings in its `config.toml`. Every checkpoint holds a copy of them, so
//! that settings edited in between are found and reported instead of silently mixed into the run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::files::{atomic_write, create_folder};
use crate::run::checkpoint::{checkpoint_steps, Checkpoint, CheckpointWriter, Latest, CHECKPOINTS};
use crate::run::lock::RunLock;
use crate::run::record::{read_metrics, METRICS_FILE};
use crate::{Error, Result};

/// The configuration file of a run folder.
pub(crate) const CONFIG_FILE: &str = "config.toml";
/// The configuration file of a checkpoint.
const SAVED: &str = "run.toml";

/// A folder that holds one run of configuration `C`.
#[derive(Debug)]
pub struct RunFolder<C> {
    /// The path of the folder.
    pub dir: PathBuf,
    /// The configuration of the run, as `config.toml` holds it.
    pub config: C,
    /// The checkpoint to continue from; `None` for a run without one.
    pub checkpoint: Option<Checkpoint>,
    /// The errors of newer checkpoints that cannot be used.
    pub skipped: Vec<Error>,
    /// Keeps other processes out of the folder.
    _lock: RunLock,
}

impl<C: Serialize + DeserializeOwned> RunFolder<C> {
    /// Begins a run in `dir`, which is created if it is missing.
    ///
    /// # Errors
    /// [`Error::File`] if the folder already holds a run or another process uses it;
    /// [`Error::Io`].
    pub fn create(dir: impl Into<PathBuf>, config: C) -> Result<Self> {
        let dir = dir.into();
        let path = dir.join(CONFIG_FILE);
        let text = to_toml(&path, &config)?;
        create_folder(&dir)?;
        let lock = RunLock::take(&dir)?;
        if path.exists() && has_begun(&dir)? {
            let reason = "this folder already holds a run: resume it or choose another folder";
            return Err(Error::file(path, "run", reason));
        }
        atomic_write(&path, text)?;
        Ok(Self { dir, config, checkpoint: None, skipped: Vec::new(), _lock: lock })
    }

    /// Continues the run in `dir` from its newest usable checkpoint, or from the beginning if it
    /// was killed before its first checkpoint.
    ///
    /// `adjust` makes the permitted changes to the configuration, as
    /// [`TrainConfig::resumed`](crate::train::config::TrainConfig::resumed) does.
    ///
    /// # Errors
    /// [`Error::File`] if the folder holds no run or another process uses it, if settings were
    /// changed since the checkpoint (all are listed), if there are checkpoints but none is usable,
    /// or if a run that has trained has none any more; errors of `adjust`.
    pub fn resume(dir: impl Into<PathBuf>, adjust: impl Fn(&mut C) -> Result<()>) -> Result<Self> {
        let dir = dir.into();
        let path = dir.join(CONFIG_FILE);
        if !path.exists() {
            let reason = format!("there is no run in this folder: it has no {CONFIG_FILE}");
            return Err(Error::file(dir, "run", reason));
        }
        let lock = RunLock::take(&dir)?;
        let mut config: C = read_config(&path)?;
        adjust(&mut config)?;
        let found = Checkpoint::latest(&dir)?;
        if let Some(checkpoint) = &found.checkpoint {
            let mut saved: C = read_config(checkpoint.file(SAVED)?)?;
            adjust(&mut saved)?;
            let changed = differences(&saved, &config);
            let changed = changed.map_err(|e| Error::file(&path, "config", e.to_string()))?;
            if !changed.is_empty() {
                let reason = format!("changed since the checkpoint: {changed}");
                return Err(Error::file(path, "run", reason));
            }
        } else {
            check_untrained(&dir)?;
        }
        atomic_write(&path, to_toml(&path, &config)?)?;
        let Latest { checkpoint, skipped } = found;
        Ok(Self { dir, config, checkpoint, skipped, _lock: lock })
    }

    /// Adds the configuration to a checkpoint, for comparison on resume.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, checkpoint: &mut CheckpointWriter) -> Result<()> {
        checkpoint.add_file(SAVED, |path| atomic_write(path, to_toml(path, &self.config)?))?;
        Ok(())
    }
}

/// Returns true if the run in `dir` has recorded or saved anything; before that, a mistake in its
/// settings may have ended it.
fn has_begun(dir: &Path) -> Result<bool> {
    let recorded = std::fs::metadata(dir.join(METRICS_FILE)).is_ok_and(|file| file.len() > 0);
    Ok(recorded || !checkpoint_steps(dir)?.is_empty())
}

/// Checks that a run without a checkpoint has not got as far as its first one: beginning it anew
/// would cut its metrics and episodes.
fn check_untrained(dir: &Path) -> Result<()> {
    if !dir.join(METRICS_FILE).exists() {
        return Ok(());
    }
    let is_step = |line: &&Map<String, Value>| line.get("phase").is_some_and(|phase| phase == "rl");
    let trained = read_metrics(dir)?.iter().filter(is_step).count();
    if trained == 0 {
        return Ok(());
    }
    let reason = format!(
        "none is left, but {METRICS_FILE} has {trained} training steps: put the checkpoints back, \
         or begin a new run in another folder"
    );
    Err(Error::file(dir.join(CHECKPOINTS), "checkpoints", reason))
}

/// Finds the checkpoint whose evaluation on `task_set` had the highest mean of `key` (`success` or
/// `score`), and returns its step.
///
/// Of equal ones the earliest is returned, and `None` if no checkpoint was evaluated. Pass the step
/// to [`prune_checkpoints`](crate::run::prune_checkpoints) to keep that checkpoint. The choice
/// biases this task set's mean upwards; report the mean of another one.
///
/// # Errors
/// [`Error::File`] for metrics that cannot be parsed; [`Error::Io`].
pub fn best_checkpoint(
    run_dir: impl AsRef<Path>,
    task_set: &str,
    key: &str,
) -> Result<Option<u64>> {
    let run_dir = run_dir.as_ref();
    let saved = checkpoint_steps(run_dir)?;
    let mut best: Option<(f64, u64)> = None;
    for line in read_metrics(run_dir)? {
        let evaluated = line.get("phase").is_some_and(|phase| phase == "eval")
            && line.get("panel").is_some_and(|name| name == task_set);
        let Some(step) = line.get("step").and_then(Value::as_u64) else { continue };
        let Some(value) = line.get(key).and_then(Value::as_f64) else { continue };
        let better = best.is_none_or(|(highest, _)| value > highest);
        if evaluated && better && saved.contains(&step) {
            best = Some((value, step));
        }
    }
    Ok(best.map(|(_, step)| step))
}

/// Reads a configuration from a TOML file.
///
/// # Errors
/// [`Error::File`] with the line or key that is wrong; [`Error::Io`].
pub fn read_config<C: DeserializeOwned>(path: impl AsRef<Path>) -> Result<C> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    toml::from_str(&text).map_err(|e| Error::file(path, "config", e.to_string()))
}

/// A configuration as the TOML that [`read_config`] reads.
///
/// # Errors
/// [`Error::Setting`] for a value that TOML cannot represent.
pub fn config_text(config: &impl Serialize) -> Result<String> {
    toml::to_string_pretty(config).map_err(|e| Error::setting("config", "as TOML", e.to_string()))
}

fn to_toml(path: &Path, config: &impl Serialize) -> Result<String> {
    toml::to_string_pretty(config).map_err(|e| Error::file(path, "config", e.to_string()))
}

/// Settings that may change when a run resumes: its length, the path of the model checkpoint it
/// started from ([`Agent::restore`](crate::train::learn::Agent::restore) compares its files), and
/// the path of its games (their names are compared).
const MAY_CHANGE: [&str; 3] = ["steps", "model.source", "environment.games.path"];

/// Lists every setting that differs but must not: `rate was 0.5, is 0.25; gate was 2, is absent`.
fn differences(before: &impl Serialize, now: &impl Serialize) -> Result<String, toml::ser::Error> {
    let [before, now] = [toml::Value::try_from(before)?, toml::Value::try_from(now)?];
    let (mut settings, absent) =
        (BTreeMap::<String, [Option<String>; 2]>::new(), || "absent".to_owned());
    flatten("", &before, &mut |key, value| {
        settings.entry(key).or_default()[0] = Some(value.to_string());
    });
    flatten("", &now, &mut |key, value| {
        settings.entry(key).or_default()[1] = Some(value.to_string());
    });
    let may_not = |key: &str| !MAY_CHANGE.contains(&key);
    let changed = settings.into_iter().filter(|(key, [before, now])| before != now && may_not(key));
    let show = |(key, [before, now]): (String, [Option<String>; 2])| {
        format!("`{key}` was {}, is {}", before.unwrap_or_else(absent), now.unwrap_or_else(absent))
    };
    Ok(changed.map(show).collect::<Vec<_>>().join("; "))
}

/// Calls `each` with the dotted key of every value that is not a table, and of every empty table.
pub(crate) fn flatten(
    prefix: &str,
    value: &toml::Value,
    each: &mut dyn FnMut(String, &toml::Value),
) {
    let toml::Value::Table(table) = value else { return each(prefix.to_owned(), value) };
    if table.is_empty() && !prefix.is_empty() {
        return each(prefix.to_owned(), value);
    }
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        flatten(&key, value, each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        steps: u64,
        rate: f64,
        method: Method,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Method {
        names: Vec<String>,
        gate: Option<u32>,
    }

    fn config() -> Config {
        Config { steps: 2, rate: 0.5, method: Method { names: vec!["a".into()], gate: Some(25) } }
    }

    fn four_steps(config: &mut Config) -> Result<()> {
        config.steps = 4;
        Ok(())
    }

    fn begun(folder: &Path) -> RunFolder<Config> {
        let run = RunFolder::create(folder, config()).unwrap();
        let mut writer = CheckpointWriter::new(folder, 1).unwrap();
        run.save(&mut writer).unwrap();
        writer.finish(&serde_json::json!({})).unwrap();
        run
    }

    #[test]
    fn a_run_resumes_with_more_steps_but_not_with_other_settings() {
        let folder = tempfile::tempdir().unwrap();
        begun(folder.path());
        assert!(RunFolder::create(folder.path(), config()).is_err(), "the folder is taken");
        let resumed = RunFolder::<Config>::resume(folder.path(), four_steps).unwrap();
        assert_eq!((resumed.config.steps, resumed.checkpoint.as_ref().unwrap().step()), (4, 1));
        let error = RunFolder::<Config>::resume(folder.path(), |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(resumed);
        // Killed before its next checkpoint, the run still has the new number of steps.
        assert_eq!(RunFolder::<Config>::resume(folder.path(), |_| Ok(())).unwrap().config.steps, 4);
        let path = folder.path().join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let changed =
            text.replace("0.5", "0.25").replace("\"a\"", "\"b\"").replace("gate = 25\n", "");
        std::fs::write(&path, &changed).unwrap();
        let error = RunFolder::<Config>::resume(folder.path(), four_steps).unwrap_err().to_string();
        let all = "`method.gate` was 25, is absent; `method.names` was [\"a\"], is [\"b\"]; \
            `rate` was 0.5, is 0.25";
        assert!(
            error.contains("config.toml") && error.ends_with(&format!("checkpoint: {all}")),
            "{error}"
        );
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            changed,
            "a rejected run stays unchanged"
        );
    }

    #[test]
    fn a_run_whose_checkpoints_were_deleted_is_left_alone() {
        use crate::run::record::Record;
        use crate::run::recorder::Recorder;
        let folder = tempfile::tempdir().unwrap();
        begun(folder.path());
        let mut recorder = Recorder::create(folder.path()).unwrap();
        recorder.record(&Record::new("clone", 0).with("loss", 0.5)).unwrap();
        recorder.record(&Record::new("rl", 0).with("success", 0.5)).unwrap();
        std::fs::remove_dir_all(folder.path().join(CHECKPOINTS)).unwrap();
        let error = RunFolder::<Config>::resume(folder.path(), |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("checkpoints") && error.contains("has 1 training steps"), "{error}");
        assert_eq!(read_metrics(folder.path()).unwrap().len(), 2);
        // A run that was killed while it imitated begins anew.
        let mut recorder = Recorder::resume(folder.path(), Default::default()).unwrap();
        recorder.record(&Record::new("clone", 0).with("loss", 0.5)).unwrap();
        assert!(RunFolder::<Config>::resume(folder.path(), |_| Ok(()))
            .unwrap()
            .checkpoint
            .is_none());
    }

    #[test]
    fn a_folder_whose_run_ended_before_it_began_is_free() {
        let folder = tempfile::tempdir().unwrap();
        RunFolder::create(folder.path(), config()).unwrap();
        let other = Config { steps: 7, ..config() };
        assert_eq!(RunFolder::create(folder.path(), other).unwrap().config.steps, 7);
        assert_eq!(read_config::<Config>(folder.path().join(CONFIG_FILE)).unwrap().steps, 7);
    }

    #[test]
    fn a_folder_that_was_moved_resumes() {
        let here = tempfile::tempdir().unwrap();
        let there = tempfile::tempdir().unwrap();
        begun(&here.path().join("run"));
        std::fs::rename(here.path().join("run"), there.path().join("moved")).unwrap();
        let resumed = RunFolder::<Config>::resume(there.path().join("moved"), |_| Ok(())).unwrap();
        assert!(resumed.checkpoint.unwrap().dir().starts_with(there.path()));
    }

    #[test]
    fn the_best_checkpoint_is_the_earliest_highest_one_that_exists() {
        use crate::run::checkpoint::prune_checkpoints;
        use crate::run::record::Record;
        use crate::run::recorder::Recorder;
        let folder = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(folder.path()).unwrap();
        let best = |task_set, key| best_checkpoint(folder.path(), task_set, key).unwrap();
        assert_eq!(best("seen", "success"), None);
        for (step, seen, unseen) in [(1, 0.25, 0.5), (2, 0.5, 0.25), (3, 0.5, 0.0), (4, 0.75, 0.0)]
        {
            if step != 4 {
                CheckpointWriter::new(folder.path(), step).unwrap().finish(&()).unwrap();
            }
            for (name, value) in [("seen", seen), ("unseen", unseen)] {
                let record = Record::new("eval", step).with("panel", name).with("success", value);
                recorder.record(&record.with("score", -value)).unwrap();
            }
            recorder
                .record(&Record::new("rl", step).with("panel", "seen").with("success", 1.0))
                .unwrap();
        }
        assert_eq!((best("seen", "success"), best("unseen", "success")), (Some(2), Some(1)));
        assert_eq!((best("seen", "score"), best("other", "success")), (Some(1), None));
        prune_checkpoints(folder.path(), 1, best("seen", "success")).unwrap();
        assert_eq!(
            checkpoint_steps(folder.path()).unwrap().into_iter().collect::<Vec<_>>(),
            [2, 3]
        );
    }

    #[test]
    fn unknown_keys_are_named_with_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "steps = 1\nrat = 2.0\nrate = 1.0\n[method]\nnames = []\n").unwrap();
        let error = read_config::<Config>(&path).unwrap_err().to_string();
        assert!(error.contains("c.toml") && error.contains("rat"), "{error}");
    }
}
