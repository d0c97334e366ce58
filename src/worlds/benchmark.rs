//! The part of a benchmark that every trainer's command line needs.

use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::train::config::algorithm::Algorithm;
use crate::train::config::presets::Preset;
use crate::train::config::run::TrainConfig;
use crate::Result;

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
