//! A run's folder: its configuration, and what it continues from.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::Serialize;

use super::{atomic_write, Checkpoint, CheckpointWriter};
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

impl<C: Serialize + DeserializeOwned + PartialEq> RunFolder<C> {
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
    /// killed before its first one. `adjust` changes what may change (the number of steps).
    ///
    /// # Errors
    /// [`Error::File`] where there is no run, where its configuration was changed since the checkpoint, naming
    /// the first line that differs, or where checkpoints exist but none is usable.
    pub fn resume(dir: impl Into<PathBuf>, adjust: impl Fn(&mut C)) -> Result<Self> {
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
        adjust(&mut config);
        let found = Checkpoint::latest(&dir)?;
        if let Some(checkpoint) = &found.checkpoint {
            let mut saved: C = read_config(checkpoint.file(SAVED)?)?;
            adjust(&mut saved);
            if saved != config {
                let difference = first_difference(&to_toml(&path, &saved)?, &to_toml(&path, &config)?);
                return Err(Error::file(path, "run", format!("changed since the checkpoint: {difference}")));
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

/// A configuration from a TOML file.
///
/// # Errors
/// [`Error::Io`], or [`Error::File`] naming line, key and what is wrong with it.
pub fn read_config<C: DeserializeOwned>(path: impl AsRef<Path>) -> Result<C> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    toml::from_str(&text).map_err(|e| Error::file(path, "config", e.to_string()))
}

/// `base` with the settings of a TOML file over it, key by key: what the file leaves out stays as it is.
///
/// A table that says another `kind` than that of `base` replaces it: the kinds have different keys.
///
/// # Errors
/// [`Error::Io`], or [`Error::File`] naming the key and what is wrong with it.
pub fn overlay_config<C: Serialize + DeserializeOwned>(base: &C, path: impl AsRef<Path>) -> Result<C> {
    let path = path.as_ref();
    let bad = |e: &dyn std::fmt::Display| Error::file(path, "config", e.to_string());
    let mut table = toml::Table::try_from(base).map_err(|e| bad(&e))?;
    overlay(&mut table, read_config(path)?);
    table.try_into().map_err(|e: toml::de::Error| bad(&e))
}

fn overlay(base: &mut toml::Table, over: toml::Table) {
    use toml::Value::Table;
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Table(old)), Table(new))
                if new.get("kind").is_none_or(|kind| old.get("kind") == Some(kind)) =>
            {
                overlay(old, new);
            }
            (_, value) => drop(base.insert(key, value)),
        }
    }
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

fn first_difference(before: &str, now: &str) -> String {
    let mut pairs = before.lines().zip(now.lines());
    let pair = pairs.find(|(a, b)| a != b).unwrap_or(("fewer settings", "more settings"));
    format!("was `{}`, is `{}`", pair.0, pair.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        steps: u64,
        rate: f64,
    }

    #[test]
    fn a_run_resumes_with_more_steps_but_not_with_another_rate() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path(), Config { steps: 2, rate: 0.5 }).unwrap();
        assert!(RunFolder::create(folder.path(), run.config.clone()).is_err(), "the folder is taken");
        let mut writer = CheckpointWriter::new(folder.path(), 1).unwrap();
        run.save(&mut writer).unwrap();
        writer.finish(&serde_json::json!({})).unwrap();

        let resumed = RunFolder::<Config>::resume(folder.path(), |c| c.steps = 4).unwrap();
        assert_eq!((resumed.config.steps, resumed.checkpoint.unwrap().step()), (4, 1));
        let text = std::fs::read_to_string(folder.path().join(CONFIG)).unwrap();
        std::fs::write(folder.path().join(CONFIG), text.replace("0.5", "0.25")).unwrap();
        let error = RunFolder::<Config>::resume(folder.path(), |_| ()).unwrap_err().to_string();
        assert!(
            error.contains("was `steps = 2`") || error.contains("was `rate = 0.5`, is `rate = 0.25`"),
            "{error}"
        );
    }

    #[test]
    fn a_file_over_a_base_changes_what_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        let base: toml::Table =
            toml::from_str("a = 1\n[b]\nc = 2\nd = 3\n[e]\nkind = \"x\"\nn = 1\n[f]\nkind = \"x\"\nn = 1\n")
                .unwrap();
        std::fs::write(&path, "[b]\nd = 4\n[e]\nkind = \"y\"\nm = 2\n[f]\nkind = \"x\"\nn = 3\n").unwrap();
        let want = "a = 1\n[b]\nc = 2\nd = 4\n[e]\nkind = \"y\"\nm = 2\n[f]\nkind = \"x\"\nn = 3\n";
        assert_eq!(overlay_config(&base, &path).unwrap(), toml::from_str::<toml::Table>(want).unwrap());
        std::fs::write(&path, "rat = 2.0\n").unwrap();
        let error = overlay_config(&Config { steps: 2, rate: 0.5 }, &path).unwrap_err().to_string();
        assert!(error.contains("c.toml") && error.contains("rat"), "{error}");
    }

    #[test]
    fn unknown_keys_are_named_with_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "steps = 1\nrate = 1.0\nrat = 2.0\n").unwrap();
        let error = read_config::<Config>(&path).unwrap_err().to_string();
        assert!(error.contains("c.toml") && error.contains("rat"), "{error}");
    }
}
