//! The settings of a run: one struct, presets for it, and the file and command line over a preset.

pub(crate) mod algorithm;
pub(crate) mod layers;
pub(crate) mod model;
pub(crate) mod presets;
pub(crate) mod run;
pub(crate) mod update;

pub use algorithm::{Algorithm, AlgorithmConfig};
pub use model::{CheckpointConfig, DeviceKind, ModelConfig, SmallConfig, WeightType};
pub use presets::Preset;
pub use run::{DumpConfig, NoSettings, TrainConfig};
pub use update::UpdateConfig;
