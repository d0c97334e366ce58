//! The examples' binaries as a user meets them.
//!
//! `cargo test` builds them; to run these tests alone: `cargo build --examples && cargo test
//! --test examples`.
#![allow(clippy::unwrap_used)]
#![cfg(all(feature = "alfworld", feature = "scienceworld", feature = "text", unix))]

mod alfworld;
mod example;
mod method;
mod options;
mod scienceworld;
#[path = "../scienceworld/simulator.rs"]
mod simulator;
mod surroundings;
mod tools;
