//! The fields of a game file, and how the file is read.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::env::alfworld::error::{AlfworldError, Result};

/// The name of a game file.
pub(crate) const GAME_FILE: &str = "game.tw-pddl";
/// The largest accepted game file, in bytes; ALFWorld's have up to 140 kB.
pub(crate) const MAX_FILE: u64 = 4 << 20;

/// The fields of a game file that the engine uses; others are ignored.
#[derive(Deserialize)]
pub(crate) struct Fields {
    pub(crate) pddl_domain: String,
    pub(crate) grammar: String,
    pub(crate) pddl_problem: String,
    pub(crate) solvable: Option<bool>,
    pub(crate) walkthrough: Option<Vec<String>>,
}

impl Fields {
    /// Parses the JSON text of a game file; `file` names it in errors.
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| AlfworldError::Json {
            file: file.to_owned(),
            line: error.line(),
            column: error.column(),
            reason: error.to_string(),
        })
    }
}

/// Reads the text of a game file; `name` names it in errors.
pub(crate) fn read_file(path: &Path, name: &str) -> Result<String> {
    let io = |source| AlfworldError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    if size > MAX_FILE {
        return Err(AlfworldError::FileSize { file: name.to_owned(), size, limit: MAX_FILE });
    }
    let mut text = String::with_capacity(size as usize + 1);
    file.take(MAX_FILE).read_to_string(&mut text).map_err(io)?;
    Ok(text)
}
