//! The hyper-parameters of a decoder, read from and written as a Hugging Face `config.json`.

pub(crate) mod decoder_config;
pub(crate) mod family;
pub(crate) mod fields;
pub(crate) mod json;
pub(crate) mod rejected;
pub(crate) mod rope;

pub use decoder_config::DecoderConfig;
pub use family::Family;
pub use rope::RopeScaling;
