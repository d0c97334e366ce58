//! Text environments: the trait every trainer of the crate plays through, and a toy one for tests.

#[cfg(feature = "alfworld")]
#[cfg_attr(docsrs, doc(cfg(feature = "alfworld")))]
pub mod alfworld;
pub(crate) mod choices;
#[cfg(feature = "alfworld")]
#[cfg_attr(docsrs, doc(cfg(feature = "alfworld")))]
pub mod household;
#[cfg(feature = "scienceworld")]
#[cfg_attr(docsrs, doc(cfg(feature = "scienceworld")))]
pub mod scienceworld;
pub(crate) mod toy;

pub use choices::{show_admissible, ShowAdmissible};
pub use toy::ToyEnvironment;

use crate::Result;

/// Which episode to play: a task family and one variation of it.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Task {
    /// The family, as the environment names it (`"boil"`, a game file, …).
    pub name: String,
    /// The variation inside the family.
    pub variation: u32,
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.name, self.variation)
    }
}

/// What the agent is told when an episode begins.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Start {
    /// What is to be done.
    pub goal: String,
    /// The first observation.
    pub observation: String,
}

/// What one action brought.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// What the agent sees now.
    pub observation: String,
    /// The score gained by this action, in the environment's own points.
    pub reward: f64,
    /// The score so far, in the environment's own points.
    pub score: f64,
    /// The episode is over; further actions are errors.
    pub done: bool,
    /// The task is solved: never "the clock ran out with some points".
    pub success: bool,
    /// The environment understood the action (it need not have had an effect).
    pub valid: bool,
}

/// A solved episode to imitate.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Demonstration {
    /// The task.
    pub task: Task,
    /// Goal and first observation.
    pub start: Start,
    /// Each action and what it brought, up to the episode's end.
    pub turns: Vec<DemonstratedTurn>,
}

/// One turn of a [`Demonstration`].
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DemonstratedTurn {
    /// The action.
    pub action: String,
    /// What it brought.
    pub step: Step,
    /// The action is to be imitated, and not a mistake that the next turns put right.
    pub imitated: bool,
}

/// A multi-turn text environment.
///
/// Object-safe and `Send`: trainers hold `Box<dyn Environment>`, one per concurrent episode.
pub trait Environment: Send {
    /// Begins an episode of `task`, dropping the one in progress.
    ///
    /// # Errors
    /// An unknown task or variation, or a simulator that cannot be brought back.
    fn reset(&mut self, task: &Task) -> Result<Start>;

    /// Plays `action`.
    ///
    /// # Errors
    /// No episode in progress, or a simulator that cannot be brought back. A nonsensical action is not
    /// an error: the environment answers it with an observation.
    fn step(&mut self, action: &str) -> Result<Step>;

    /// The actions admissible now, sorted.
    ///
    /// # Errors
    /// As [`Environment::step`].
    fn admissible(&mut self) -> Result<Vec<String>>;

    /// Whether a call may wait for another process. Environments that do are called at the same time, the
    /// others one after another: a thread would cost more than their answer.
    fn waits(&self) -> bool {
        true
    }

    /// How often a process behind this environment was replaced so far (0 for in-process environments).
    fn restarts(&self) -> u64 {
        0
    }
}
