//! Credit for tokens: advantages and value targets from a critic's values, by generalised advantage estimation.

use serde::{Deserialize, Serialize};

use crate::advantage::critic::{gae_over_trajectories, gae_over_turns, gae_within_turns, Gae};
use crate::advantage::whiten::whiten_tokens;
use crate::objective::layout::TokenLayout;
use crate::rollout::trajectory::Trajectory;
use crate::settings::{NonNegative, Unit};
use crate::train::credit::group::penalised;
use crate::{Error, Result};

/// What one step of the estimation is: over what γ and λ decay, and where values are bootstrapped from.
///
/// In each form only sampled tokens count: prompts and observations are skipped, and nothing is bootstrapped beyond an
/// episode's end, whatever ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GaeLevel {
    /// Every turn by itself, as EPO's authors train (verl `compute_gae_advantage_return` on rows of turns): the *episode's*
    /// return at the turn's last token, the penalty of this turn alone, and no bootstrap from the next turn.
    Token,
    /// A step is a turn: its value is that before its first token, its advantage that of all its tokens, and so is its value
    /// target.
    Turn,
    /// A step is a sampled token of the whole episode; a turn's reward is paid at its last token, from which the estimation
    /// goes on to the first token of the next turn.
    #[default]
    Trajectory,
}

/// How rewards and values become advantages of tokens: A = Σ (γλ)ᵏ δₜ₊ₖ with δₜ = rₜ + γVₜ₊₁ − Vₜ (GAE, Schulman 2016).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaeConfig {
    /// What a step is.
    pub level: GaeLevel,
    /// γ, the discount of a step, in [0, 1].
    pub gamma: Unit,
    /// λ in [0, 1]: 1 takes what was earned, 0 believes the next value.
    pub lambda: Unit,
    /// Shift and scale the advantages of all sampled tokens of a step to mean 0 and variance 1 (verl `masked_whiten`); value
    /// targets stay as they are.
    pub whiten: bool,
    /// What an action that the environment does not understand costs, in units of the reward.
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

/// One number for each sampled token of each trajectory, turn after turn.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenCredit {
    /// Advantages, whitened where that is set.
    pub advantages: Vec<Vec<f64>>,
    /// Value targets A + V of the advantages before whitening.
    pub returns: Vec<Vec<f64>>,
}

/// Advantages and value targets of all sampled tokens.
///
/// `rewards` holds one reward a turn, before the penalty for actions not understood; `tokens`, where given, what each
/// sampled token is paid beside; `values` one value a sampled token, that of the state before it
/// ([`crate::train::learn::Critic::values`]). At [`GaeLevel::Turn`] a turn is paid the sum of its tokens', at the other levels each token
/// its own.
///
/// # Errors
/// [`Error::Setting`] for a setting out of range, [`Error::Shape`] where lengths differ or a turn has no token,
/// [`Error::NonFinite`], [`Error::EmptyMask`] without tokens, or where a single one is to be whitened.
pub fn token_advantages(
    trajectories: &[Trajectory],
    rewards: &[Vec<f64>],
    tokens: Option<&[Vec<f64>]>,
    values: &[Vec<f64>],
    config: &GaeConfig,
) -> Result<TokenCredit> {
    let mut paid = penalised(trajectories, rewards, config.invalid_penalty.get())?;
    if config.level == GaeLevel::Token {
        // Every turn is paid the whole episode, less its own penalty.
        for (paid, rewards) in paid.iter_mut().zip(rewards) {
            let episode: f64 = rewards.iter().sum();
            paid.iter_mut()
                .zip(rewards)
                .for_each(|(paid, reward)| *paid = episode + (*paid - reward));
        }
    }
    let lengths = turn_lengths(trajectories, values)?;
    if let Some(tokens) = tokens {
        check_same_lengths(values, tokens)?;
    }
    let layout = one_token_a_row(&lengths)?;
    let (turns, beside, lengths) = (paid.concat(), tokens.map(<[_]>::concat), lengths.concat());
    let (values_n, gae) =
        (values.concat(), Gae { gamma: config.gamma.get(), lambda: config.lambda.get() });
    let at_tokens = || at_last_tokens(&turns, beside.as_deref(), &lengths);
    let (mut advantages, returns) = match config.level {
        GaeLevel::Token => gae_within_turns(&at_tokens(), &values_n, &layout, gae)?,
        GaeLevel::Trajectory => gae_over_trajectories(&at_tokens(), &values_n, &layout, gae)?,
        GaeLevel::Turn => over_turns(&turns, beside.as_deref(), &values_n, &lengths, &layout, gae)?,
    };
    if config.whiten {
        advantages = whiten_tokens(&advantages, &layout)?;
    }
    let split = |of_tokens: Vec<f64>| {
        let mut rest = of_tokens.into_iter();
        values.iter().map(|values| rest.by_ref().take(values.len()).collect()).collect()
    };
    Ok(TokenCredit { advantages: split(advantages), returns: split(returns) })
}

/// All sampled tokens one after another, every one a row.
fn one_token_a_row(lengths: &[Vec<usize>]) -> Result<TokenLayout> {
    let (mut turns, mut trajectories) = (Vec::new(), Vec::new());
    for (trajectory, lengths) in lengths.iter().enumerate() {
        for (turn, &n) in lengths.iter().enumerate() {
            turns.extend(std::iter::repeat_n(turn, n));
            trajectories.extend(std::iter::repeat_n(trajectory, n));
        }
    }
    TokenLayout::new(1, vec![true; turns.len()], turns, trajectories)
}

/// Sampled tokens of each turn; each turn has some, and together they have a value each.
fn turn_lengths(trajectories: &[Trajectory], values: &[Vec<f64>]) -> Result<Vec<Vec<usize>>> {
    let of = |t: &Trajectory| t.turns.iter().map(|turn| turn.action_ids.len()).collect::<Vec<_>>();
    let lengths: Vec<Vec<usize>> = trajectories.iter().map(of).collect();
    if let Some(got) = lengths.iter().find(|lengths| lengths.contains(&0)) {
        let expected = "at least one sampled token a turn".into();
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

fn check_same_lengths(values: &[Vec<f64>], tokens: &[Vec<f64>]) -> Result<()> {
    let [expected, got] =
        [values, tokens].map(|lists| lists.iter().map(Vec::len).collect::<Vec<_>>());
    if got == expected {
        Ok(())
    } else {
        Err(Error::Shape { name: "token rewards", expected: format!("tokens {expected:?}"), got })
    }
}

/// `rewards` of turns, each at the turn's last token, and what tokens are paid `beside`.
fn at_last_tokens(rewards: &[f64], beside: Option<&[f64]>, lengths: &[usize]) -> Vec<f64> {
    let mut paid = beside.map_or_else(|| vec![0.0; lengths.iter().sum()], <[f64]>::to_vec);
    let mut end = 0;
    for (reward, n) in rewards.iter().zip(lengths) {
        end += n;
        paid[end - 1] += reward;
    }
    paid
}

/// [`gae_over_turns`] on the values before the turns' first tokens, its results spread over the turns' tokens.
fn over_turns(
    rewards: &[f64],
    beside: Option<&[f64]>,
    values: &[f64],
    lengths: &[usize],
    layout: &TokenLayout,
    gae: Gae,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut paid, mut firsts, mut trajectories) = (Vec::new(), Vec::new(), Vec::new());
    let mut first = 0;
    for (reward, &n) in rewards.iter().zip(lengths) {
        let beside = beside.map_or(0.0, |beside| beside[first..first + n].iter().sum());
        paid.push(reward + beside);
        firsts.push(values[first]);
        trajectories.push(layout.trajectories()[first]);
        first += n;
    }
    let (advantages, returns) = gae_over_turns(&paid, &firsts, &trajectories, gae)?;
    let spread = |of_turns: Vec<f64>| {
        of_turns.into_iter().zip(lengths).flat_map(|(x, &n)| std::iter::repeat_n(x, n)).collect()
    };
    Ok((spread(advantages), spread(returns)))
}

/// 1 − Var(R − V)/Var(R) over all tokens: 1 where values foresee everything, 0 where they are as good as one constant,
/// negative where worse; `None` where the returns do not vary (verl `critic/vf_explained_var`).
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
    use crate::env::{Start, Task};
    use crate::rollout::trajectory::{End, Turn};

    /// An episode of turns of (sampled tokens, understood).
    fn episode(turns: &[(usize, bool)]) -> Trajectory {
        let turn = |&(n, valid): &(usize, bool)| Turn {
            action_ids: vec![7; n],
            prompt_ids: vec![1; 5],
            valid,
            ..Turn::default()
        };
        let start = Start { goal: String::new(), observation: String::new() };
        let task = Task { name: "t".into(), variation: 0 };
        let turns = turns.iter().map(turn).collect();
        Trajectory { task, group: 0, member: 0, start, turns, success: false, end: End::Done }
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

    /// Two turns of 2 and 1 tokens, the second not understood; rewards 1 and 2, values 0.5, 0.25, 1.
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
    fn turns_alone_are_each_paid_the_episode_and_their_own_penalty() {
        // Turn 0: reward 3 at token 1. A₁ = 3 − 0.25 = 2.75; A₀ = 0.5·0.25 − 0.5 + 0.25·2.75 = 0.3125.
        // Turn 1: reward 3 − 0.25. A₂ = 2.75 − 1 = 1.75.
        let got = credit(GaeLevel::Token);
        assert_near(&got.advantages[0], &[0.3125, 2.75, 1.75]);
        assert_near(&got.returns[0], &[0.8125, 3.0, 2.75]);
    }

    #[test]
    fn over_turns_the_first_tokens_value_counts_and_all_tokens_share() {
        // Values of turns 0.5 and 1. A₁ = 1.75 − 1 = 0.75; A₀ = 1 + 0.5·1 − 0.5 + 0.25·0.75 = 1.1875.
        let got = credit(GaeLevel::Turn);
        assert_near(&got.advantages[0], &[1.1875, 1.1875, 0.75]);
        assert_near(&got.returns[0], &[1.6875, 1.6875, 1.75]);
    }

    #[test]
    fn whitening_is_over_all_tokens_and_leaves_the_targets() {
        let played = [episode(&[(1, true)]), episode(&[(1, true), (1, true)])];
        let white = GaeConfig { whiten: true, ..config(GaeLevel::Token) };
        let rewards = [vec![1.0], vec![2.0, 4.0]];
        let got = token_advantages(&played, &rewards, None, &[vec![0.0], vec![3.0, 1.0]], &white)
            .unwrap();
        // Advantages 1, 3, 5 before: mean 3, unbiased variance 4.
        assert!(got
            .advantages
            .concat()
            .iter()
            .zip([-1.0, 0.0, 1.0])
            .all(|(a, b)| (a - b).abs() < 1e-8));
        assert_eq!(got.returns, [vec![1.0], vec![6.0, 6.0]]);
        let alone = token_advantages(&played[..1], &rewards[..1], None, &[vec![0.0]], &white);
        assert!(matches!(alone, Err(Error::EmptyMask { .. })));
    }

    #[test]
    fn episodes_do_not_leak_into_each_other() {
        let played = [episode(&[(2, true)]), episode(&[(1, true), (3, false)])];
        let (rewards, values) =
            ([vec![1.0], vec![0.5, 2.0]], [vec![0.1, 0.2], vec![0.3, 0.4, 0.5, 0.6]]);
        for level in [GaeLevel::Token, GaeLevel::Turn, GaeLevel::Trajectory] {
            let both = token_advantages(&played, &rewards, None, &values, &config(level)).unwrap();
            for i in 0..2 {
                let one = |lists: &[Vec<f64>; 2]| [lists[i].clone()];
                let alone = token_advantages(
                    &played[i..=i],
                    &one(&rewards),
                    None,
                    &one(&values),
                    &config(level),
                )
                .unwrap();
                assert_eq!(
                    (&alone.advantages[0], &alone.returns[0]),
                    (&both.advantages[i], &both.returns[i])
                );
            }
        }
    }

    #[test]
    fn bad_settings_and_lengths_name_themselves() {
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
