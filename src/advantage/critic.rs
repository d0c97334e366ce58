//! Generalised advantage estimation over turns and over trajectories.
//!
//! Every function follows the *turns* of a trajectory, so turn rows and concatenated rows give the
//! same numbers. Tokens that were not generated (prompts, observations, padding) do not advance a
//! recursion: their rewards and values are not read, and their results are zero. No function
//! whitens: apply [`whiten_tokens`](crate::advantage::whiten_tokens) to the advantages of the whole
//! batch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::advantage::token::gae;
use crate::advantage::{check_finite, check_len};
use crate::objective::layout::TokenLayout;
use crate::{Error, Result};

/// γ and λ of one recursion.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gae {
    /// γ in [0, 1], the discount of later rewards.
    pub gamma: f64,
    /// λ in [0, 1]: 0 bootstraps from the next value, 1 uses the rewards alone.
    pub lambda: f64,
}

impl Default for Gae {
    /// The authors' γ = λ = 1: A = R − V.
    fn default() -> Self {
        Self { gamma: 1.0, lambda: 1.0 }
    }
}

impl Gae {
    /// Checks both numbers.
    ///
    /// # Errors
    /// [`Error::Setting`] naming `advantage.gamma` or `advantage.lambda`.
    pub fn validate(&self) -> Result<()> {
        for (field, value) in [("advantage.gamma", self.gamma), ("advantage.lambda", self.lambda)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::setting(field, value, "must lie in [0, 1]"));
            }
        }
        Ok(())
    }
}

/// Advantages A and returns A + V.
pub type Estimate = (Vec<f64>, Vec<f64>);

/// Returns token-level GAE that restarts in every turn: the last token of a turn sees its reward
/// alone, and nothing is bootstrapped across turns (verl-agent on turn rows). All lists are [B·T].
///
/// # Errors
/// [`Error::Setting`], [`Error::Shape`] if the lengths differ, [`Error::NonFinite`] at a masked-in
/// token.
pub fn gae_within_turns(
    rewards: &[f64],
    values: &[f64],
    layout: &TokenLayout,
    gae: Gae,
) -> Result<Estimate> {
    over_tokens(rewards, values, layout, gae, |trajectory| trajectory.into_values().collect())
}

/// Returns token-level GAE over a whole trajectory: the last token of a turn bootstraps from the
/// first token of the next turn, past the tokens in between that were not generated. verl does this
/// on concatenated rows, but its unmasked recursion also discounts observation tokens. All lists
/// are [B·T].
///
/// # Errors
/// As [`gae_within_turns`].
pub fn gae_over_trajectories(
    rewards: &[f64],
    values: &[f64],
    layout: &TokenLayout,
    gae: Gae,
) -> Result<Estimate> {
    over_tokens(rewards, values, layout, gae, |trajectory| {
        vec![trajectory.into_values().flatten().collect()]
    })
}

/// Returns turn-level GAE: one reward, value, advantage and return per turn. `trajectories` holds
/// each turn's trajectory, in the order of time.
///
/// # Errors
/// [`Error::Setting`], [`Error::Shape`] if the lengths differ, [`Error::NonFinite`].
pub fn gae_over_turns(
    rewards: &[f64],
    values: &[f64],
    trajectories: &[usize],
    gae: Gae,
) -> Result<Estimate> {
    gae.validate()?;
    check_len("trajectories", trajectories.len(), rewards.len())?;
    check_len("values", values.len(), rewards.len())?;
    let mut turns: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (turn, &trajectory) in trajectories.iter().enumerate() {
        turns.entry(trajectory).or_default().push(turn);
    }
    scatter(rewards, values, turns.into_values().collect(), gae)
}

/// Returns bi-level GAE (RAGEN, `compute_bi_level_gae_advantage_return`). The recursion `turns`
/// runs over the last tokens of a trajectory's turns; then `tokens` runs within every turn, whose
/// last token has the advantage of its turn in place of a reward. All lists are [B·T].
///
/// The reward of a turn is that of its last token. RAGEN detects the ends of turns by a nonzero
/// reward and so skips turns without one; here every turn counts.
///
/// # Errors
/// As [`gae_within_turns`].
pub fn gae_bi_level(
    rewards: &[f64],
    values: &[f64],
    layout: &TokenLayout,
    turns: Gae,
    tokens: Gae,
) -> Result<Estimate> {
    turns.validate()?;
    check(rewards, values, layout)?;
    let last_tokens =
        |trajectory: Turns| trajectory.into_values().filter_map(|t| t.last().copied()).collect();
    let ends: Vec<Vec<usize>> = trajectories(layout).into_values().map(last_tokens).collect();
    let (_, returns) = scatter(rewards, values, ends.clone(), turns)?;
    let mut rewards = rewards.to_vec();
    for end in ends.into_iter().flatten() {
        rewards[end] = returns[end];
    }
    gae_within_turns(&rewards, values, layout, tokens)
}

/// The masked-in positions of a trajectory's turns, by turn index.
type Turns = BTreeMap<usize, Vec<usize>>;

fn trajectories(layout: &TokenLayout) -> BTreeMap<usize, Turns> {
    let mut trajectories: BTreeMap<usize, Turns> = BTreeMap::new();
    for i in (0..layout.mask().len()).filter(|&i| layout.mask()[i]) {
        let turns = trajectories.entry(layout.trajectories()[i / layout.tokens()]).or_default();
        turns.entry(layout.turns()[i]).or_default().push(i);
    }
    trajectories
}

fn over_tokens(
    rewards: &[f64],
    values: &[f64],
    layout: &TokenLayout,
    gae: Gae,
    chains: impl Fn(Turns) -> Vec<Vec<usize>>,
) -> Result<Estimate> {
    gae.validate()?;
    check(rewards, values, layout)?;
    scatter(rewards, values, trajectories(layout).into_values().flat_map(chains).collect(), gae)
}

/// Runs GAE along every chain of positions; results are at their positions, zero elsewhere.
fn scatter(
    rewards: &[f64],
    values: &[f64],
    chains: Vec<Vec<usize>>,
    settings: Gae,
) -> Result<Estimate> {
    let mut advantages = vec![0.0; rewards.len()];
    let mut returns = vec![0.0; rewards.len()];
    for chain in chains {
        let of = |list: &[f64]| chain.iter().map(|&i| list[i]).collect::<Vec<_>>();
        let (a, r) = gae(&of(rewards), &of(values), settings.gamma, settings.lambda)?;
        for (k, i) in chain.into_iter().enumerate() {
            (advantages[i], returns[i]) = (a[k], r[k]);
        }
    }
    Ok((advantages, returns))
}

fn check(rewards: &[f64], values: &[f64], layout: &TokenLayout) -> Result<()> {
    for (name, list) in [("rewards", rewards), ("values", values)] {
        check_len(name, list.len(), layout.mask().len())?;
        let generated = |(&x, &m): (&f64, &bool)| if m { x } else { 0.0 };
        check_finite(name, &list.iter().zip(layout.mask()).map(generated).collect::<Vec<_>>())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Gae = Gae { gamma: 0.5, lambda: 1.0 };

    /// One trajectory: two tokens, an observation token, one token.
    fn layout() -> TokenLayout {
        TokenLayout::new(4, vec![true, true, false, true], vec![0, 0, 0, 1], vec![3]).unwrap()
    }

    #[test]
    fn an_observation_token_costs_no_discount() {
        let (rewards, values) = ([0.0, 1.0, f64::NAN, 4.0], [0.0, 0.0, f64::NAN, 0.0]);
        let (whole, _) = gae_over_trajectories(&rewards, &values, &layout(), HALF).unwrap();
        assert_eq!(whole, [1.5, 3.0, 0.0, 4.0]);
        let (within, _) = gae_within_turns(&rewards, &values, &layout(), HALF).unwrap();
        assert_eq!(within, [0.5, 1.0, 0.0, 4.0]);
        let (both, _) = gae_bi_level(&rewards, &values, &layout(), Gae::default(), HALF).unwrap();
        assert_eq!(both, [2.5, 5.0, 0.0, 4.0]);
        let (turns, returns) =
            gae_over_turns(&[1.0, 9.0, 4.0], &[0.5, 1.0, 2.0], &[3, 0, 3], HALF).unwrap();
        assert_eq!(turns, [2.5, 8.0, 2.0]);
        assert_eq!(returns, [3.0, 9.0, 4.0]);
    }

    #[test]
    fn bad_numbers_are_named() {
        let zeros = [0.0; 4];
        let steep = Gae { lambda: 1.5, ..HALF };
        let error = gae_bi_level(&zeros, &zeros, &layout(), HALF, steep).unwrap_err();
        assert!(error.to_string().contains("advantage.lambda"), "{error}");
        assert!(gae_over_turns(&zeros, &zeros, &[0; 4], Gae { gamma: -0.1, lambda: 1.0 }).is_err());
        let short = gae_within_turns(&zeros, &zeros[1..], &layout(), HALF);
        assert!(matches!(short, Err(Error::Shape { name: "values", .. })));
        let bad = gae_within_turns(&[0.0, f64::NAN, 0.0, 0.0], &zeros, &layout(), HALF);
        assert!(matches!(bad, Err(Error::NonFinite { name, .. }) if name == "rewards"));
    }
}
