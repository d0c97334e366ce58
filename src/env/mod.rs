//! Text environments: the [`Environment`] trait, the benchmarks behind it and a toy one for tests.
//!
//! Rollouts and trainers see nothing but the trait, so a user's own environment trains like the
//! built-in ones. Tasks, observations and rewards are plain structs that serialise.

#[cfg(feature = "alfworld")]
#[cfg_attr(docsrs, doc(cfg(feature = "alfworld")))]
pub mod alfworld;
pub(crate) mod choices;
pub(crate) mod demonstration;
pub(crate) mod environment;
#[cfg(feature = "alfworld")]
#[cfg_attr(docsrs, doc(cfg(feature = "alfworld")))]
pub mod household;
#[cfg(feature = "scienceworld")]
#[cfg_attr(docsrs, doc(cfg(feature = "scienceworld")))]
pub mod scienceworld;
pub(crate) mod toy;

pub use choices::{show_admissible, ShowAdmissible};
pub use demonstration::{DemonstratedTurn, Demonstration, Demonstrations, Unsolved};
pub use environment::{Environment, Start, Step, Task};
pub use toy::ToyEnvironment;
