//! Errors of game files, of folders of games and of texts.

use std::path::PathBuf;

/// The result type of the engine.
pub type Result<T, E = AlfworldError> = std::result::Result<T, E>;

/// An error of the engine, with the file, the place and the value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AlfworldError {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The data folder is unknown: `ALFWORLD_DATA` is not set and there is no home folder.
    #[error(
        "ALFWORLD_DATA is not set, and there is no home folder that could hold .cache/alfworld; \
         set ALFWORLD_DATA to the folder of the games"
    )]
    NoDataFolder,
    /// A folder holds no game of the requested split and task types.
    #[error(
        "{}: no playable game.tw-pddl ({wanted}) in this folder or below{}{advice}",
        path.display(),
        if advice.is_empty() { "" } else { "; " }
    )]
    NoGames {
        /// The folder.
        path: PathBuf,
        /// The requested split and task types.
        wanted: String,
        /// The games that were left out, by reason, and a folder with games; may be empty.
        advice: String,
    },
    /// A task type is unknown.
    #[error("unknown task type `{name}`; the types are: {valid}")]
    UnknownTaskType {
        /// The rejected name.
        name: String,
        /// Every accepted name.
        valid: String,
    },
    /// A split is unknown.
    #[error("unknown split `{name}`; the splits are: {valid}")]
    UnknownSplit {
        /// The rejected name.
        name: String,
        /// Every accepted name.
        valid: String,
    },
    /// The expert does not understand the sentence of a task.
    #[error(
        "task `{sentence}`: the expert knows only the sentences of ALFWorld's templates and of \
         household games"
    )]
    UnknownTask {
        /// The sentence.
        sentence: String,
    },
    /// A file is too large for a game.
    #[error("{file}: {size} bytes; a game file must have at most {limit}")]
    FileSize {
        /// The file.
        file: String,
        /// Its size in bytes.
        size: u64,
        /// The largest accepted size in bytes.
        limit: u64,
    },
    /// A file is not a JSON object with the fields of a game.
    #[error("{file}:{line}:{column}: not a game: {reason}")]
    Json {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// The reason.
        reason: String,
    },
    /// A text inside a game file cannot be parsed.
    #[error("{file}: {part}:{line}:{column}: `{token}`: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// The text in the file.
        part: Part,
        /// The line inside that text, from 1.
        line: usize,
        /// The column inside that line, from 1.
        column: usize,
        /// The offending token.
        token: String,
        /// The reason.
        reason: String,
    },
    /// A game cannot be won: the file says so, or no sequence of actions reaches the goal.
    #[error("{file}: unsolvable: {reason}")]
    Unsolvable {
        /// The file.
        file: String,
        /// The reason.
        reason: String,
    },
    /// A game exceeds a limit of the engine.
    #[error("{file}: more than {limit} {what}")]
    TooMany {
        /// The file.
        file: String,
        /// The counted items.
        what: &'static str,
        /// The largest accepted number.
        limit: usize,
    },
    /// The grammar cannot derive a text.
    #[error("{file}: grammar: `{token}`: {reason}")]
    Text {
        /// The file.
        file: String,
        /// The variable or non-terminal that failed.
        token: String,
        /// The reason.
        reason: String,
    },
}

/// A text inside a game file, by the name of its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The field `pddl_domain`.
    Domain,
    /// The field `grammar`.
    Grammar,
    /// The field `pddl_problem`.
    Problem,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Domain => "pddl_domain",
            Self::Grammar => "grammar",
            Self::Problem => "pddl_problem",
        })
    }
}

/// A text being parsed, and its origin.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'a str,
    pub(crate) part: Part,
    pub(crate) text: &'a str,
}

impl Source<'_> {
    /// The largest number of characters of a token shown in an error.
    const SHOWN: usize = 80;

    /// Creates an error at the bytes `start..end` of the text.
    pub(crate) fn error(
        &self,
        start: usize,
        end: usize,
        reason: impl Into<String>,
    ) -> AlfworldError {
        let before = self.text.get(..start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let token = self.text.get(start..end).unwrap_or_default();
        AlfworldError::Syntax {
            file: self.file.to_owned(),
            part: self.part,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            token: token.chars().take(Self::SHOWN).collect(),
            reason: reason.into(),
        }
    }

    /// Creates an error at the first occurrence of `token`, or at the start of the text.
    pub(crate) fn error_about(&self, token: &str, reason: impl Into<String>) -> AlfworldError {
        match self.text.find(token) {
            Some(start) => self.error(start, start + token.len(), reason),
            None => AlfworldError::Syntax {
                file: self.file.to_owned(),
                part: self.part,
                line: 1,
                column: 1,
                token: token.chars().take(Self::SHOWN).collect(),
                reason: reason.into(),
            },
        }
    }
}

impl From<AlfworldError> for crate::Error {
    fn from(error: AlfworldError) -> Self {
        Self::world(error)
    }
}
