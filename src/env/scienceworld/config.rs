//! Settings of the simulator, stored in the configuration of a run.

use crate::env::scienceworld::calls::SOLVED;
use crate::env::scienceworld::gateway::process::JvmConfig;
use crate::env::scienceworld::tasks;
use crate::{Error, Result};

/// The calls that an episode makes.
///
/// Listing the valid actions draws from the simulator's random generator, so the same actions give
/// different episodes under the two patterns. Each pattern is deterministic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallPattern {
    /// The official wrapper's calls: two loads at the start; all texts and the valid actions after
    /// every action.
    Official,
    /// One load, only the calls that a step needs, and the valid actions on request.
    #[default]
    Lean,
}

/// The rule by which an episode counts as solved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuccessRule {
    /// The score is 100: the task is solved.
    #[default]
    Score100,
    /// The episode ended with a positive score, even by running out of time. This is the rule of
    /// EPO's published code (`sciworld/envs.py`), for comparison only.
    DoneWithPositiveScore,
}

impl SuccessRule {
    pub(crate) fn holds(self, score: i32, done: bool) -> bool {
        match self {
            Self::Score100 => score == SOLVED,
            Self::DoneWithPositiveScore => done && score > 0,
        }
    }
}

/// The settings of a pool of ScienceWorld environments.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScienceWorldConfig {
    /// Simplifications, comma-separated, empty for none; see
    /// [`SIMPLIFICATIONS`](crate::env::scienceworld::SIMPLIFICATIONS).
    pub simplification: String,
    /// The calls that an episode makes.
    pub call_pattern: CallPattern,
    /// An episode ends after more than this number of moves (ticks of simulated time).
    pub step_limit: u32,
    /// The rule of success.
    pub success: SuccessRule,
    /// The environments that share one Java process.
    pub environments_per_jvm: usize,
    /// The seconds after which a call without a response means a hung process, in (0, 86400].
    pub call_limit_s: f64,
    /// The size of the cache of responses, in MiB; 0 turns it off. Episodes that start like earlier
    /// ones are served from it and call the simulator from the first difference on.
    pub memory_mib: usize,
    /// Settings of the Java processes.
    pub jvm: JvmConfig,
}

impl Default for ScienceWorldConfig {
    fn default() -> Self {
        Self {
            simplification: "easy".into(),
            call_pattern: CallPattern::default(),
            step_limit: 100,
            success: SuccessRule::default(),
            environments_per_jvm: 8,
            call_limit_s: 120.0,
            memory_mib: 256,
            jvm: JvmConfig::default(),
        }
    }
}

impl ScienceWorldConfig {
    /// Checks the range of every field.
    ///
    /// # Errors
    /// [`Error::Setting`] for a value out of range; `SimulatorError::UnknownSimplification`.
    pub fn validate(&self) -> Result<()> {
        tasks::check_simplification("", &self.simplification)?;
        if self.environments_per_jvm == 0 {
            return Err(setting("environments_per_jvm", 0, "must be at least 1"));
        }
        if !(self.call_limit_s > 0.0 && self.call_limit_s <= 86_400.0) {
            return Err(setting("call_limit_s", self.call_limit_s, "must be in (0, 86400]"));
        }
        if self.memory_mib > 1 << 20 {
            return Err(setting("memory_mib", self.memory_mib, "must be at most 1048576"));
        }
        self.validate_jvm()
    }

    fn validate_jvm(&self) -> Result<()> {
        let JvmConfig { start_limit_s, heap_base_mib, heap_young_mib, .. } = self.jvm;
        if start_limit_s == 0 {
            return Err(setting("jvm.start_limit_s", 0, "must be at least 1"));
        }
        if heap_base_mib < 64 {
            return Err(setting("jvm.heap_base_mib", heap_base_mib, "must be at least 64"));
        }
        if !(1..heap_base_mib).contains(&heap_young_mib) {
            let reason = format!("must be at least 1 and below heap_base_mib = {heap_base_mib}");
            return Err(setting("jvm.heap_young_mib", heap_young_mib, reason));
        }
        Ok(())
    }
}

/// A rejected field, by its name in the configuration of a run.
fn setting(field: &str, value: impl ToString, reason: impl Into<String>) -> Error {
    Error::setting(format!("environment.simulator.{field}"), value, reason)
}
