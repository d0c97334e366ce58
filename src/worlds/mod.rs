//! The tasks of the two worlds as `[environment]` of a run: which are learned on, which evaluated on, what is cloned first.

#[cfg(feature = "alfworld")]
mod alfworld;
#[cfg(feature = "scienceworld")]
mod scienceworld;

#[cfg(feature = "alfworld")]
pub use alfworld::AlfWorldTasks;
#[cfg(feature = "scienceworld")]
pub use scienceworld::ScienceWorldTasks;
