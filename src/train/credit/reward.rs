//! Rewards of a step's episodes: the environment's per turn, and further ones per token.
//!
//! Penalties on tokens (length, KL) shape what is learned but not what is reported: returns and
//! dynamic sampling use the environment's rewards alone. [`Rewards`] keeps the two apart.

use serde::{Deserialize, Serialize};

use crate::rollout::trajectory::Trajectory;
use crate::settings::Positive;
use crate::train::credit::gae::{token_advantages, GaeConfig, TokenCredit};
use crate::{Error, Result};

/// The environment's reward per turn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardConfig {
    /// The turn's gain over the best score so far ([`Trajectory::gains`]). Progress counts even if
    /// the episode ends in failure; otherwise waiting would be better than trying.
    Progress {
        /// Points of the environment that make a reward of 1.
        points: Positive,
    },
    /// A reward for the last turn of a solved episode only (EPO's authors use 10).
    Success {
        /// The reward.
        value: Positive,
    },
}

impl RewardConfig {
    /// The rewards of trajectories, one per turn.
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

/// Rewards of a step's episodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewards {
    /// The environment's, one number per turn.
    environment: Vec<Vec<f64>>,
    /// Further rewards, one number per sampled token; `None` without any.
    tokens: Option<Vec<Vec<f64>>>,
    /// The sum of both, one number per turn.
    turns: Vec<Vec<f64>>,
}

impl Rewards {
    /// The environment's rewards of trajectories, without any per token.
    pub fn new(trajectories: &[Trajectory], reward: &RewardConfig) -> Self {
        let environment = reward.of(trajectories);
        Self { turns: environment.clone(), tokens: None, environment }
    }

    /// One reward per turn for [`turn_advantages`](crate::train::credit::turn_advantages): the
    /// environment's plus the sum over the turn's tokens.
    pub fn turns(&self) -> &[Vec<f64>] {
        &self.turns
    }

    /// The return of each episode in the environment's rewards alone, so that reported returns are
    /// comparable between runs with and without penalties on tokens.
    pub fn returns(&self) -> Vec<f64> {
        self.environment.iter().map(|of_turns| of_turns.iter().sum()).collect()
    }

    /// Advantages and value targets of tokens from these rewards ([`token_advantages`]).
    ///
    /// # Errors
    /// As [`token_advantages`].
    pub fn credit(
        &self,
        trajectories: &[Trajectory],
        values: &[Vec<f64>],
        config: &GaeConfig,
    ) -> Result<TokenCredit> {
        token_advantages(trajectories, &self.environment, self.tokens.as_deref(), values, config)
    }

    /// Adds rewards of sampled tokens, one list per trajectory.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths differ.
    pub fn add_token_rewards(
        &mut self,
        trajectories: &[Trajectory],
        rewards: &[Vec<f64>],
    ) -> Result<()> {
        let tokens: Vec<usize> = trajectories.iter().map(Trajectory::sampled_tokens).collect();
        let got: Vec<usize> = rewards.iter().map(Vec::len).collect();
        if got != tokens {
            let expected = format!("tokens {tokens:?}");
            return Err(Error::Shape { name: "token rewards", expected, got });
        }
        for ((trajectory, turns), rewards) in trajectories.iter().zip(&mut self.turns).zip(rewards)
        {
            let mut rest = rewards.iter();
            for (turn, total) in trajectory.turns.iter().zip(turns) {
                *total += rest.by_ref().take(turn.action_ids.len()).sum::<f64>();
            }
        }
        let Some(sums) = &mut self.tokens else {
            self.tokens = Some(rewards.to_vec());
            return Ok(());
        };
        for (sum, reward) in sums.iter_mut().flatten().zip(rewards.iter().flatten()) {
            *sum += reward;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::trajectory::Turn;
    use crate::settings::Unit;
    use crate::train::credit::gae::GaeLevel;

    #[test]
    fn progress_is_rewarded_at_its_turn_and_success_at_the_end() {
        let turn = |score| Turn { score, ..Turn::default() };
        let turns = || [25.0, 0.0, 100.0].map(turn).to_vec();
        let episode = |success| Trajectory { success, ..Trajectory::of_turns(turns()) };
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

    const REWARD: RewardConfig = RewardConfig::Success { value: Positive::literal(2.0) };

    #[test]
    fn token_rewards_add_up_and_stay_in_their_turn() {
        let played = [Trajectory::solved(&[1, 2])];
        let mut rewards = Rewards::new(&played, &REWARD);
        rewards.add_token_rewards(&played, &[vec![-0.25, 0.0, -0.5]]).unwrap();
        rewards.add_token_rewards(&played, &[vec![0.0, -1.0, 0.0]]).unwrap();
        assert_eq!(rewards.turns(), [vec![-0.25, 0.5]]);
        let config = |level| GaeConfig { level, whiten: false, ..GaeConfig::default() };
        let returns = |level| {
            rewards.credit(&played, &[vec![0.0; 3]], &config(level)).unwrap().returns.concat()
        };
        assert_eq!(returns(GaeLevel::Trajectory), [0.25, 0.5, 1.5]);
        assert_eq!(returns(GaeLevel::Turn), [0.25, 0.5, 0.5]);
        // Every turn gets the episode's reward, and those of its own tokens alone.
        assert_eq!(returns(GaeLevel::Token), [1.75, 0.5, 1.5]);
        let error = rewards.add_token_rewards(&played, &[vec![0.0; 2]]).unwrap_err();
        assert!(matches!(error, Error::Shape { name: "token rewards", .. }));
    }

    #[test]
    fn without_token_rewards_every_number_stays_as_it_was() {
        let played = [Trajectory::solved(&[1, 2])];
        let rewards = Rewards::new(&played, &REWARD);
        let values = [vec![0.3, 0.2, 0.1]];
        let gamma = Unit::literal(0.9);
        let lambda = Unit::literal(0.7);
        let config = GaeConfig { gamma, lambda, ..GaeConfig::default() };
        let plain = token_advantages(&played, rewards.turns(), None, &values, &config).unwrap();
        assert_eq!(rewards.credit(&played, &values, &config).unwrap(), plain);
        assert_eq!(rewards.turns(), REWARD.of(&played));
    }
}
