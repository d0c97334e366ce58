//! Helpers of the tests.

#[cfg(feature = "transformers")]
mod candle;
#[cfg(feature = "text")]
mod chats;
mod faults;
#[cfg(feature = "hub")]
mod hub;
mod models;
#[cfg(feature = "text")]
mod prompts;
#[cfg(feature = "text")]
mod properties;
#[cfg(feature = "text")]
mod templates;
#[cfg(feature = "text")]
mod tokenizers;

use epo::policy::{Decoder, Parameters, Pretrained};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The small set of fixtures in the repository.
pub(crate) fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf")
}

/// The folder of the fixtures, and true if it is a generated one.
pub(crate) fn root() -> (PathBuf, bool) {
    match std::env::var_os("EPO_HF_FIXTURES") {
        Some(path) => (path.into(), true),
        None => (committed(), false),
    }
}

pub(crate) fn json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[derive(Deserialize)]
pub(crate) struct Index {
    pub(crate) cases: Vec<String>,
    #[cfg_attr(not(feature = "text"), allow(dead_code))]
    pub(crate) styles: Vec<String>,
    pub(crate) adapters: Vec<String>,
}

/// Folder and name of every checkpoint.
pub(crate) fn cases() -> Vec<(PathBuf, String)> {
    let (root, _) = root();
    let index: Index = json(&root.join("index.json"));
    assert!(index.cases.len() >= 9);
    index.cases.into_iter().map(|name| (root.join(&name), name)).collect()
}

/// Copies a committed fixture into a temporary folder.
pub(crate) fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(committed().join(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

pub(crate) fn decoder(pretrained: &Pretrained, parameters: &Parameters) -> Decoder {
    Decoder::new(pretrained.config(), parameters).unwrap()
}
