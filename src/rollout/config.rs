//! Settings of the rollouts: limits of an episode, sampling, and the episodes of a training step.

use crate::rollout::rows::RowKind;
use crate::settings::{Count, Positive, Share, Unit};

/// Limits of an episode.
#[derive(Debug, Clone, Copy)]
pub struct PlayConfig {
    /// Maximum number of turns per episode.
    pub max_turns: usize,
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

/// The texts that a policy may write as its action, by `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ActionSpace {
    /// Any text.
    Free {
        /// Maximum number of sampled tokens per action.
        #[serde(default = "free_tokens")]
        max_tokens: Count,
    },
    /// One of the environment's admissible actions. Each token is sampled among those that continue
    /// such an action, and its log-probability and entropy are over this candidate set.
    Admissible,
}

impl ActionSpace {
    /// Maximum number of sampled tokens per action; an admissible action is as long as its text.
    pub fn max_tokens(self) -> usize {
        match self {
            Self::Free { max_tokens } => max_tokens.get(),
            Self::Admissible => usize::MAX,
        }
    }
}

/// The default of [`ActionSpace::Free`].
fn free_tokens() -> Count {
    Count::literal(12)
}

impl Default for ActionSpace {
    fn default() -> Self {
        Self::Free { max_tokens: free_tokens() }
    }
}

/// Settings of a training step's episodes (`rollout` in a run's configuration).
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// Tasks per step.
    pub tasks: Count,
    /// Episodes per task: the group that GRPO compares. PPO needs only one.
    pub group: Count,
    /// Maximum number of turns per episode.
    pub max_turns: Count,
    /// Maximum number of tokens per observation; the rest is cut off.
    pub max_observation_tokens: Count,
    /// Sampling temperature.
    pub temperature: Positive,
    /// Top-k for sampling and for the loss: only the k most probable ids; 0 disables it.
    pub top_k: usize,
    /// Nucleus: the smallest set of ids whose probabilities sum to `top_p`; 1 disables it.
    pub top_p: Share,
    /// Min-p: only ids with at least this fraction of the largest probability; 0 disables it.
    pub min_p: Unit,
    /// Rows of the loss: one per trajectory or one per turn.
    pub rows: RowKind,
    /// Texts that the policy may write.
    pub actions: ActionSpace,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self {
            tasks: Count::literal(8),
            group: Count::literal(8),
            max_turns: Count::literal(10),
            max_observation_tokens: Count::literal(256),
            temperature: Positive::literal(1.0),
            top_k: 0,
            top_p: Share::literal(1.0),
            min_p: Unit::literal(0.0),
            rows: RowKind::Trajectory,
            actions: ActionSpace::default(),
        }
    }
}

impl RolloutConfig {
    /// Limits of an episode, sampled at `temperature`.
    pub fn play(&self, temperature: f64) -> PlayConfig {
        PlayConfig {
            max_turns: self.max_turns.get(),
            temperature,
            top_k: self.top_k,
            top_p: self.top_p.get(),
            min_p: self.min_p.get(),
            actions: self.actions,
        }
    }
}
