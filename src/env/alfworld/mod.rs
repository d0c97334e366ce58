//! ALFWorld's text games, played in-process by a native engine.
//!
//! A game file holds a PDDL domain (the actions), a PDDL problem (a household and a goal) and a
//! text grammar (the observations). [`Library`] loads it into a [`Game`] with every operator
//! grounded; [`Play`] plays it. The engine knows nothing about ALFWorld's domain: rules and texts
//! come from the file alone. Commands, observations and wins are those of TextWorld 1.7.0 with
//! ALFWorld 0.4.2.

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
