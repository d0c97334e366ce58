//! GGUF files: a published one compared with other programs, written ones, and damaged ones.

#![allow(clippy::unwrap_used)]

#[path = "gguf/faults.rs"]
mod faults;
#[path = "gguf/fuzz.rs"]
mod fuzz;
#[path = "gguf/published.rs"]
mod published;
#[path = "gguf/tiny.rs"]
mod tiny;
#[path = "gguf/written.rs"]
mod written;
