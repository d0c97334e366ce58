//! Advantages of turns without a critic: comparison of episodes, and of turns, within a group.
//!
//! GRPO gives every turn of an episode the same advantage. In a long episode that rewards useless
//! turns along with useful ones, so GiGPO also compares turns that start from the same situation.

use serde::{Deserialize, Serialize};

use crate::advantage::gigpo::{discounted_returns, gigpo};
use crate::advantage::group::{Groups, OutcomeEstimator};
use crate::advantage::whiten::whiten_counted;
use crate::rollout::trajectory::Trajectory;
use crate::settings::{NonNegative, Unit};
use crate::{Error, Result};

/// Settings of turn advantages: A = w_e·A_episode + w_t·A_turn (GiGPO, arXiv 2505.10978; GRPO at
/// w_t = 0 without a penalty).
///
/// A_episode compares the returns of a group's episodes and is the same for all turns of an
/// episode. The exception is `reinforce-pp`, where it is the return from the turn on, whitened over
/// the batch's tokens. A_turn compares the group's turns that start from the same situation by
/// their returns from there on: the difference from their mean, divided by the root mean square of
/// these differences over the batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdvantageConfig {
    /// Estimator that compares the returns of a group's episodes.
    pub estimator: OutcomeEstimator,
    /// w_e, the weight of A_episode.
    pub episode_weight: NonNegative,
    /// w_t, the weight of A_turn.
    pub turn_weight: NonNegative,
    /// Discount per turn, in [0, 1].
    pub gamma: Unit,
    /// Penalty for an action that the environment does not understand, in units of the reward.
    pub invalid_penalty: NonNegative,
}

impl Default for AdvantageConfig {
    fn default() -> Self {
        Self {
            estimator: OutcomeEstimator::Grpo,
            episode_weight: NonNegative::literal(1.0),
            turn_weight: NonNegative::literal(1.0),
            gamma: Unit::literal(1.0),
            invalid_penalty: NonNegative::literal(0.1),
        }
    }
}

impl AdvantageConfig {
    /// Checks that one comparison counts, and that the discount and the estimator are used.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting without effect.
    pub fn check(&self) -> Result<()> {
        let no_episodes = self.episode_weight.get() == 0.0;
        let no_turns = self.turn_weight.get() == 0.0;
        let discounts_episodes = self.estimator == OutcomeEstimator::ReinforcePp && !no_episodes;
        if no_episodes && no_turns {
            let reason = "must be positive if algorithm.advantage.episode_weight is 0";
            return Err(Error::setting("algorithm.advantage.turn_weight", 0, reason));
        }
        if no_turns && !discounts_episodes && self.gamma.get() != 1.0 {
            let reason = "discounts turns, which algorithm.advantage.turn_weight = 0 leaves out";
            return Err(Error::setting("algorithm.advantage.gamma", self.gamma, reason));
        }
        if no_episodes && self.estimator != OutcomeEstimator::Grpo {
            let value = format!("{:?}", self.estimator);
            let reason =
                "compares episodes, which algorithm.advantage.episode_weight = 0 leaves out";
            return Err(Error::setting("algorithm.advantage.estimator", value, reason));
        }
        Ok(())
    }
}

/// The situation a turn starts from: the last response to an understood action, and the score.
///
/// An action that is not understood leaves the world unchanged, so the next turn still starts from
/// the same situation.
type Situation<'a> = (&'a str, u64);

/// Estimates one advantage per turn of each trajectory.
///
/// `rewards` holds one reward per turn, before the penalty for actions that were not understood.
///
/// # Errors
/// [`Error::Setting`] for a setting out of range, [`Error::Shape`] if the lengths differ,
/// [`Error::NonFinite`].
pub fn turn_advantages(
    trajectories: &[Trajectory],
    rewards: &[Vec<f64>],
    config: &AdvantageConfig,
) -> Result<Vec<Vec<f64>>> {
    config.check()?;
    let rewards = penalised(trajectories, rewards, config.invalid_penalty.get())?;
    let of_episodes = compare_episodes(trajectories, &rewards, config)?;
    let of_turns = compare_turns(trajectories, &rewards, config.gamma.get())?;
    let episode_weight = config.episode_weight.get();
    let turn_weight = config.turn_weight.get();
    let total = |(episode, turn)| episode_weight * episode + turn_weight * turn;
    let mut totals = of_episodes.into_iter().zip(of_turns).map(total);
    Ok(trajectories.iter().map(|t| totals.by_ref().take(t.turns.len()).collect()).collect())
}

/// A_episode of all turns, one trajectory after another.
fn compare_episodes(
    trajectories: &[Trajectory],
    rewards: &[Vec<f64>],
    config: &AdvantageConfig,
) -> Result<Vec<f64>> {
    let tokens_of =
        |t: &Trajectory| t.turns.iter().map(|turn| turn.action_ids.len()).collect::<Vec<_>>();
    let tokens: Vec<Vec<usize>> = trajectories.iter().map(tokens_of).collect();
    let episodes: Vec<usize> =
        rewards.iter().enumerate().flat_map(|(i, r)| std::iter::repeat_n(i, r.len())).collect();
    if config.estimator == OutcomeEstimator::ReinforcePp {
        let returns = discounted_returns(&rewards.concat(), &episodes, config.gamma.get())?;
        return whiten_counted(&returns, &tokens.concat());
    }
    let groups: Vec<usize> = trajectories.iter().map(|t| t.group as usize).collect();
    let returns: Vec<f64> = rewards.iter().map(|r| r.iter().sum()).collect();
    let tokens: Vec<usize> = tokens.iter().map(|t| t.iter().sum()).collect();
    let of =
        config.estimator.advantages_of_tokens(&returns, &Groups::over_rows(&groups), &tokens)?;
    Ok(episodes.into_iter().map(|i| of[i]).collect())
}

/// The rewards of turns minus the penalty for actions that were not understood.
pub(crate) fn penalised(
    trajectories: &[Trajectory],
    rewards: &[Vec<f64>],
    invalid_penalty: f64,
) -> Result<Vec<Vec<f64>>> {
    check_lengths(trajectories, rewards)?;
    let of_trajectory = |(t, rewards): (&Trajectory, &Vec<f64>)| {
        let penalty = |valid| if valid { 0.0 } else { invalid_penalty };
        t.turns.iter().zip(rewards).map(|(turn, reward)| reward - penalty(turn.valid)).collect()
    };
    Ok(trajectories.iter().zip(rewards).map(of_trajectory).collect())
}

/// A_turn of all turns, one trajectory after another.
fn compare_turns(
    trajectories: &[Trajectory],
    rewards: &[Vec<f64>],
    gamma: f64,
) -> Result<Vec<f64>> {
    let mut episodes = Vec::new();
    let mut groups = Vec::new();
    let mut situations = Vec::new();
    for (i, trajectory) in trajectories.iter().enumerate() {
        situations.extend(situations_of(trajectory));
        episodes.resize(situations.len(), i);
        groups.resize(situations.len(), trajectory.group as usize);
    }
    let returns = discounted_returns(&rewards.concat(), &episodes, gamma)?;
    let no_episode_part = vec![0.0; returns.len()];
    let mut advantages = gigpo(&no_episode_part, &returns, &groups, &situations, 1.0, false)?;
    let mean_square =
        advantages.iter().map(|a| a * a).sum::<f64>() / advantages.len().max(1) as f64;
    if mean_square > 0.0 {
        for advantage in &mut advantages {
            *advantage /= mean_square.sqrt();
        }
    }
    Ok(advantages)
}

fn situations_of(trajectory: &Trajectory) -> impl Iterator<Item = Situation<'_>> {
    let first: Situation = (&trajectory.start.observation, 0f64.to_bits());
    trajectory.turns.iter().scan(first, |situation, turn| {
        let before = *situation;
        if turn.valid {
            *situation = (&turn.observation, turn.score.to_bits());
        }
        Some(before)
    })
}

fn check_lengths(trajectories: &[Trajectory], rewards: &[Vec<f64>]) -> Result<()> {
    let turns: Vec<usize> = trajectories.iter().map(|t| t.turns.len()).collect();
    let got: Vec<usize> = rewards.iter().map(Vec::len).collect();
    if got == turns {
        Ok(())
    } else {
        Err(Error::Shape { name: "rewards", expected: format!("one per turn, {turns:?}"), got })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Start;
    use crate::rollout::trajectory::Turn;

    fn turn(observation: &str, score: f64, valid: bool) -> Turn {
        Turn { observation: observation.into(), score, valid, ..Turn::default() }
    }

    fn trajectory(member: u32, turns: Vec<Turn>) -> Trajectory {
        let start = Start { goal: String::new(), observation: "hall".into() };
        Trajectory { member, start, ..Trajectory::of_turns(turns) }
    }

    fn only_turns() -> AdvantageConfig {
        let episode_weight = NonNegative::literal(0.0);
        AdvantageConfig { episode_weight, ..AdvantageConfig::default() }
    }

    #[test]
    fn a_turn_is_compared_with_others_from_the_same_situation() {
        let played = [
            trajectory(0, vec![turn("shed", 50.0, true), turn("done", 100.0, true)]),
            trajectory(
                1,
                vec![turn("what?", 0.0, false), turn("shed", 50.0, true), turn("no", 50.0, false)],
            ),
        ];
        let rewards: Vec<Vec<f64>> =
            played.iter().map(|t| t.gains().iter().map(|g| g / 100.0).collect()).collect();
        assert_eq!(rewards, [vec![0.5, 0.5], vec![0.0, 0.5, 0.0]]);
        // Returns from the hall: 1.0, 0.3 and 0.4; from the shed: 0.5 and −0.1. Over the batch's
        // RMS.
        let mean = 1.7 / 3.0;
        let raw = [1.0 - mean, 0.3, 0.3 - mean, 0.4 - mean, -0.3];
        let rms = (raw.iter().map(|a| a * a).sum::<f64>() / 5.0).sqrt();
        let got = turn_advantages(&played, &rewards, &only_turns()).unwrap();
        let got: Vec<f64> = got.concat();
        assert_eq!(got.len(), 5);
        assert!(got.iter().zip(raw).all(|(got, raw)| (got - raw / rms).abs() < 1e-12), "{got:?}");
    }

    #[test]
    fn without_a_weight_on_turns_it_is_grpo() {
        let played = [
            trajectory(0, vec![turn("a", 0.0, true); 2]),
            trajectory(1, vec![turn("b", 9.0, true)]),
        ];
        let rewards = [vec![0.0, 0.0], vec![9.0]];
        let turn_weight = NonNegative::literal(0.0);
        let config = AdvantageConfig { turn_weight, ..AdvantageConfig::default() };
        let expected =
            crate::advantage::group::grpo(&[0.0, 9.0], &Groups::over_rows(&[0, 0]), true).unwrap();
        let got = turn_advantages(&played, &rewards, &config).unwrap();
        assert_eq!(got, [vec![expected[0]; 2], vec![expected[1]]]);
    }

    #[test]
    fn reinforce_plus_plus_is_whitened_over_the_tokens_of_the_batch() {
        let of =
            |tokens: usize| Turn { action_ids: vec![0; tokens], valid: true, ..Turn::default() };
        let played = [trajectory(0, vec![of(1), of(3)]), trajectory(1, vec![of(2)])];
        let rewards = [vec![0.0, 8.0], vec![1.0]];
        let with = |estimator, gamma| {
            let config = AdvantageConfig {
                estimator,
                gamma: Unit::literal(gamma),
                turn_weight: NonNegative::literal(0.0),
                ..AdvantageConfig::default()
            };
            turn_advantages(&played, &rewards, &config).unwrap().concat()
        };
        // Each turn's return as often as it has tokens.
        let whitened = |returns: [f64; 3]| {
            let [a, b, c] = returns;
            let tokens = [a, b, b, b, c, c];
            let mean = tokens.iter().sum::<f64>() / 6.0;
            let variance = tokens.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 5.0;
            returns.map(|x| (x - mean) / variance.sqrt())
        };
        for (estimator, gamma, returns) in [
            (OutcomeEstimator::ReinforcePp, 1.0, [8.0, 8.0, 1.0]),
            (OutcomeEstimator::ReinforcePp, 0.5, [4.0, 8.0, 1.0]),
            (OutcomeEstimator::ReinforcePpBaseline, 1.0, [3.5, 3.5, -3.5]),
        ] {
            let got = with(estimator, gamma);
            let want = whitened(returns);
            let near = got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-7);
            assert!(near, "{estimator:?} {got:?} {want:?}");
        }
        let estimator = OutcomeEstimator::ReinforcePp;
        let config = AdvantageConfig { estimator, ..AdvantageConfig::default() };
        let error = turn_advantages(&[], &[], &config);
        assert!(matches!(error, Err(Error::EmptyMask { .. })), "there is no token to whiten");
    }

    #[test]
    fn equal_returns_have_no_advantage_however_they_are_rounded() {
        let played: Vec<_> =
            (0..8).map(|member| trajectory(member, vec![turn("a", 1.0, true); 2])).collect();
        let mut rewards = vec![vec![0.1, 0.6]; 8];
        rewards[3] = vec![0.6, 0.1];
        for config in [only_turns(), AdvantageConfig::default()] {
            let equal = turn_advantages(&played, &vec![vec![0.1, 0.6]; 8], &config).unwrap();
            assert_eq!(equal, vec![vec![0.0; 2]; 8]);
            // The first turns' returns are 0.7 and 0.7 up to rounding; the second turns' differ.
            let got = turn_advantages(&played, &rewards, &config).unwrap();
            assert!(got.iter().all(|turns| turns[0] == 0.0), "{got:?}");
        }
    }

    #[test]
    fn a_turn_without_another_to_compare_has_no_advantage() {
        let played = [trajectory(0, vec![turn("a", 1.0, true)])];
        assert_eq!(turn_advantages(&played, &[vec![1.0]], &only_turns()).unwrap(), [[0.0]]);
    }

    #[test]
    fn errors_name_the_setting_or_the_list() {
        let default = AdvantageConfig::default();
        for bad in ["gamma = 1.5", "invalid_penalty = -1.0"] {
            let error = toml::from_str::<AdvantageConfig>(bad).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("must be"), "{error}");
        }
        let zero = NonNegative::literal(0.0);
        for (config, field) in [
            (AdvantageConfig { turn_weight: zero, episode_weight: zero, ..default }, "turn_weight"),
            (AdvantageConfig { turn_weight: zero, gamma: Unit::literal(0.9), ..default }, "gamma"),
            (
                AdvantageConfig {
                    episode_weight: zero,
                    estimator: OutcomeEstimator::Rloo,
                    ..default
                },
                "estimator",
            ),
        ] {
            let error = turn_advantages(&[], &[], &config).unwrap_err().to_string();
            assert!(error.contains(&format!("`algorithm.advantage.{field}`")), "{error}");
        }
        let played = [trajectory(0, vec![turn("a", 1.0, true)])];
        let error = turn_advantages(&played, &[vec![]], &default).unwrap_err();
        assert!(matches!(error, Error::Shape { name: "rewards", .. }));
    }
}
