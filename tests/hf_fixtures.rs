//! Model checkpoints and chat templates, compared with Hugging Face transformers.
//!
//! The environment variable `EPO_HF_FIXTURES` names a folder written by `scripts/hf_fixtures.py`;
//! the default is the small set under `tests/fixtures/hf`. With the variable, the checkpoints are
//! also saved again under the folder's `reloaded`, for `scripts/hf_fixtures.py --check` to compare.

#![allow(clippy::unwrap_used)]

#[path = "hf/mod.rs"]
mod hf;
