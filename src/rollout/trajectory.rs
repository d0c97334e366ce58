//! What happened in an episode, turn by turn, with everything the loss needs.

use crate::env::{Start, Task};

/// One turn: what was shown, what was sampled, what came back.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Turn {
    /// Token ids shown to the policy since its last action.
    pub prompt_ids: Vec<u32>,
    /// Sampled token ids, the stop token included.
    pub action_ids: Vec<u32>,
    /// Log-probability of each sampled token at the sampling temperature, nats.
    pub log_probs: Vec<f32>,
    /// Entropy of the distribution each token was sampled from, nats.
    pub entropies: Vec<f32>,
    /// The ids each token was chosen from, where the policy had choices; else empty.
    #[serde(skip)]
    pub supports: Vec<Vec<u32>>,
    /// The action as text.
    pub action: String,
    /// The environment's answer.
    pub observation: String,
    /// Score gained, in the environment's points.
    pub reward: f64,
    /// Score after the turn, in the environment's points.
    pub score: f64,
    /// The policy ended its action itself and the environment understood it.
    pub valid: bool,
}

/// Why an episode ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The environment said so.
    Done,
    /// The turn limit was reached.
    TurnLimit,
    /// The next observation did not fit into the context.
    ContextFull,
}

impl End {
    /// As it is written in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::TurnLimit => "turn_limit",
            Self::ContextFull => "context_full",
        }
    }
}

/// One episode.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Trajectory {
    /// The task played.
    pub task: Task,
    /// Index of the group of episodes that share the task.
    pub group: u32,
    /// Index inside the group.
    pub member: u32,
    /// What the agent was told at the start.
    pub start: Start,
    /// The turns, at least one.
    pub turns: Vec<Turn>,
    /// The task was solved.
    pub success: bool,
    /// Why it ended.
    pub end: End,
}

impl Trajectory {
    /// The final score, in the environment's points and at least 0: a failure, which ScienceWorld marks with
    /// −100, counts as nothing.
    pub fn score(&self) -> f64 {
        self.turns.last().map_or(0.0, |t| t.score.max(0.0))
    }

    /// The highest score reached, in the environment's points: progress that a later failure does not undo.
    pub fn best_score(&self) -> f64 {
        self.turns.iter().fold(0.0, |best, t| t.score.max(best))
    }

    /// What each turn added to the highest score so far, in the environment's points; sums to [`best_score`].
    ///
    /// [`best_score`]: Self::best_score
    pub fn gains(&self) -> Vec<f64> {
        let gain = |best: &mut f64, turn: &Turn| {
            let gain = (turn.score - *best).max(0.0);
            *best += gain;
            Some(gain)
        };
        self.turns.iter().scan(0.0, gain).collect()
    }

    /// Number of sampled tokens.
    pub fn sampled_tokens(&self) -> usize {
        self.turns.iter().map(|t| t.action_ids.len()).sum()
    }
}
