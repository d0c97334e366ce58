//! The tasks of the two worlds as `[environment]` of a run: which are learned on, which evaluated on, what is cloned first.

#[cfg(feature = "alfworld")]
mod alfworld;
mod benchmark;
#[cfg(feature = "scienceworld")]
mod scienceworld;

pub use benchmark::Benchmark;

#[cfg(feature = "alfworld")]
pub use alfworld::{AlfWorldTasks, GameSource};
#[cfg(feature = "scienceworld")]
pub use scienceworld::ScienceWorldTasks;
