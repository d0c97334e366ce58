//! The benchmarks' tasks as the `[environment]` table of a run, with their presets: tasks to train
//! on, evaluation sets, and demonstrations.

#[cfg(feature = "alfworld")]
mod alfworld;
mod benchmark;
#[cfg(feature = "alfworld")]
mod games;
#[cfg(any(feature = "alfworld", feature = "scienceworld"))]
mod paper;
#[cfg(feature = "scienceworld")]
mod scienceworld;

pub use benchmark::Benchmark;

#[cfg(feature = "alfworld")]
pub use alfworld::AlfWorldTasks;
#[cfg(feature = "alfworld")]
pub use games::GameSource;
#[cfg(feature = "scienceworld")]
pub use scienceworld::ScienceWorldTasks;
