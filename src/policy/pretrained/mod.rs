//! Model checkpoints in Hugging Face's layout, read and written.
//!
//! A checkpoint is checked against its configuration from the headers of the weight files, before
//! any weights are read: every tensor must exist exactly once, with the right shape and a float
//! dtype, and nothing may be left over. Weights are then read one tensor at a time, so that loading
//! needs no second copy of the model in memory.

pub(crate) mod checkpoint;
pub(crate) mod formats;
pub(crate) mod generation;
pub(crate) mod index;
pub(crate) mod names;
pub(crate) mod weights;

pub use checkpoint::Pretrained;
pub use generation::GenerationConfig;
