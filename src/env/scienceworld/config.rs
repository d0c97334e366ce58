//! What makes a run of the simulator what it is; serialisable, stored with the run.

use crate::env::scienceworld::gateway::process::JvmConfig;
use crate::env::scienceworld::tasks;
use crate::{Error, Result};

/// Which calls an episode makes. Asking for the valid actions draws from the simulator's random generator,
/// so episodes of different patterns differ; each pattern is deterministic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallPattern {
    /// The official wrapper's: two loads at the start, everything asked for after every action, the valid
    /// actions among it.
    Official,
    /// One load, and only what a step needs; the valid actions when asked for.
    #[default]
    Lean,
}

/// When an episode counts as solved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuccessRule {
    /// The task is solved: the score is 100.
    #[default]
    Score100,
    /// Done with a positive score, be it by the clock: the rule of EPO's published code
    /// (`sciworld/envs.py`), for comparison only.
    DoneWithPositiveScore,
}

impl SuccessRule {
    pub(crate) fn holds(self, score: i32, done: bool) -> bool {
        match self {
            Self::Score100 => score == 100,
            Self::DoneWithPositiveScore => done && score > 0,
        }
    }
}

/// The settings of a pool of ScienceWorld environments.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScienceWorldConfig {
    /// Simplifications, comma-separated (see [`crate::env::scienceworld::SIMPLIFICATIONS`]); empty for none.
    pub simplification: String,
    /// Which calls are made.
    pub call_pattern: CallPattern,
    /// More moves than this end an episode (moves are ticks of simulated time).
    pub step_limit: u32,
    /// What counts as success.
    pub success: SuccessRule,
    /// Environments that share a Java process.
    pub environments_per_jvm: usize,
    /// Seconds after which an unanswered call means a hung process.
    pub call_limit_s: f64,
    /// MiB of answers that are remembered; an episode that begins as earlier ones did asks the simulator only
    /// where it goes on differently. 0 remembers nothing.
    pub memory_mib: usize,
    /// How the Java processes are started.
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
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// [`Error::Setting`] for a value out of range, [`crate::env::scienceworld::SimulatorError::UnknownSimplification`].
    pub fn validate(&self) -> Result<()> {
        tasks::check_simplification("", &self.simplification)?;
        if self.environments_per_jvm == 0 {
            return Err(Error::setting(
                "environment.simulator.environments_per_jvm",
                0,
                "at least 1",
            ));
        }
        if !(self.call_limit_s > 0.0 && self.call_limit_s <= 86_400.0) {
            return Err(Error::setting(
                "environment.simulator.call_limit_s",
                self.call_limit_s,
                "in (0, 86400]",
            ));
        }
        if self.memory_mib > 1 << 20 {
            return Err(Error::setting(
                "environment.simulator.memory_mib",
                self.memory_mib,
                "at most 1048576",
            ));
        }
        if self.jvm.start_limit_s == 0 {
            return Err(Error::setting("environment.simulator.jvm.start_limit_s", 0, "at least 1"));
        }
        if self.jvm.heap_base_mib < 64 {
            let value = self.jvm.heap_base_mib;
            return Err(Error::setting(
                "environment.simulator.jvm.heap_base_mib",
                value,
                "at least 64",
            ));
        }
        if !(1..self.jvm.heap_base_mib).contains(&self.jvm.heap_young_mib) {
            let reason = format!("at least 1 and below heap_base_mib = {}", self.jvm.heap_base_mib);
            return Err(Error::setting(
                "environment.simulator.jvm.heap_young_mib",
                self.jvm.heap_young_mib,
                reason,
            ));
        }
        Ok(())
    }
}
