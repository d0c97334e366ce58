//! Dynamic sampling: groups of episodes with equal returns are replaced by groups of other tasks.
//!
//! A group whose episodes all have the same return has no advantage and no gradient. Early and late
//! in a run most groups are like that, and a step would train on a small part of its budget.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::advantage::dapo::informative_groups;
use crate::rollout::engine::Rollouts;
use crate::rollout::trajectory::Trajectory;
use crate::train::credit::reward::RewardConfig;
use crate::{Error, Result};

/// Settings of dynamic sampling: a step plays rounds until it has `rollout.tasks` informative
/// groups (DAPO, arXiv 2503.14476, eq. 11; verl `filter_groups`).
///
/// A group is informative if the returns of its episodes differ in the environment's rewards
/// ([`RewardConfig`]). Penalties do not count: they would make nearly every group differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicSampling {
    /// Maximum number of rounds of `rollout.tasks` tasks per step, 1 to 1000. With 1, groups are
    /// filtered but not replaced.
    pub max_rounds: u64,
}

impl DynamicSampling {
    /// Checks the number of rounds, and that a group has at least two episodes.
    ///
    /// # Errors
    /// [`Error::Setting`] with the key of a field out of range.
    pub fn validate(&self, group: usize) -> Result<()> {
        if !(1..=1000).contains(&self.max_rounds) {
            let reason = "must be between 1 and 1000";
            return Err(Error::setting("dynamic_sampling.max_rounds", self.max_rounds, reason));
        }
        if group < 2 {
            let reason = format!("needs rollout.group to be at least 2, but it is {group}");
            return Err(Error::setting("dynamic_sampling", "set", reason));
        }
        Ok(())
    }
}

/// Result of dynamic sampling: the episodes to train on, the others, and counters.
#[derive(Debug, Clone)]
pub struct InformativeGroups {
    /// The episodes to train on, with the counters and times of all played episodes.
    pub rollouts: Rollouts,
    /// The other played episodes.
    pub unused: Vec<Trajectory>,
    /// Rounds played.
    pub rounds: u64,
    /// Groups played.
    pub played_groups: usize,
    /// Informative groups among the episodes to train on; 0 if these are the unfiltered last round.
    pub kept_groups: usize,
    /// Share of solved episodes among all played episodes.
    pub success: f64,
}

impl InformativeGroups {
    /// The metrics of a step's record.
    pub(crate) fn metrics(&self) -> [(&'static str, f64); 4] {
        [
            ("sampling/rounds", self.rounds as f64),
            ("sampling/played_groups", self.played_groups as f64),
            ("sampling/kept_groups", self.kept_groups as f64),
            ("sampling/success", self.success),
        ]
    }
}

/// Plays rounds until there are `tasks` informative groups or the maximum number of rounds is
/// reached.
///
/// `play` plays one round, given its index from 0; groups of different rounds must have different
/// numbers. Surplus groups are dropped, the last ones first. If no group of any round is
/// informative, the last round is kept unfiltered, so that a step always has episodes.
///
/// # Errors
/// A setting out of range, a return that is not finite, or an error of `play`.
pub fn sample_informative(
    settings: DynamicSampling,
    tasks: usize,
    reward: &RewardConfig,
    play: &mut dyn FnMut(u64) -> Result<Rollouts>,
) -> Result<InformativeGroups> {
    settings.validate(2)?;
    let mut kept = Rollouts::default();
    let mut unused = Vec::new();
    let mut played = BTreeSet::new();
    let mut rounds = 0;
    let mut episodes = 0;
    let mut solved = 0;
    let last_rejected = loop {
        let round = play(rounds)?;
        rounds += 1;
        kept.stats += round.stats;
        episodes += round.trajectories.len();
        solved += round.trajectories.iter().filter(|t| t.success).count();
        played.extend(round.trajectories.iter().map(|t| t.group));
        let rejected = split(round.trajectories, reward, &mut kept.trajectories)?;
        if groups(&kept.trajectories).len() >= tasks || rounds == settings.max_rounds {
            break rejected;
        }
        unused.extend(rejected);
    };
    let first: BTreeSet<u32> = groups(&kept.trajectories).into_iter().take(tasks).collect();
    let (used, surplus): (Vec<_>, Vec<_>) =
        kept.trajectories.into_iter().partition(|t| first.contains(&t.group));
    unused.extend(surplus);
    if first.is_empty() {
        kept.trajectories = last_rejected;
    } else {
        kept.trajectories = used;
        unused.extend(last_rejected);
    }
    Ok(InformativeGroups {
        rollouts: kept,
        unused,
        rounds,
        played_groups: played.len(),
        kept_groups: first.len(),
        success: solved as f64 / episodes.max(1) as f64,
    })
}

fn groups(trajectories: &[Trajectory]) -> BTreeSet<u32> {
    trajectories.iter().map(|t| t.group).collect()
}

/// Moves the episodes of informative groups to `kept`; returns the others.
fn split(
    trajectories: Vec<Trajectory>,
    reward: &RewardConfig,
    kept: &mut Vec<Trajectory>,
) -> Result<Vec<Trajectory>> {
    // The order of addition changes the last bits of sums that are equal on paper.
    let rounded = |rewards: &Vec<f64>| (rewards.iter().sum::<f64>() * 1e9).round();
    let returns: Vec<f64> = reward.of(&trajectories).iter().map(rounded).collect();
    let groups: Vec<usize> = trajectories.iter().map(|t| t.group as usize).collect();
    let informative = informative_groups(&returns, &groups)?;
    let mut rejected = Vec::new();
    for (trajectory, informative) in trajectories.into_iter().zip(informative) {
        if informative {
            kept.push(trajectory);
        } else {
            rejected.push(trajectory);
        }
    }
    Ok(rejected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::engine::PlayStats;
    use crate::rollout::trajectory::Turn;
    use crate::settings::Positive;

    const REWARD: RewardConfig = RewardConfig::Progress { points: Positive::literal(100.0) };

    /// An episode that ends with the last of `scores`.
    fn episode(group: u32, scores: &[f64]) -> Trajectory {
        let turn = |&score: &f64| Turn { score, ..Turn::default() };
        let turns = scores.iter().map(turn).collect();
        let success = scores.last() == Some(&100.0);
        Trajectory { group, success, ..Trajectory::of_turns(turns) }
    }

    /// Rounds of two groups of two episodes; a group's returns differ if its flag is true.
    fn sample(max_rounds: u64, tasks: usize, rounds: &[[bool; 2]]) -> InformativeGroups {
        let mut play = |round: u64| {
            let group = |(g, &differs): (usize, &bool)| {
                let group = 2 * round as u32 + g as u32;
                let other = if differs { vec![0.0] } else { vec![10.0, 40.0, 70.0, 100.0] };
                [episode(group, &[30.0, 60.0, 100.0]), episode(group, &other)]
            };
            let trajectories = rounds[round as usize].iter().enumerate().flat_map(group).collect();
            Ok(Rollouts { trajectories, stats: PlayStats { env_steps: 5, ..PlayStats::default() } })
        };
        sample_informative(DynamicSampling { max_rounds }, tasks, &REWARD, &mut play).unwrap()
    }

    fn kept(sampled: &InformativeGroups) -> Vec<u32> {
        sampled.rollouts.trajectories.iter().map(|t| t.group).collect()
    }

    /// The groups of the unused episodes, ascending.
    fn unused(sampled: &InformativeGroups) -> Vec<u32> {
        let mut groups: Vec<u32> = sampled.unused.iter().map(|t| t.group).collect();
        groups.sort_unstable();
        groups
    }

    #[test]
    fn rounds_go_on_until_enough_groups_differ_and_the_surplus_is_dropped_in_order() {
        let sampled = sample(4, 2, &[[false, true], [false, false], [true, true]]);
        assert_eq!((sampled.rounds, sampled.played_groups, sampled.kept_groups), (3, 6, 2));
        assert_eq!(kept(&sampled), [1, 1, 4, 4]);
        assert_eq!(unused(&sampled), [0, 0, 2, 2, 3, 3, 5, 5], "the rest, surplus included");
        assert_eq!(sampled.rollouts.stats.env_steps, 15, "dropped episodes were played, too");
        assert_eq!(sampled.success, 9.0 / 12.0);
        let enough = sample(4, 2, &[[true, true]]);
        assert_eq!((enough.rounds, kept(&enough)), (1, vec![0, 0, 1, 1]));
    }

    #[test]
    fn after_the_last_round_fewer_groups_are_used() {
        let some = sample(2, 2, &[[false, true], [false, false]]);
        assert_eq!((some.rounds, some.kept_groups, kept(&some)), (2, 1, vec![1, 1]));
        let none = sample(2, 2, &[[false, false], [false, false]]);
        assert_eq!((none.rounds, none.kept_groups, kept(&none)), (2, 0, vec![2, 2, 3, 3]));
        assert_eq!((unused(&some), unused(&none)), (vec![0, 0, 2, 2, 3, 3], vec![0, 0, 1, 1]));
    }

    #[test]
    fn settings_out_of_range_are_rejected() {
        let error = |max_rounds, group| {
            DynamicSampling { max_rounds }.validate(group).unwrap_err().to_string()
        };
        assert!(error(0, 2).contains("dynamic_sampling.max_rounds"));
        let error = error(4, 1);
        assert!(error.contains("dynamic_sampling") && error.contains("rollout.group"), "{error}");
    }
}
