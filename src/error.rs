//! The crate's error type.
//!
//! Every variant carries the value that is wrong and the place where it is, so that a message alone
//! is enough to fix the cause: the dotted name of a setting, the file and its field, or the tensor
//! and its shape.

use std::path::{Path, PathBuf};

/// Result of the crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error of any function of the crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error("{0}{hint}", hint = memory_hint(.0))]
    Candle(candle_core::Error),

    /// A setting is outside its range or contradicts another setting.
    #[error("setting `{field}` = {value}: {reason}")]
    Setting {
        /// The dotted name of the setting (`entropy.kappa_low`).
        field: String,
        /// The rejected value.
        value: String,
        /// The accepted values, or the contradiction.
        reason: String,
    },

    /// A tensor or slice has the wrong shape.
    #[error("`{name}` has shape {got:?}, expected {expected}")]
    Shape {
        /// The argument.
        name: &'static str,
        /// The expected shape, in words.
        expected: String,
        /// The actual shape.
        got: Vec<usize>,
    },

    /// A number that must be finite is NaN or infinite.
    #[error("`{name}` is {value} at {at}")]
    NonFinite {
        /// The quantity.
        name: String,
        /// Its value.
        value: f64,
        /// The place: index, parameter name or step.
        at: String,
    },

    /// A mask selects no token, so that a mean over it is undefined.
    #[error("`{name}` selects no token: {at}")]
    EmptyMask {
        /// The mask.
        name: &'static str,
        /// The place: row, turn or batch.
        at: String,
    },

    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },

    /// The content of a file is invalid.
    #[error("{}: `{field}`: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The field, tensor or line.
        field: String,
        /// The problem.
        reason: String,
    },

    /// Fetching a file from the Hugging Face Hub failed.
    #[cfg(feature = "hub")]
    #[error("{repo}: {file}: {endpoint}: {reason}")]
    Hub {
        /// The repository and its branch, tag or commit: `owner/name at main`.
        repo: String,
        /// The file in the repository.
        file: String,
        /// The address of the Hub.
        endpoint: String,
        /// The problem and possible fixes.
        reason: String,
    },

    /// An error of an environment's own type, such as `SimulatorError` or `AlfworldError`; downcast
    /// it to get that type.
    #[error(transparent)]
    World(Box<dyn std::error::Error + Send + Sync>),

    /// An environment rejected a call.
    #[error("environment `{environment}`: {what} = {value:?}: {reason}")]
    Environment {
        /// The name of the environment.
        environment: &'static str,
        /// The rejected argument.
        what: &'static str,
        /// Its value.
        value: String,
        /// The reason and the accepted values.
        reason: String,
    },
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error)
    }
}

/// Which settings need less memory, if a device has none left.
fn memory_hint(error: &candle_core::Error) -> &'static str {
    if error.to_string().contains("OUT_OF_MEMORY") {
        "\nThe device's memory is full. A smaller `update.micro_batch_tokens` or \
         `model.checkpointing = true` needs less for activations, `--lora 16` or `--dtype bf16` \
         less for weights and their optimiser, and fewer `environments` less for the KV cache."
    } else {
        ""
    }
}

impl Error {
    /// Wraps an error of an environment's own type.
    pub fn world(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::World(Box::new(error))
    }

    /// Creates the error of a rejected setting.
    pub fn setting(
        field: impl Into<String>,
        value: impl ToString,
        reason: impl Into<String>,
    ) -> Self {
        Self::Setting { field: field.into(), value: value.to_string(), reason: reason.into() }
    }

    /// Adds the table of a setting in front of its name, so that the name is the path in the file.
    ///
    /// Other errors stay as they are.
    ///
    /// ```
    /// let error = epo::Error::setting("beta1", 1.0, "must be in [0, 1)").within("optimizer");
    /// assert_eq!(error.to_string(), "setting `optimizer.beta1` = 1: must be in [0, 1)");
    /// ```
    #[must_use]
    pub fn within(self, table: &str) -> Self {
        match self {
            Self::Setting { field, value, reason } => {
                Self::Setting { field: format!("{table}.{field}"), value, reason }
            }
            other => other,
        }
    }

    /// Creates the error of a failed file operation.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// Creates the error of a file with invalid content.
    pub fn file(
        path: impl AsRef<Path>,
        field: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), field: field.into(), reason: reason.into() }
    }
}
