//! Errors of the simulator, one variant per cause.

/// A failure of the simulator, its process or its gateway.
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
        /// The number of variations of the task.
        count: u32,
    },
    /// No simplification of that name.
    #[error(
        "unknown simplification `{name}`; the simplifications, to be separated by commas without \
         spaces, are: {}",
        valid.join(", ")
    )]
    UnknownSimplification {
        /// The rejected name.
        name: String,
        /// Every accepted name.
        valid: Vec<String>,
    },
    /// The simplification removes actions that the task needs.
    #[error(
        "task `{task}` needs electrical actions, which simplification `{simplification}` removes"
    )]
    ContradictorySimplification {
        /// The task.
        task: String,
        /// The rejected simplification string.
        simplification: String,
    },
    /// The Java process ended before it opened its port.
    #[error("the simulator process did not start: {reason}; its last output:\n{output}")]
    Start {
        /// The exit status or the system's error.
        reason: String,
        /// The last lines that it printed.
        output: String,
    },
    /// The Java process did not open its port within the time limit.
    #[error("the simulator process opened no port within {seconds} s; its last output:\n{output}")]
    Silent {
        /// The limit, in seconds.
        seconds: u64,
        /// The last lines that it printed.
        output: String,
    },
    /// Nothing listens on the port of the gateway.
    #[error("cannot connect to the simulator at {address}: {source}")]
    Connect {
        /// Address and port.
        address: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The gateway refused the token.
    #[error("the simulator's gateway at {address} refused the token: {reply}")]
    Refused {
        /// Address and port.
        address: String,
        /// The reply.
        reply: String,
    },
    /// A call got no reply within the time limit.
    #[error("the simulator did not reply to `{call}` within {seconds} s")]
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
    /// The gateway sent something that is not its protocol.
    #[error("malformed reply of the simulator's gateway to `{call}`: {reason}")]
    Protocol {
        /// The method.
        call: String,
        /// The fault in the reply.
        reason: String,
    },
    /// The simulator threw an exception.
    #[error("the simulator failed in `{call}`: {message}")]
    Exception {
        /// The method.
        call: String,
        /// The text of the exception.
        message: String,
    },
    /// The simulator refused to load a task.
    #[error("the simulator cannot load `{task}`: {message}")]
    Load {
        /// Task, variation and simplification.
        task: String,
        /// The simulator's message.
        message: String,
    },
    /// The task has no gold path.
    #[error("the simulator has no gold path for `{task}`")]
    NoGoldPath {
        /// Task and variation.
        task: String,
    },
    /// An action was played with no episode in progress.
    #[error("action {action:?}: no episode in progress; reset first")]
    NoEpisode {
        /// The action.
        action: String,
    },
    /// An action was played after the end of the episode.
    #[error("action {action:?}: the episode of `{task}` is over; reset first")]
    Finished {
        /// The action.
        action: String,
        /// The task.
        task: String,
    },
    /// The replay of an interrupted episode differs from the original.
    #[error(
        "the replay of `{task}` diverged at call {step} ({action:?}): got {got:?}, \
         expected {expected:?}"
    )]
    Diverged {
        /// The task.
        task: String,
        /// The index of the call.
        step: usize,
        /// The action.
        action: String,
        /// The original response.
        expected: String,
        /// The response in the replay.
        got: String,
    },
    /// Several processes in a row died or hung during the same call.
    #[error(
        "gave up on `{task}` after {attempts} simulator processes; the last error: {last}; \
         the last output:\n{output}"
    )]
    GaveUp {
        /// The task.
        task: String,
        /// The number of processes tried.
        attempts: u32,
        /// The last error.
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
    /// Returns true if the process is dead, hung or broken, so that a new one may help.
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
