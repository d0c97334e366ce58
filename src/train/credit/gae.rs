//! Advantages and value targets of tokens from a critic's values, by generalised advantage
//! estimation (GAE).
//!
//! A multi-turn episode has two time axes: tokens within a turn, and turns within an episode.
//! Published trainers differ in the axis over which γ and λ decay and in where they bootstrap, so
//! [`GaeLevel`] offers all three readings over the same data.

use serde::{Deserialize, Serialize};

use crate::advantage::critic::{gae_over_trajectories, gae_over_turns, gae_within_turns, Gae};
use crate::advantage::whiten::whiten_tokens;
use crate::objective::layout::TokenLayout;
use crate::rollout::trajectory::Trajectory;
use crate::settings::{NonNegative, Unit};
use crate::train::credit::group::penalised;
use crate::{Error, Result};

/// The step of the estimation: the unit over which γ and λ decay and values are bootstrapped.
///
/// In all forms only sampled tokens count. Prompts and observations are skipped, and nothing is
/// bootstrapped beyond the end of an episode, for whatever reason it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GaeLevel {
    /// A step is a token, and every turn is estimated alone, as EPO's authors train (verl
    /// `compute_gae_advantage_return` on rows of turns). The turn's last token gets the return of
    /// the *episode* minus the penalty of this turn, and no value is bootstrapped from the next
    /// turn.
    Token,
    /// A step is a turn. Its value is the one before its first token; its advantage and its value
    /// target apply to all its tokens.
    Turn,
    /// A step is a sampled token of the whole episode. A turn's reward falls on its last token, and
    /// the next step is the first token of the next turn.
    #[default]
    Trajectory,
}

/// Settings of GAE: A = Σ (γλ)ᵏ δₜ₊ₖ with δₜ = rₜ + γVₜ₊₁ − Vₜ (Schulman 2016).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaeConfig {
    /// The step of the estimation.
    pub level: GaeLevel,
    /// γ, the discount per step, in [0, 1].
    pub gamma: Unit,
    /// λ in [0, 1]: 1 uses the observed return, 0 the one-step bootstrap.
    pub lambda: Unit,
    /// Normalise the advantages of all sampled tokens of a training step to mean 0 and variance 1
    /// (verl `masked_whiten`); value targets are not changed.
    pub whiten: bool,
    /// Penalty for an action that the environment does not understand, in units of the reward.
    pub invalid_penalty: NonNegative,
}

impl Default for GaeConfig {
    fn default() -> Self {
        Self {
            level: GaeLevel::Trajectory,
            gamma: Unit::literal(1.0),
            lambda: Unit::literal(1.0),
            whiten: true,
            invalid_penalty: NonNegative::literal(0.1),
        }
    }
}

/// One number per sampled token: one list per trajectory, turn after turn.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenCredit {
    /// Advantages, whitened if [`GaeConfig::whiten`] is set.
    pub advantages: Vec<Vec<f64>>,
    /// Value targets A + V, with the advantages before whitening.
    pub returns: Vec<Vec<f64>>,
}

/// Estimates advantages and value targets of all sampled tokens.
///
/// - `rewards`: one reward per turn, before the penalty for actions that were not understood.
/// - `token_rewards`: optional rewards of single sampled tokens, added to those of the turns. At
///   [`GaeLevel::Turn`] a turn gets the sum over its tokens, at the other levels each token its
///   own.
/// - `values`: one value per sampled token, that of the state before it
///   ([`Critic::values`](crate::train::learn::Critic::values)).
///
/// # Errors
/// [`Error::Setting`] for a setting out of range, [`Error::Shape`] if lengths differ or a turn has
/// no token, [`Error::NonFinite`], [`Error::EmptyMask`] without tokens or if a single token would
/// have to be whitened.
pub fn token_advantages(
    trajectories: &[Trajectory],
    rewards: &[Vec<f64>],
    token_rewards: Option<&[Vec<f64>]>,
    values: &[Vec<f64>],
    config: &GaeConfig,
) -> Result<TokenCredit> {
    let turn_rewards = rewards_of_turns(trajectories, rewards, config)?;
    let lengths = turn_lengths(trajectories, values)?;
    if let Some(token_rewards) = token_rewards {
        check_same_lengths(values, token_rewards)?;
    }
    let flat = Flat {
        turn_rewards: turn_rewards.concat(),
        token_rewards: token_rewards.map(<[_]>::concat),
        values: values.concat(),
        layout: one_token_per_row(&lengths)?,
        lengths: lengths.concat(),
        gae: Gae { gamma: config.gamma.get(), lambda: config.lambda.get() },
    };
    let (mut advantages, returns) = flat.estimate(config.level)?;
    if config.whiten {
        advantages = whiten_tokens(&advantages, &flat.layout)?;
    }
    let split = |of_tokens: Vec<f64>| {
        let mut rest = of_tokens.into_iter();
        values.iter().map(|values| rest.by_ref().take(values.len()).collect()).collect()
    };
    Ok(TokenCredit { advantages: split(advantages), returns: split(returns) })
}

/// The rewards of turns minus the penalty; at [`GaeLevel::Token`] each turn gets the whole
/// episode's reward minus its own penalty.
fn rewards_of_turns(
    trajectories: &[Trajectory],
    rewards: &[Vec<f64>],
    config: &GaeConfig,
) -> Result<Vec<Vec<f64>>> {
    let mut penalised = penalised(trajectories, rewards, config.invalid_penalty.get())?;
    if config.level == GaeLevel::Token {
        for (penalised, rewards) in penalised.iter_mut().zip(rewards) {
            let episode: f64 = rewards.iter().sum();
            for (penalised, reward) in penalised.iter_mut().zip(rewards) {
                *penalised = episode + (*penalised - reward);
            }
        }
    }
    Ok(penalised)
}

/// A layout of all sampled tokens one after another, each of them a row.
fn one_token_per_row(lengths: &[Vec<usize>]) -> Result<TokenLayout> {
    let mut turns = Vec::new();
    let mut trajectories = Vec::new();
    for (trajectory, lengths) in lengths.iter().enumerate() {
        for (turn, &n) in lengths.iter().enumerate() {
            turns.extend(std::iter::repeat_n(turn, n));
            trajectories.extend(std::iter::repeat_n(trajectory, n));
        }
    }
    TokenLayout::new(1, vec![true; turns.len()], turns, trajectories)
}

/// Number of sampled tokens of each turn. Requires at least one per turn, and one value per token.
fn turn_lengths(trajectories: &[Trajectory], values: &[Vec<f64>]) -> Result<Vec<Vec<usize>>> {
    let of = |t: &Trajectory| t.turns.iter().map(|turn| turn.action_ids.len()).collect::<Vec<_>>();
    let lengths: Vec<Vec<usize>> = trajectories.iter().map(of).collect();
    if let Some(got) = lengths.iter().find(|lengths| lengths.contains(&0)) {
        let expected = "at least one sampled token per turn".into();
        return Err(Error::Shape { name: "turns", expected, got: got.clone() });
    }
    let tokens: Vec<usize> = lengths.iter().map(|lengths| lengths.iter().sum()).collect();
    let got: Vec<usize> = values.iter().map(Vec::len).collect();
    if got == tokens {
        Ok(lengths)
    } else {
        Err(Error::Shape { name: "values", expected: format!("tokens {tokens:?}"), got })
    }
}

fn check_same_lengths(values: &[Vec<f64>], token_rewards: &[Vec<f64>]) -> Result<()> {
    let expected: Vec<usize> = values.iter().map(Vec::len).collect();
    let got: Vec<usize> = token_rewards.iter().map(Vec::len).collect();
    if got == expected {
        Ok(())
    } else {
        Err(Error::Shape { name: "token rewards", expected: format!("tokens {expected:?}"), got })
    }
}

/// Rewards and values of all episodes, one after another.
struct Flat {
    /// One reward per turn.
    turn_rewards: Vec<f64>,
    /// One reward per sampled token.
    token_rewards: Option<Vec<f64>>,
    /// One value per sampled token.
    values: Vec<f64>,
    /// Sampled tokens of each turn.
    lengths: Vec<usize>,
    layout: TokenLayout,
    gae: Gae,
}

impl Flat {
    /// Advantages and value targets of all tokens.
    fn estimate(&self, level: GaeLevel) -> Result<(Vec<f64>, Vec<f64>)> {
        match level {
            GaeLevel::Token => {
                gae_within_turns(&self.rewards_of_tokens(), &self.values, &self.layout, self.gae)
            }
            GaeLevel::Trajectory => {
                let rewards = self.rewards_of_tokens();
                gae_over_trajectories(&rewards, &self.values, &self.layout, self.gae)
            }
            GaeLevel::Turn => self.over_turns(),
        }
    }

    /// One reward per token: its own, plus that of its turn if it is the turn's last.
    fn rewards_of_tokens(&self) -> Vec<f64> {
        let mut rewards = match &self.token_rewards {
            Some(token_rewards) => token_rewards.clone(),
            None => vec![0.0; self.values.len()],
        };
        let mut end = 0;
        for (reward, n) in self.turn_rewards.iter().zip(&self.lengths) {
            end += n;
            rewards[end - 1] += reward;
        }
        rewards
    }

    /// [`gae_over_turns`] on the values before the turns' first tokens, spread over all tokens.
    fn over_turns(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut rewards = Vec::new();
        let mut values = Vec::new();
        let mut trajectories = Vec::new();
        let mut first = 0;
        for (reward, &n) in self.turn_rewards.iter().zip(&self.lengths) {
            let of_tokens = self.token_rewards.as_ref();
            rewards.push(reward + of_tokens.map_or(0.0, |all| all[first..first + n].iter().sum()));
            values.push(self.values[first]);
            trajectories.push(self.layout.trajectories()[first]);
            first += n;
        }
        let (advantages, returns) = gae_over_turns(&rewards, &values, &trajectories, self.gae)?;
        Ok((self.spread(&advantages), self.spread(&returns)))
    }

    /// Repeats each turn's number for all its tokens.
    fn spread(&self, of_turns: &[f64]) -> Vec<f64> {
        let turns = of_turns.iter().zip(&self.lengths);
        turns.flat_map(|(&x, &n)| std::iter::repeat_n(x, n)).collect()
    }
}

/// Explained variance 1 − Var(R − V)/Var(R) over all tokens (verl `critic/vf_explained_var`).
///
/// It is 1 for perfect values, 0 for values no better than a constant, and negative for worse ones;
/// `None` if the returns do not vary.
pub fn explained_variance(values: &[Vec<f64>], returns: &[Vec<f64>]) -> Option<f64> {
    let variance = |xs: Vec<f64>| {
        let mean = xs.iter().sum::<f64>() / xs.len() as f64;
        xs.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>()
    };
    let pairs = values.iter().flatten().zip(returns.iter().flatten());
    let total = variance(returns.concat());
    (total > 0.0).then(|| 1.0 - variance(pairs.map(|(v, r)| r - v).collect()) / total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::trajectory::Turn;

    /// An episode of turns of (sampled tokens, understood).
    fn episode(turns: &[(usize, bool)]) -> Trajectory {
        let turn = |&(n, valid): &(usize, bool)| Turn {
            action_ids: vec![7; n],
            prompt_ids: vec![1; 5],
            valid,
            ..Turn::default()
        };
        Trajectory::of_turns(turns.iter().map(turn).collect())
    }

    fn config(level: GaeLevel) -> GaeConfig {
        let half = Unit::literal(0.5);
        let invalid_penalty = NonNegative::literal(0.25);
        GaeConfig { level, gamma: half, lambda: half, whiten: false, invalid_penalty }
    }

    #[track_caller]
    fn assert_near(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?}, not {want:?}");
    }

    /// Two turns of 2 and 1 tokens, the second not understood; rewards 1 and 2, values 0.5, 0.25
    /// and 1.
    fn credit(level: GaeLevel) -> TokenCredit {
        let played = [episode(&[(2, true), (1, false)])];
        token_advantages(&played, &[vec![1.0, 2.0]], None, &[vec![0.5, 0.25, 1.0]], &config(level))
            .unwrap()
    }

    #[test]
    fn over_a_trajectory_tokens_bootstrap_across_turns() {
        // Rewards of tokens 0, 1, 1.75.
        // δ₂ = 1.75 − 1 = 0.75; δ₁ = 1 + 0.5·1 − 0.25 = 1.25; δ₀ = 0.5·0.25 − 0.5 = −0.375.
        // A₂ = 0.75; A₁ = 1.25 + 0.25·0.75 = 1.4375; A₀ = −0.375 + 0.25·1.4375 = −0.015625.
        let got = credit(GaeLevel::Trajectory);
        assert_near(&got.advantages[0], &[-0.015625, 1.4375, 0.75]);
        assert_near(&got.returns[0], &[0.484375, 1.6875, 1.75]);
    }

    #[test]
    fn turns_alone_each_get_the_episodes_reward_and_their_own_penalty() {
        // Turn 0: reward 3 at token 1. A₁ = 3 − 0.25 = 2.75; A₀ = 0.5·0.25 − 0.5 + 0.25·2.75 =
        // 0.3125. Turn 1: reward 3 − 0.25. A₂ = 2.75 − 1 = 1.75.
        let got = credit(GaeLevel::Token);
        assert_near(&got.advantages[0], &[0.3125, 2.75, 1.75]);
        assert_near(&got.returns[0], &[0.8125, 3.0, 2.75]);
    }

    #[test]
    fn over_turns_the_first_tokens_value_counts_for_all_tokens() {
        // Values of turns 0.5 and 1. A₁ = 1.75 − 1 = 0.75; A₀ = 1 + 0.5·1 − 0.5 + 0.25·0.75 =
        // 1.1875.
        let got = credit(GaeLevel::Turn);
        assert_near(&got.advantages[0], &[1.1875, 1.1875, 0.75]);
        assert_near(&got.returns[0], &[1.6875, 1.6875, 1.75]);
    }

    #[test]
    fn whitening_is_over_all_tokens_and_leaves_the_value_targets() {
        let played = [episode(&[(1, true)]), episode(&[(1, true), (1, true)])];
        let white = GaeConfig { whiten: true, ..config(GaeLevel::Token) };
        let rewards = [vec![1.0], vec![2.0, 4.0]];
        let got = token_advantages(&played, &rewards, None, &[vec![0.0], vec![3.0, 1.0]], &white)
            .unwrap();
        // Advantages 1, 3, 5 before: mean 3, unbiased variance 4.
        let pairs = got.advantages.concat().into_iter().zip([-1.0, 0.0, 1.0]);
        assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-8), "{pairs:?}");
        assert_eq!(got.returns, [vec![1.0], vec![6.0, 6.0]]);
        let alone = token_advantages(&played[..1], &rewards[..1], None, &[vec![0.0]], &white);
        assert!(matches!(alone, Err(Error::EmptyMask { .. })));
    }

    #[test]
    fn episodes_do_not_leak_into_each_other() {
        let played = [episode(&[(2, true)]), episode(&[(1, true), (3, false)])];
        let rewards = [vec![1.0], vec![0.5, 2.0]];
        let values = [vec![0.1, 0.2], vec![0.3, 0.4, 0.5, 0.6]];
        for level in [GaeLevel::Token, GaeLevel::Turn, GaeLevel::Trajectory] {
            let both = token_advantages(&played, &rewards, None, &values, &config(level)).unwrap();
            for i in 0..2 {
                let one = |lists: &[Vec<f64>; 2]| [lists[i].clone()];
                let played = &played[i..=i];
                let alone =
                    token_advantages(played, &one(&rewards), None, &one(&values), &config(level))
                        .unwrap();
                assert_eq!(alone.advantages[0], both.advantages[i]);
                assert_eq!(alone.returns[0], both.returns[i]);
            }
        }
    }

    #[test]
    fn errors_name_the_setting_or_the_list() {
        let default = GaeConfig::default();
        for bad in ["gamma = 1.5", "lambda = nan", "invalid_penalty = -1.0"] {
            let error = toml::from_str::<GaeConfig>(bad).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("must be"), "{error}");
        }
        let played = [episode(&[(2, true)])];
        let of = |rewards: Vec<f64>, values: Vec<f64>| {
            token_advantages(&played, &[rewards], None, &[values], &default)
        };
        assert!(matches!(
            of(vec![], vec![0.0; 2]).unwrap_err(),
            Error::Shape { name: "rewards", .. }
        ));
        assert!(matches!(
            of(vec![1.0], vec![0.0]).unwrap_err(),
            Error::Shape { name: "values", .. }
        ));
        assert!(matches!(of(vec![1.0], vec![0.0, f64::NAN]).unwrap_err(), Error::NonFinite { .. }));
        let empty = [episode(&[(0, true)])];
        let error = token_advantages(&empty, &[vec![1.0]], None, &[vec![]], &default).unwrap_err();
        assert!(matches!(error, Error::Shape { name: "turns", .. }));
    }

    #[test]
    fn explained_variance_of_known_values() {
        let returns = [vec![1.0, 2.0], vec![3.0]];
        assert_eq!(explained_variance(&returns, &returns), Some(1.0));
        assert_eq!(explained_variance(&[vec![5.0, 5.0], vec![5.0]], &returns), Some(0.0));
        // R − V = 2, 2, −1 with squares about their mean 1 of 6; R's are 2.
        assert_eq!(explained_variance(&[vec![-1.0, 0.0], vec![4.0]], &returns), Some(-2.0));
        assert_eq!(explained_variance(&[vec![1.0]], &[vec![2.0]]), None);
    }
}
