//! Group-in-group policy optimisation: compares episodes as GRPO does, and also turns that start
//! from the same observation.

use std::collections::HashMap;
use std::hash::Hash;

use crate::advantage::group::Stats;
use crate::advantage::group::{grpo, Groups};
use crate::advantage::{check_finite, check_len};
use crate::Result;

/// Returns GiGPO's advantages A = A_episode + w·A_step, one per row; a row is a turn (arXiv
/// 2505.10978; `gigpo/core_gigpo.py`).
///
/// A_episode is [`grpo`] over rows on `scores`; A_step centres `step_returns` (see
/// [`discounted_returns`]) among the rows of a group whose `anchors` (observations before the turn)
/// are equal, so a turn alone with its observation gets 0. `by_std` divides both by their standard
/// deviations (`mean_std_norm`).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the lengths differ,
/// [`Error::NonFinite`](crate::Error::NonFinite).
pub fn gigpo<A: Hash + Eq>(
    scores: &[f64],
    step_returns: &[f64],
    groups: &[usize],
    anchors: &[A],
    step_weight: f64,
    by_std: bool,
) -> Result<Vec<f64>> {
    check_len("step_returns", step_returns.len(), groups.len())?;
    check_len("anchors", anchors.len(), groups.len())?;
    check_finite("step_returns", step_returns)?;
    let mut members: HashMap<(usize, &A), Vec<f64>> = HashMap::new();
    for (row, anchor) in anchors.iter().enumerate() {
        members.entry((groups[row], anchor)).or_default().push(step_returns[row]);
    }
    let mut advantages = grpo(scores, &Groups::over_rows(groups), by_std)?;
    for (row, anchor) in anchors.iter().enumerate() {
        let stats = Stats::new(&members[&(groups[row], anchor)]);
        advantages[row] += step_weight * stats.scale(stats.difference(step_returns[row]), by_std);
    }
    Ok(advantages)
}

/// Returns Rₜ = rₜ + γRₜ₊₁ over the turns of every trajectory, in row order
/// (`compute_step_discounted_returns`).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the lengths differ,
/// [`Error::NonFinite`](crate::Error::NonFinite).
pub fn discounted_returns(rewards: &[f64], trajectories: &[usize], gamma: f64) -> Result<Vec<f64>> {
    check_len("trajectories", trajectories.len(), rewards.len())?;
    check_finite("rewards", rewards)?;
    let mut running: HashMap<usize, f64> = HashMap::new();
    let mut returns = vec![0.0; rewards.len()];
    for row in (0..rewards.len()).rev() {
        let next = running.entry(trajectories[row]).or_insert(0.0);
        *next = rewards[row] + gamma * *next;
        returns[row] = *next;
    }
    Ok(returns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_are_discounted_within_each_trajectory() {
        let returns = discounted_returns(&[1.0, 5.0, 2.0, 4.0], &[0, 1, 0, 0], 0.5).unwrap();
        assert_eq!(returns, [3.0, 5.0, 4.0, 4.0]);
    }

    #[test]
    fn turns_from_the_same_observation_are_compared() {
        let advantages = gigpo(
            &[1.0, 1.0, 1.0],
            &[4.0, 2.0, 9.0],
            &[0, 0, 0],
            &["door", "door", "lamp"],
            0.5,
            false,
        );
        assert_eq!(advantages.unwrap(), [0.5, -0.5, 0.0]);
    }
}
