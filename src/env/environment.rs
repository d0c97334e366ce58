//! The trait of all environments, and the types that its methods take and return.

use crate::Result;

/// A task: a task family and one variation of it.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Task {
    /// The family's name in its environment (`"boil"`, the path of a game file, …).
    pub name: String,
    /// The variation within the family.
    pub variation: u32,
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.name, self.variation)
    }
}

/// The goal and first observation of an episode.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Start {
    /// The goal, in words.
    pub goal: String,
    /// The first observation.
    pub observation: String,
}

/// The result of one action.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// The observation after the action.
    pub observation: String,
    /// The change of the score by this action, in the environment's points.
    pub reward: f64,
    /// The score so far, in the environment's points.
    pub score: f64,
    /// True if the episode is over; further actions are errors.
    pub done: bool,
    /// True if the task is solved; running out of time with some points is not success.
    pub success: bool,
    /// True if the environment understood the action, even if it had no effect.
    pub valid: bool,
}

/// A multi-turn text environment.
///
/// Object-safe and `Send`: trainers hold one `Box<dyn Environment>` per concurrent episode.
pub trait Environment: Send {
    /// Starts an episode of `task` and drops the one in progress.
    ///
    /// # Errors
    /// An unknown task or variation, or a simulator that fails and cannot be restarted.
    fn reset(&mut self, task: &Task) -> Result<Start>;

    /// Plays `action`.
    ///
    /// # Errors
    /// No episode in progress, or a simulator that fails and cannot be restarted. A nonsensical
    /// action is not an error: it gets an observation like any other.
    fn step(&mut self, action: &str) -> Result<Step>;

    /// Returns the actions that are admissible now, sorted.
    ///
    /// # Errors
    /// The same as [`Environment::step`].
    fn admissible(&mut self) -> Result<Vec<String>>;

    /// Returns true if calls may wait for another process.
    ///
    /// Such environments are called in parallel, one thread each. All others are called in turn:
    /// starting a thread would take longer than the call.
    fn waits(&self) -> bool {
        true
    }

    /// Returns how often a process behind this environment has been replaced (0 without one).
    fn restarts(&self) -> u64 {
        0
    }
}
