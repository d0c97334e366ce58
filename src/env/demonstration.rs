//! Solved episodes to imitate.

use crate::env::environment::{Environment, Start, Step, Task};
use crate::Result;

/// A solved episode to imitate.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Demonstration {
    /// The task.
    pub task: Task,
    /// Goal and first observation.
    pub start: Start,
    /// The actions and their results, up to the end of the episode.
    pub turns: Vec<DemonstratedTurn>,
}

/// One turn of a [`Demonstration`].
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DemonstratedTurn {
    /// The action.
    pub action: String,
    /// Its result.
    pub step: Step,
    /// False for a deliberate mistake, which the agent sees but does not imitate.
    pub imitated: bool,
}

impl Demonstration {
    /// Plays the same actions in `environment` and returns its observations and rewards.
    ///
    /// # Errors
    /// An error of `environment`.
    pub fn replay(&self, environment: &mut dyn Environment) -> Result<Self> {
        let start = environment.reset(&self.task)?;
        let turn = |turn: &DemonstratedTurn| {
            Ok(DemonstratedTurn { step: environment.step(&turn.action)?, ..turn.clone() })
        };
        let turns = self.turns.iter().map(turn).collect::<Result<_>>()?;
        Ok(Self { task: self.task.clone(), start, turns })
    }
}
