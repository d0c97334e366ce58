//! The settings of a training step's episodes.

use crate::policy::sampling::SamplingParams;
use crate::rollout::rows::RowKind;
use crate::{Error, Result};

/// Limits of an episode.
#[derive(Debug, Clone, Copy)]
pub struct PlayConfig {
    /// Most turns of an episode.
    pub max_turns: usize,
    /// Most sampled tokens of an action.
    pub max_action_tokens: usize,
    /// Sampling temperature; 0 takes the most probable token.
    pub temperature: f64,
    /// Only the k most probable ids; 0: all.
    pub top_k: usize,
    /// Only the fewest ids whose probabilities reach this sum; 1: all.
    pub top_p: f64,
    /// Only ids at least this share as probable as the most probable one; 0: all.
    pub min_p: f64,
    /// What the policy may write.
    pub actions: ActionSpace,
}

/// What a policy may write as its action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionSpace {
    /// Any text.
    #[default]
    Free,
    /// One of the environment's admissible actions: every token is sampled among those that continue one, and
    /// its log-probability and entropy are those of that choice.
    Admissible,
}

impl std::str::FromStr for ActionSpace {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "free" => Ok(Self::Free),
            "admissible" => Ok(Self::Admissible),
            _ => Err(Error::setting("actions", name, "must be `free` or `admissible`")),
        }
    }
}

/// How the episodes of a training step are chosen and played.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// Tasks of a step.
    pub tasks: usize,
    /// Episodes of each task: the group that GRPO compares; PPO needs no more than one.
    pub group: usize,
    /// Most turns of an episode.
    pub max_turns: usize,
    /// Most sampled tokens of an action that is free text.
    pub max_action_tokens: usize,
    /// Tokens kept of each observation.
    pub max_observation_tokens: usize,
    /// Sampling temperature, above 0.
    pub temperature: f64,
    /// Only the k most probable ids are sampled, and learned over; 0: all.
    pub top_k: usize,
    /// Only the fewest ids whose probabilities reach this sum; 1: all.
    pub top_p: f64,
    /// Only ids at least this share as probable as the most probable one; 0: all.
    pub min_p: f64,
    /// One row a trajectory, or one a turn.
    pub rows: RowKind,
    /// What the policy may write.
    pub actions: ActionSpace,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self {
            tasks: 8,
            group: 8,
            max_turns: 10,
            max_action_tokens: 12,
            max_observation_tokens: 256,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            rows: RowKind::Trajectory,
            actions: ActionSpace::Free,
        }
    }
}

impl RolloutConfig {
    /// Refuses what cannot be played.
    ///
    /// # Errors
    /// [`Error::Setting`] for a count of 0, or a temperature that is not positive and finite.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("tasks", self.tasks),
            ("group", self.group),
            ("max_turns", self.max_turns),
            ("max_action_tokens", self.max_action_tokens),
            ("max_observation_tokens", self.max_observation_tokens),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, n)| *n == 0) {
            return Err(Error::setting(format!("rollout.{name}"), 0, "must be at least 1"));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(Error::setting(
                "rollout.temperature",
                self.temperature,
                "must be positive and finite",
            ));
        }
        let Self { temperature, top_k, top_p, min_p, .. } = *self;
        SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::default() }.validate()
    }

    /// The limits of an episode, at another temperature.
    pub fn play(&self, temperature: f64) -> PlayConfig {
        let Self { max_turns, max_action_tokens, top_k, top_p, min_p, actions, .. } = *self;
        PlayConfig { max_turns, max_action_tokens, temperature, top_k, top_p, min_p, actions }
    }
}
