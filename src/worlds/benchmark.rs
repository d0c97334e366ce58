//! The part of a benchmark that every trainer's command line needs.

use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::train::config::algorithm::Algorithm;
use crate::train::config::presets::Preset;
use crate::train::config::run::TrainConfig;
use crate::{Error, Result};

/// The `[environment]` table of a benchmark, with its presets.
pub trait Benchmark: Sized + Serialize + DeserializeOwned {
    /// The settings called `preset`.
    fn preset(preset: Preset, algorithm: Algorithm) -> TrainConfig<Self>;

    /// The settings of a run of less than two minutes that goes through everything.
    fn smoke(config: TrainConfig<Self>) -> TrainConfig<Self>;

    /// Checks the table, before a run folder exists.
    ///
    /// # Errors
    /// The first setting that does not fit.
    fn check(&self) -> Result<()>;
}

/// Checks that `environment.tasks` names at least one, and each once.
pub(crate) fn check_tasks<T: PartialEq + ToString>(tasks: &[T]) -> Result<()> {
    const KEY: &str = "environment.tasks";
    if tasks.is_empty() {
        return Err(Error::setting(KEY, "[]", "must name at least one"));
    }
    for (i, task) in tasks.iter().enumerate() {
        if tasks[..i].contains(task) {
            return Err(Error::setting(KEY, task.to_string(), "is named twice"));
        }
    }
    Ok(())
}
