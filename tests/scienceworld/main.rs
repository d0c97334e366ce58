//! Tests against the real simulator and recorded transcripts; skipped with a message without it.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "scienceworld")]

mod engine;
mod faults;
mod limits;
mod machine;
mod simulator;
mod transcript;
