//! Tests of the ALFWorld engine, of its expert, and against transcripts of the official engine.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "alfworld")]

mod engine;
mod fuzz;
mod moved;
mod search;
mod transcript;
