//! A run's folder: its configuration, and what it continues from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::files::atomic_write;
use crate::run::checkpoint::checkpoint_steps;
use crate::run::checkpoint::{Checkpoint, CheckpointWriter};
use crate::run::record::read_metrics;
use crate::{Error, Result};

/// The configuration's name in a run folder.
const CONFIG: &str = "config.toml";
/// The configuration's name in a checkpoint.
const SAVED: &str = "run.toml";

/// A folder that holds one run of configuration `C`.
#[derive(Debug)]
pub struct RunFolder<C> {
    /// The folder.
    pub dir: PathBuf,
    /// The configuration in force, as `config.toml` holds it.
    pub config: C,
    /// Where to continue; `None` at the beginning.
    pub checkpoint: Option<Checkpoint>,
    /// Newer checkpoints that cannot be used, and why.
    pub skipped: Vec<Error>,
}

impl<C: Serialize + DeserializeOwned> RunFolder<C> {
    /// Begins a run in `dir`, created where it is missing.
    ///
    /// # Errors
    /// [`Error::File`] where the folder holds a run already, [`Error::Io`].
    pub fn create(dir: impl Into<PathBuf>, config: C) -> Result<Self> {
        let dir = dir.into();
        let path = dir.join(CONFIG);
        if path.exists() {
            return Err(Error::file(
                path,
                "run",
                "this folder already holds a run: resume it or name another",
            ));
        }
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        atomic_write(&path, to_toml(&path, &config)?)?;
        Ok(Self { dir, config, checkpoint: None, skipped: Vec::new() })
    }

    /// Continues the run in `dir` from its newest usable checkpoint, or from the beginning where it was
    /// killed before its first one. `adjust` changes what may change ([`TrainConfig::resumed`](crate::train::config::TrainConfig::resumed)).
    ///
    /// # Errors
    /// What `adjust` refuses; [`Error::File`] where there is no run, where its configuration was changed since the checkpoint, naming
    /// every setting that differs, or where checkpoints exist but none is usable.
    pub fn resume(dir: impl Into<PathBuf>, adjust: impl Fn(&mut C) -> Result<()>) -> Result<Self> {
        let dir = dir.into();
        let path = dir.join(CONFIG);
        if !path.exists() {
            return Err(Error::file(
                dir,
                "run",
                format!("there is no run in this folder: it has no {CONFIG}"),
            ));
        }
        let mut config: C = read_config(&path)?;
        adjust(&mut config)?;
        let found = Checkpoint::latest(&dir)?;
        if let Some(checkpoint) = &found.checkpoint {
            let mut saved: C = read_config(checkpoint.file(SAVED)?)?;
            adjust(&mut saved)?;
            let changed = differences(&saved, &config);
            let changed = changed.map_err(|e| Error::file(&path, "config", e.to_string()))?;
            if !changed.is_empty() {
                return Err(Error::file(
                    path,
                    "run",
                    format!("changed since the checkpoint: {changed}"),
                ));
            }
        }
        atomic_write(&path, to_toml(&path, &config)?)?;
        Ok(Self { dir, config, checkpoint: found.checkpoint, skipped: found.skipped })
    }

    /// Adds the configuration to a checkpoint, to be compared on resume.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, checkpoint: &mut CheckpointWriter) -> Result<()> {
        checkpoint.add_file(SAVED, |path| atomic_write(path, to_toml(path, &self.config)?))?;
        Ok(())
    }
}

/// The step of the checkpoint whose evaluation on `panel` had the highest mean of `key` (`success` or `score`), the
/// earliest of equals: what [`prune_checkpoints`](crate::run::prune_checkpoints) keeps beside the newest. `None` where none was evaluated.
///
/// Choosing by a panel makes that panel's number of the chosen checkpoint too good; report another panel's.
///
/// # Errors
/// As [`read_metrics`], [`Error::Io`].
pub fn best_checkpoint(run_dir: impl AsRef<Path>, panel: &str, key: &str) -> Result<Option<u64>> {
    let run_dir = run_dir.as_ref();
    let saved = checkpoint_steps(run_dir)?;
    let mut best: Option<(f64, u64)> = None;
    for line in read_metrics(run_dir)? {
        let evaluated = line.get("phase").is_some_and(|p| p == "eval")
            && line.get("panel").is_some_and(|p| p == panel);
        let step = line
            .get("step")
            .and_then(serde_json::Value::as_u64)
            .filter(|step| saved.contains(step));
        if let (true, Some(step), Some(value)) =
            (evaluated, step, line.get(key).and_then(|v| v.as_f64()))
        {
            if best.is_none_or(|(highest, _)| value > highest) {
                best = Some((value, step));
            }
        }
    }
    Ok(best.map(|(_, step)| step))
}

/// A configuration from a TOML file.
///
/// # Errors
/// [`Error::Io`], or [`Error::File`] naming line or key and what is wrong with it.
pub fn read_config<C: DeserializeOwned>(path: impl AsRef<Path>) -> Result<C> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    toml::from_str(&text).map_err(|e| Error::file(path, "config", e.to_string()))
}

/// A configuration as the TOML that [`read_config`] reads.
///
/// # Errors
/// [`Error::Setting`] for a value that TOML has no form for.
pub fn config_text(config: &impl Serialize) -> Result<String> {
    toml::to_string_pretty(config).map_err(|e| Error::setting("config", "as TOML", e.to_string()))
}

fn to_toml(path: &Path, config: &impl Serialize) -> Result<String> {
    toml::to_string_pretty(config).map_err(|e| Error::file(path, "config", e.to_string()))
}

/// What may change when a run goes on: its length, and where the checkpoint lies that its policy began as, whose files
/// [`Agent::restore`](crate::train::learn::Agent::restore) compares.
const MAY_CHANGE: [&str; 2] = ["steps", "model.source"];

/// Every setting that differs and may not, by its dotted name: `rate was 0.5, is 0.25; gate was 2, is absent`.
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
        assert_eq!((resumed.config.steps, resumed.checkpoint.unwrap().step()), (4, 1));
        // Killed before its next checkpoint, it needs to be told so no second time.
        assert_eq!(RunFolder::<Config>::resume(folder.path(), |_| Ok(())).unwrap().config.steps, 4);
        let path = folder.path().join(CONFIG);
        let text = std::fs::read_to_string(&path).unwrap();
        let changed =
            text.replace("0.5", "0.25").replace("\"a\"", "\"b\"").replace("gate = 25\n", "");
        std::fs::write(&path, &changed).unwrap();
        let error = RunFolder::<Config>::resume(folder.path(), four_steps).unwrap_err().to_string();
        let all = "`method.gate` was 25, is absent; `method.names` was [\"a\"], is [\"b\"]; `rate` was 0.5, is 0.25";
        assert!(
            error.contains("config.toml") && error.ends_with(&format!("checkpoint: {all}")),
            "{error}"
        );
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            changed,
            "a refused run is left as it is"
        );
    }

    #[test]
    fn a_folder_that_was_moved_resumes() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
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
        let best = |panel, key| best_checkpoint(folder.path(), panel, key).unwrap();
        assert_eq!(best("seen", "success"), None);
        for (step, seen, unseen) in [(1, 0.25, 0.5), (2, 0.5, 0.25), (3, 0.5, 0.0), (4, 0.75, 0.0)]
        {
            if step != 4 {
                CheckpointWriter::new(folder.path(), step).unwrap().finish(&()).unwrap();
            }
            for (panel, value) in [("seen", seen), ("unseen", unseen)] {
                let record = Record::new("eval", step).with("panel", panel).with("success", value);
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
