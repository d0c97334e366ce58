//! ALFWorld's games: the engine, its expert, and files of what the official one said.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "alfworld")]

mod engine;
mod fuzz;
mod search;
mod transcript;
