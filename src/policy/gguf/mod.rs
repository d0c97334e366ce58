//! GGUF, the file format of llama.cpp: one file with a model's weights, configuration, tokenizer
//! and chat template.
//!
//! A GGUF file is read as a model checkpoint in Hugging Face's layout: its metadata becomes the
//! texts of `config.json`, `tokenizer.json` and so on, its tensors get their names and row order
//! there. So everything that takes a model checkpoint takes a GGUF file too, and can write it back
//! in either layout.

pub(crate) mod config;
#[cfg(feature = "text")]
pub(crate) mod export;
#[cfg(feature = "text")]
pub(crate) mod export_tokenizer;
pub(crate) mod file;
pub(crate) mod header;
pub(crate) mod metadata;
pub(crate) mod names;
pub(crate) mod rope;
pub(crate) mod tensors;
pub(crate) mod texts;
pub(crate) mod tokenizer;
pub(crate) mod types;
#[cfg(feature = "text")]
pub(crate) mod write;

#[cfg(feature = "text")]
pub use export::GgufType;
pub use file::GgufFile;
