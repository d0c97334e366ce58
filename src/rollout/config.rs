//! The settings of a training step's episodes.

use crate::rollout::rows::RowKind;
use crate::settings::{Count, Positive, Share, Unit};

/// Limits of an episode.
#[derive(Debug, Clone, Copy)]
pub struct PlayConfig {
    /// Most turns of an episode.
    pub max_turns: usize,
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

/// The actions that a policy may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ActionSpace {
    /// Any text.
    Free {
        /// Most sampled tokens of an action.
        #[serde(default = "free_tokens")]
        max_tokens: Count,
    },
    /// One of the environment's admissible actions: every token is sampled among those that continue
    /// one, and its log-probability and entropy are over these candidates.
    Admissible,
}

impl ActionSpace {
    /// Most sampled tokens of an action; an admissible action is as long as its text.
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

/// How the episodes of a training step are chosen and played.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// Tasks per training step.
    pub tasks: Count,
    /// Episodes per task: the group that GRPO compares; PPO needs no more than one.
    pub group: Count,
    /// Most turns of an episode.
    pub max_turns: Count,
    /// Tokens kept of each observation.
    pub max_observation_tokens: Count,
    /// Sampling temperature.
    pub temperature: Positive,
    /// Sample, and learn over, only the k most probable tokens; 0: all.
    pub top_k: usize,
    /// Only the fewest tokens whose probabilities reach this sum; 1: all.
    pub top_p: Share,
    /// Only tokens at least this share as probable as the most probable one; 0: all.
    pub min_p: Unit,
    /// One row per trajectory, or one per turn.
    pub rows: RowKind,
    /// The actions that the policy may write.
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
    /// The limits of an episode, at another temperature.
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
