//! ALFWorld's text games, natively: the rules and the texts come from the game file itself.
//!
//! A game file holds a PDDL domain (what can be done), a PDDL problem (a household and a goal) and a grammar (what
//! the game says). [`Library`] loads it into a [`Game`], with every action grounded once; [`Play`] plays it.
//! Commands, observations and wins are those of TextWorld 1.7.0 with ALFWorld 0.4.2.

mod bits;
mod chars;
mod commands;
mod compile;
mod condition;
mod demonstrate;
mod document;
mod domain;
mod environment;
mod error;
mod expert;
mod facts;
mod fields;
mod files;
mod game;
mod grammar;
mod ground;
mod index;
mod join;
mod library;
mod objects;
mod operators;
#[cfg(test)]
mod parser_tests;
mod planner;
mod play;
mod problem;
mod query;
mod relations;
mod relaxed;
mod sexpr;
mod state;
#[cfg(test)]
mod state_tests;
mod symbols;
mod task;
mod text;
mod texts;
mod types;
mod value;

pub use demonstrate::expert_demonstrations;
pub(crate) use environment::{family, parse_family, Recent};
pub use environment::{AlfWorld, DataFolder, Games};
pub use error::{AlfworldError, Part, Result};
pub use expert::Expert;
pub use files::{data_folder, game_files, GameFile};
pub use game::{Fact, Game};
pub use library::Library;
pub use planner::shortest_plan;
pub use play::{Outcome, Play};
pub use state::{OperatorId, State};
pub use task::{Split, TaskType};
