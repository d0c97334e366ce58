//! Settings of the rollouts: limits of an episode, sampling, and the episodes of a training step.

use crate::rollout::rows::RowKind;
use crate::{Error, Result};

/// Limits of an episode.
#[derive(Debug, Clone, Copy)]
pub struct PlayConfig {
    /// Maximum number of turns per episode.
    pub max_turns: usize,
    /// Maximum number of sampled tokens per action.
    pub max_action_tokens: usize,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Top-k sampling: only the k most probable ids; 0 disables it.
    pub top_k: usize,
    /// Nucleus sampling: the smallest set of ids whose probabilities sum to `top_p`; 1 disables it.
    pub top_p: f64,
    /// Min-p sampling: only ids with at least this fraction of the largest probability; 0 disables
    /// it.
    pub min_p: f64,
    /// Texts that the policy may write.
    pub actions: ActionSpace,
}

/// The texts that a policy may write as its action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionSpace {
    /// Any text.
    #[default]
    Free,
    /// One of the environment's admissible actions. Each token is sampled among those that continue
    /// such an action, and its log-probability and entropy are over this candidate set.
    Admissible,
}

impl std::str::FromStr for ActionSpace {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "free" => Ok(Self::Free),
            "admissible" => Ok(Self::Admissible),
            _ => Err(Error::setting("rollout.actions", name, "must be `free` or `admissible`")),
        }
    }
}

/// Settings of a training step's episodes (`rollout` in a run's configuration).
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// Tasks per step.
    pub tasks: usize,
    /// Episodes per task: the group that GRPO compares. PPO needs only one.
    pub group: usize,
    /// Maximum number of turns per episode.
    pub max_turns: usize,
    /// Maximum number of sampled tokens per free-text action.
    pub max_action_tokens: usize,
    /// Maximum number of tokens per observation; the rest is cut off.
    pub max_observation_tokens: usize,
    /// Sampling temperature, above 0.
    pub temperature: f64,
    /// Top-k for sampling and for the loss: only the k most probable ids; 0 disables it.
    pub top_k: usize,
    /// Nucleus: the smallest set of ids whose probabilities sum to `top_p`; 1 disables it.
    pub top_p: f64,
    /// Min-p: only ids with at least this fraction of the largest probability; 0 disables it.
    pub min_p: f64,
    /// Rows of the loss: one per trajectory or one per turn.
    pub rows: RowKind,
    /// Texts that the policy may write.
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
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Setting`] with the key of a field out of range.
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
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::setting("rollout.top_p", self.top_p, "must be in (0, 1]"));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err(Error::setting("rollout.min_p", self.min_p, "must be in [0, 1]"));
        }
        Ok(())
    }

    /// Limits of an episode, sampled at `temperature`.
    pub fn play(&self, temperature: f64) -> PlayConfig {
        let Self { max_turns, max_action_tokens, top_k, top_p, min_p, actions, .. } = *self;
        PlayConfig { max_turns, max_action_tokens, temperature, top_k, top_p, min_p, actions }
    }
}
