//! The hyper-parameters of a decoder, read from and written as a Hugging Face `config.json`.
//!
//! The reader is strict. A model that is run with slightly different maths than it was trained with
//! does not crash, it only performs worse, and nobody can tell why. So every field is either
//! applied, known to have no effect on the forward pass, or an error; an unknown field is an error
//! because it might change the model, unless the settings let it pass.

pub(crate) mod decoder_config;
pub(crate) mod family;
pub(crate) mod fields;
pub(crate) mod ignored;
pub(crate) mod json;
pub(crate) mod keys;
pub(crate) mod rejected;
pub(crate) mod rope;
pub(crate) mod rope_json;
pub(crate) mod windows;

pub use decoder_config::DecoderConfig;
pub use family::Family;
pub use rope::RopeScaling;
