//! Checkpoints in Hugging Face's layout: a folder or a repository of the hub, read and written.

pub(crate) mod checkpoint;
pub(crate) mod generation;
pub(crate) mod index;
pub(crate) mod weights;

pub use checkpoint::Pretrained;
pub use generation::GenerationConfig;
