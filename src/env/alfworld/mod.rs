//! ALFWorld's text games, natively: the rules and the texts come from the game file itself.
//!
//! A game file holds a PDDL domain (what can be done), a PDDL problem (a household and a goal) and a grammar (what
//! the game says). [`Library`] loads it into a [`Game`], with every action grounded once; [`Play`] plays it.
//! Commands, observations and wins are those of TextWorld 1.7.0 with ALFWorld 0.4.2.

pub(crate) mod engine;
pub(crate) mod environment;
pub(crate) mod error;
pub(crate) mod grammar;
pub(crate) mod pddl;
pub(crate) mod search;
pub(crate) mod task;

pub use engine::files::{data_folder, game_files, GameFile};
pub use engine::game::{Fact, Game};
pub use engine::library::Library;
pub use engine::play::{Outcome, Play};
pub use engine::state::{OperatorId, State};
pub use environment::{AlfWorld, DataFolder, Games};
pub use error::{AlfworldError, Part, Result};
pub use search::demonstrate::expert_demonstrations;
pub use search::expert::Expert;
pub use task::{Split, TaskType};
