//! Stands for `named.rs` in a build without published models.

use std::path::PathBuf;

use crate::Result;

/// No name is known.
pub(crate) fn file(_name: &str) -> Result<Option<PathBuf>> {
    Ok(None)
}

/// The feature that is missing.
pub(crate) fn known() -> String {
    "named models need the feature `models`".to_owned()
}
