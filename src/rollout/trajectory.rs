//! Trajectories: the turns of an episode, with everything that the loss needs.

use crate::env::{Start, Task};

/// One turn: the prompt, the sampled action and the environment's response.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Turn {
    /// Token ids of the prompt that follows the previous action.
    pub prompt_ids: Vec<u32>,
    /// Sampled token ids, including the stop token.
    pub action_ids: Vec<u32>,
    /// Log-probability of each sampled token at the sampling temperature, nats.
    pub log_probs: Vec<f32>,
    /// Entropy of the distribution each token was sampled from, nats.
    pub entropies: Vec<f32>,
    /// Candidate set of each token, if the policy had choices; else empty.
    #[serde(skip)]
    pub supports: Vec<Vec<u32>>,
    /// The action as text.
    pub action: String,
    /// The environment's response.
    pub observation: String,
    /// The environment's reward: the score gained, in its points.
    pub reward: f64,
    /// Score after the turn, in the environment's points.
    pub score: f64,
    /// The action is complete and well-formed, and the environment understood it.
    pub valid: bool,
}

/// Reason for which an episode ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The environment ended it.
    Done,
    /// The turn limit was reached.
    TurnLimit,
    /// The next observation did not fit into the context.
    ContextFull,
}

impl End {
    /// The name used in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::TurnLimit => "turn_limit",
            Self::ContextFull => "context_full",
        }
    }
}

/// A played episode.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Trajectory {
    /// The task played.
    pub task: Task,
    /// Index of the group of episodes that share the task.
    pub group: u32,
    /// Index inside the group.
    pub member: u32,
    /// Goal and first observation.
    pub start: Start,
    /// The turns, at least one.
    pub turns: Vec<Turn>,
    /// The task was solved.
    pub success: bool,
    /// Reason for the end.
    pub end: End,
}

impl Trajectory {
    /// The final score, in the environment's points and at least 0: a failure, which ScienceWorld
    /// marks with −100, counts as 0.
    pub fn score(&self) -> f64 {
        self.turns.last().map_or(0.0, |t| t.score.max(0.0))
    }

    /// The highest score reached, in the environment's points; a later failure does not undo it.
    pub fn best_score(&self) -> f64 {
        self.turns.iter().fold(0.0, |best, t| t.score.max(best))
    }

    /// Each turn's gain over the highest score so far, in the environment's points. The gains sum
    /// to [`best_score`](Self::best_score).
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

#[cfg(test)]
impl Trajectory {
    /// An unsolved episode of these turns, for tests.
    pub(crate) fn of_turns(turns: Vec<Turn>) -> Self {
        Self {
            task: Task { name: "t".into(), variation: 0 },
            group: 0,
            member: 0,
            start: Start { goal: String::new(), observation: String::new() },
            turns,
            success: false,
            end: End::Done,
        }
    }

    /// A solved episode with these numbers of sampled tokens per turn, for tests.
    pub(crate) fn solved(lengths: &[usize]) -> Self {
        let turn = |&n: &usize| Turn { action_ids: vec![7; n], valid: true, ..Turn::default() };
        let mut turns: Vec<Turn> = lengths.iter().map(turn).collect();
        turns.last_mut().unwrap().score = 100.0;
        Self { success: true, ..Self::of_turns(turns) }
    }
}
