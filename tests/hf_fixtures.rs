//! Checkpoints and conversations against Hugging Face transformers.
//!
//! `EPO_HF_FIXTURES` names a folder that `scripts/hf_fixtures.py` has written; without it the small set under
//! `tests/fixtures/hf` is used. With it, the checkpoints are also saved again under its `reloaded` folder, which
//! `scripts/hf_fixtures.py --check` compares with the originals.

#![allow(clippy::unwrap_used)]

#[path = "hf/mod.rs"]
mod hf;
