//! The real simulator, and files of what it said; skipped with a message where it cannot be had.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "scienceworld")]

mod engine;
mod faults;
mod simulator;
mod transcript;
