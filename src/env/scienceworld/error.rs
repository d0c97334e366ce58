//! What can go wrong between this crate and the simulator, one variant per cause.

use std::path::PathBuf;

/// A failure of the simulator, its process, its gateway or its installation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulatorError {
    /// No task of that name.
    #[error("unknown task `{name}`; the tasks are: {}", valid.join(", "))]
    UnknownTask {
        /// The rejected name.
        name: String,
        /// Every task name, sorted.
        valid: Vec<String>,
    },
    /// The task has no such variation.
    #[error("task `{task}` has no variation {variation}; valid: 0..={}", count.saturating_sub(1))]
    VariationOutOfRange {
        /// The task.
        task: String,
        /// The rejected variation.
        variation: u32,
        /// How many variations the task has.
        count: u32,
    },
    /// No simplification of that name.
    #[error("unknown simplification `{name}`; valid, comma-separated without spaces: {}", valid.join(", "))]
    UnknownSimplification {
        /// The rejected name.
        name: String,
        /// Every accepted name.
        valid: Vec<String>,
    },
    /// The simplification takes away what the task needs.
    #[error(
        "task `{task}` needs electrical actions: simplification `{simplification}` cannot be used with it"
    )]
    ContradictorySimplification {
        /// The task.
        task: String,
        /// The rejected simplification string.
        simplification: String,
    },
    /// A jar is not where it was said to be.
    #[error("{}: no such jar (from {origin})", path.display())]
    JarMissing {
        /// The path.
        path: PathBuf,
        /// Which variable or rule named the path.
        origin: String,
    },
    /// A file is not the pinned one.
    #[error("{}: SHA-256 is {got}, expected {expected}", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// The pinned SHA-256, hexadecimal.
        expected: String,
        /// The file's SHA-256, hexadecimal.
        got: String,
    },
    /// A file of the installation cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Something missing could not be fetched.
    #[error("cannot fetch {what}: {}\nto install by hand, where there is a network:\n  {commands}", reasons.join("; "))]
    Fetch {
        /// What was to be fetched.
        what: String,
        /// Why each way of fetching failed.
        reasons: Vec<String>,
        /// The commands that a person can run instead.
        commands: String,
    },
    /// The Java process ended before it opened its port.
    #[error("the simulator process did not start: {reason}; its last output:\n{output}")]
    Start {
        /// What happened.
        reason: String,
        /// The last lines that it printed.
        output: String,
    },
    /// The Java process said nothing for the whole start-up limit.
    #[error("the simulator process opened no port within {seconds} s; its last output:\n{output}")]
    Silent {
        /// The limit, in seconds.
        seconds: u64,
        /// The last lines that it printed.
        output: String,
    },
    /// Nobody listens at the gateway's port.
    #[error("cannot connect to the simulator at {address}: {source}")]
    Connect {
        /// Address and port.
        address: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The gateway refused our token.
    #[error("the simulator's gateway at {address} refused the token: {reply}")]
    Refused {
        /// Address and port.
        address: String,
        /// What it answered.
        reply: String,
    },
    /// A call was not answered in time.
    #[error("the simulator did not answer `{call}` within {seconds} s")]
    Timeout {
        /// The method.
        call: String,
        /// The limit, in seconds.
        seconds: f64,
    },
    /// The connection broke during a call.
    #[error("the connection to the simulator broke during `{call}`: {source}")]
    Broken {
        /// The method.
        call: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The gateway answered something that is not its protocol.
    #[error("malformed answer of the simulator's gateway to `{call}`: {reason}")]
    Protocol {
        /// The method.
        call: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The simulator threw an exception.
    #[error("the simulator failed in `{call}`: {message}")]
    Exception {
        /// The method.
        call: String,
        /// The exception's text.
        message: String,
    },
    /// The simulator refused to load a task.
    #[error("the simulator cannot load `{task}`: {message}")]
    Load {
        /// Task, variation and simplification.
        task: String,
        /// Its answer.
        message: String,
    },
    /// The gold path of a task was asked for and there is none.
    #[error("the simulator has no gold path for `{task}`")]
    NoGoldPath {
        /// Task and variation.
        task: String,
    },
    /// An action was played without an episode.
    #[error("action {action:?}: no episode in progress; reset first")]
    NoEpisode {
        /// The action.
        action: String,
    },
    /// An action was played after the episode's end.
    #[error("action {action:?}: the episode of `{task}` is over; reset first")]
    Finished {
        /// The action.
        action: String,
        /// The task.
        task: String,
    },
    /// Replaying an interrupted episode gave something else than the first time.
    #[error(
        "replay of `{task}` diverged at action {step} ({action:?}): {got:?}, before: {expected:?}"
    )]
    Diverged {
        /// The task.
        task: String,
        /// Which action, from 0.
        step: usize,
        /// The action.
        action: String,
        /// What the first process answered.
        expected: String,
        /// What the new one answered.
        got: String,
    },
    /// Several processes in a row died or hung on the same call.
    #[error("gave up on `{task}` after {attempts} simulator processes; the last: {last}; its last output:\n{output}")]
    GaveUp {
        /// The task.
        task: String,
        /// How many processes were tried.
        attempts: u32,
        /// The last failure.
        last: Box<SimulatorError>,
        /// The last lines that the last process printed.
        output: String,
    },
}

impl From<SimulatorError> for crate::Error {
    fn from(error: SimulatorError) -> Self {
        Self::world(error)
    }
}

impl SimulatorError {
    /// Whether a new process may help: this one is dead, hung or talks nonsense.
    pub fn is_process_lost(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. }
                | Self::Broken { .. }
                | Self::Connect { .. }
                | Self::Protocol { .. }
        )
    }
}
