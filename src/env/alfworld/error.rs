//! What can be wrong with a game, a folder of games or an action's text.

use std::path::PathBuf;

/// What every fallible function of the engine returns.
pub type Result<T, E = AlfworldError> = std::result::Result<T, E>;

/// Everything that can be wrong, with the values that were wrong.
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
    /// Neither `ALFWORLD_DATA` nor a home folder says where the games are.
    #[error(
        "ALFWORLD_DATA is not set, and there is no home folder to look for .cache/alfworld in"
    )]
    NoDataFolder,
    /// A folder holds no game of the kind asked for.
    #[error("{}: no game.tw-pddl ({wanted}) below this folder", path.display())]
    NoGames {
        /// The folder.
        path: PathBuf,
        /// The split and the task types asked for.
        wanted: String,
    },
    /// No task type of that name.
    #[error("unknown task type `{name}`; the types are: {valid}")]
    UnknownTaskType {
        /// The rejected name.
        name: String,
        /// Every accepted name.
        valid: String,
    },
    /// No split of that name.
    #[error("unknown split `{name}`; the splits are: {valid}")]
    UnknownSplit {
        /// The rejected name.
        name: String,
        /// Every accepted name.
        valid: String,
    },
    /// A task in words that the expert does not know.
    #[error("task `{sentence}`: not a sentence of ALFWorld or of the household games")]
    UnknownTask {
        /// The sentence.
        sentence: String,
    },
    /// A file is larger than any game.
    #[error("{file}: {size} bytes; a game file may have {limit}")]
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
        /// What is wrong.
        reason: String,
    },
    /// A text inside a game file is not what it should be.
    #[error("{file}: {part}:{line}:{column}: `{token}`: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// Which text of the file.
        part: Part,
        /// The line inside that text, from 1.
        line: usize,
        /// The column inside that line, from 1.
        column: usize,
        /// The token that was wrong.
        token: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A game says that it cannot be won, or its goal cannot be reached from its start.
    #[error("{file}: unsolvable: {reason}")]
    Unsolvable {
        /// The file.
        file: String,
        /// How that shows.
        reason: String,
    },
    /// A game has more of something than is accepted.
    #[error("{file}: more than {limit} {what}")]
    TooMany {
        /// The file.
        file: String,
        /// What there is too much of.
        what: &'static str,
        /// The largest accepted number.
        limit: usize,
    },
    /// The grammar gives no text for what happened.
    #[error("{file}: grammar: `{token}`: {reason}")]
    Text {
        /// The file.
        file: String,
        /// The variable or non-terminal that failed.
        token: String,
        /// Why.
        reason: String,
    },
}

/// A text inside a game file, named as the file names it.
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

/// A text being parsed, and where it comes from.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'a str,
    pub(crate) part: Part,
    pub(crate) text: &'a str,
}

impl Source<'_> {
    /// The longest token shown in an error, in characters.
    const SHOWN: usize = 80;

    /// An error at the bytes `start..end` of the text.
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

    /// An error at the first place where `token` stands, or at the beginning.
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
