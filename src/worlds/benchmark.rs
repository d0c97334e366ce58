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

    /// The settings of a run of less than two minutes that goes through everything
    /// ([`TrainConfig::smoke`]).
    fn smoke(config: TrainConfig<Self>) -> TrainConfig<Self>;

    /// Checks the table, before a run folder exists.
    ///
    /// # Errors
    /// The first setting that does not fit.
    fn check(&self) -> Result<()>;

    /// Records in the table of a new run what a resumed run must find again.
    ///
    /// # Errors
    /// Files of the benchmark that cannot be read.
    fn complete(&mut self) -> Result<()> {
        Ok(())
    }

    /// Changes where the files of a resumed run are; `sets` are the `KEY=VALUE` of its command
    /// line.
    ///
    /// # Errors
    /// [`Error::Setting`] for any other change.
    fn relocate(&mut self, sets: &[String]) -> Result<()> {
        match sets.first() {
            None => Ok(()),
            Some(set) => Err(Error::setting("--set", set, "a resumed run keeps its settings")),
        }
    }
}
