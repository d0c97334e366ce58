//! The crate's one error type: every variant carries the values that were wrong.

use std::path::{Path, PathBuf};

/// What every fallible function of the crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, with the values that were wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// A setting is outside its range or contradicts another one.
    #[error("setting `{field}` = {value}: {reason}")]
    Setting {
        /// The setting's name, dotted where it is nested (`entropy.kappa_low`).
        field: String,
        /// The rejected value.
        value: String,
        /// What would be accepted.
        reason: String,
    },

    /// A tensor or slice has the wrong shape.
    #[error("`{name}` has shape {got:?}, expected {expected}")]
    Shape {
        /// Which argument.
        name: &'static str,
        /// The shape it should have, in words.
        expected: String,
        /// The shape it has.
        got: Vec<usize>,
    },

    /// A NaN or an infinity where a finite number is required.
    #[error("`{name}` is {value} at {at}")]
    NonFinite {
        /// Which quantity.
        name: String,
        /// The offending value.
        value: f64,
        /// Where it is (index, parameter name or step).
        at: String,
    },

    /// A mask selects nothing, so a mean over it is undefined.
    #[error("`{name}` selects no token: {at}")]
    EmptyMask {
        /// Which mask.
        name: &'static str,
        /// Where (row, turn or batch).
        at: String,
    },

    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },

    /// A file's content is not what it should be.
    #[error("{}: `{field}`: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The field, tensor or line.
        field: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A file of the Hugging Face hub could not be had.
    #[cfg(feature = "hub")]
    #[error("{repo}: {file}: {endpoint}: {reason}")]
    Hub {
        /// The repository and its branch, tag or commit: `owner/name at main`.
        repo: String,
        /// The file in it.
        file: String,
        /// The hub's address.
        endpoint: String,
        /// What went wrong, and what could be done.
        reason: String,
    },

    /// An error of a world's own type, such as `SimulatorError` or `AlfworldError`: downcast it to get that back.
    #[error(transparent)]
    World(Box<dyn std::error::Error + Send + Sync>),

    /// An environment refused a call.
    #[error("environment `{environment}`: {what} = {value:?}: {reason}")]
    Environment {
        /// The environment's name.
        environment: &'static str,
        /// The argument that was refused.
        what: &'static str,
        /// Its value.
        value: String,
        /// Why, and what would be accepted.
        reason: String,
    },
}

impl Error {
    /// An error of a world's own type.
    pub fn world(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::World(Box::new(error))
    }

    /// A rejected setting.
    pub fn setting(
        field: impl Into<String>,
        value: impl ToString,
        reason: impl Into<String>,
    ) -> Self {
        Self::Setting { field: field.into(), value: value.to_string(), reason: reason.into() }
    }

    /// A failed file operation.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// A file whose content is wrong.
    pub fn file(
        path: impl AsRef<Path>,
        field: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), field: field.into(), reason: reason.into() }
    }
}
