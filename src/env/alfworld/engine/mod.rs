//! Grounded games and how they are played.

pub(crate) mod bits;
pub(crate) mod commands;
pub(crate) mod facts;
pub(crate) mod fields;
pub(crate) mod files;
pub(crate) mod game;
pub(crate) mod ground;
pub(crate) mod key;
pub(crate) mod left_out;
pub(crate) mod library;
pub(crate) mod logic;
pub(crate) mod matching;
pub(crate) mod operators;
pub(crate) mod play;
pub(crate) mod relations;
pub(crate) mod solvable;
pub(crate) mod state;
pub(crate) mod text;

#[cfg(test)]
mod state_tests;
