//! What an episode's turns are paid.

use serde::{Deserialize, Serialize};

use crate::rollout::trajectory::Trajectory;
use crate::settings::Positive;

/// The reward of turns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardConfig {
    /// What a turn adds to the best score so far ([`Trajectory::gains`]). Progress counts even where the episode ends in
    /// failure: otherwise waiting would pay.
    Progress {
        /// Points of the environment that are a reward of 1.
        points: Positive,
    },
    /// The last turn of a solved episode is paid, and nothing else (EPO's authors pay 10).
    Success {
        /// Its reward.
        value: Positive,
    },
}

impl RewardConfig {
    /// One reward for each turn of each trajectory.
    pub fn of(&self, trajectories: &[Trajectory]) -> Vec<Vec<f64>> {
        let rewards = |t: &Trajectory| match *self {
            Self::Progress { points } => t.gains().iter().map(|gain| gain / points.get()).collect(),
            Self::Success { value } => {
                let last = t.turns.len().saturating_sub(1);
                (0..t.turns.len())
                    .map(|i| if t.success && i == last { value.get() } else { 0.0 })
                    .collect()
            }
        };
        trajectories.iter().map(rewards).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Start, Task};
    use crate::rollout::trajectory::{End, Turn};

    #[test]
    fn progress_is_paid_where_it_is_made_and_success_at_the_end() {
        let turn = |score| Turn { score, ..Turn::default() };
        let episode = |success| Trajectory {
            task: Task { name: "t".into(), variation: 0 },
            group: 0,
            member: 0,
            start: Start { goal: String::new(), observation: String::new() },
            turns: [25.0, 0.0, 100.0].map(turn).to_vec(),
            success,
            end: End::Done,
        };
        let played = [episode(true), episode(false)];
        let progress = RewardConfig::Progress { points: Positive::literal(100.0) };
        assert_eq!(progress.of(&played), [[0.25, 0.0, 0.75]; 2]);
        let success = RewardConfig::Success { value: Positive::literal(10.0) };
        assert_eq!(success.of(&played), [[0.0, 0.0, 10.0], [0.0; 3]]);
        for bad in ["kind = \"progress\"\npoints = 0.0", "kind = \"success\"\nvalue = nan"] {
            let error = toml::from_str::<RewardConfig>(bad).unwrap_err().to_string();
            assert!(error.contains("must be positive and finite"), "{error}");
        }
    }
}
