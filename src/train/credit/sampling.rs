//! Dynamic sampling: further tasks in the place of those whose episodes all ended alike.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::advantage::dapo::informative_groups;
use crate::rollout::engine::Rollouts;
use crate::rollout::trajectory::Trajectory;
use crate::train::credit::reward::RewardConfig;
use crate::{Error, Result};

/// Plays until a step has as many informative groups as `rollout.tasks`, or long enough (DAPO, arXiv 2503.14476, eq. 11;
/// verl `filter_groups`).
///
/// A group is informative where the returns of its episodes differ by what the environment paid ([`RewardConfig`]);
/// penalties do not count, since they would make nearly every group differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicSampling {
    /// Most rounds of `rollout.tasks` tasks in a step, 1 to 1000; 1 filters and plays nothing more.
    pub max_rounds: u64,
}

impl DynamicSampling {
    /// Checks the number of rounds, and that a group of `group` episodes can differ.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the field.
    pub fn validate(&self, group: usize) -> Result<()> {
        if !(1..=1000).contains(&self.max_rounds) {
            let reason = "must be between 1 and 1000";
            return Err(Error::setting("dynamic_sampling.max_rounds", self.max_rounds, reason));
        }
        match group {
            0 | 1 => {
                let reason =
                    format!("compares the episodes of a group, but rollout.group is {group}");
                Err(Error::setting("dynamic_sampling", "set", reason))
            }
            _ => Ok(()),
        }
    }
}

/// What dynamic sampling leaves of the episodes it played.
#[derive(Debug, Clone)]
pub struct InformativeGroups {
    /// The episodes to learn from, with the counters and times of all that were played.
    pub rollouts: Rollouts,
    /// The others that were played.
    pub unused: Vec<Trajectory>,
    /// Rounds played.
    pub rounds: u64,
    /// Groups played.
    pub played_groups: usize,
    /// Informative groups among the episodes to learn from; 0 where these are the last round as it was.
    pub kept_groups: usize,
    /// Share of solved episodes among all that were played.
    pub success: f64,
}

impl InformativeGroups {
    /// The numbers of a step's record.
    pub(crate) fn metrics(&self) -> [(&'static str, f64); 4] {
        [
            ("sampling/rounds", self.rounds as f64),
            ("sampling/played_groups", self.played_groups as f64),
            ("sampling/kept_groups", self.kept_groups as f64),
            ("sampling/success", self.success),
        ]
    }
}

/// Plays rounds by `play`, given the round from 0, until `tasks` informative groups are there or `settings` says it is enough.
///
/// Surplus groups are dropped, the last ones first; where no group of any round is informative, the last round is kept
/// whole, so that a step always has episodes. Groups of different rounds must have different numbers.
///
/// # Errors
/// A setting out of range, a return that is not finite, and whatever `play` fails with.
pub fn sample_informative(
    settings: DynamicSampling,
    tasks: usize,
    reward: &RewardConfig,
    play: &mut dyn FnMut(u64) -> Result<Rollouts>,
) -> Result<InformativeGroups> {
    settings.validate(2)?;
    let (mut kept, mut rounds, mut played) = (Rollouts::default(), 0, BTreeSet::new());
    let (mut solved, mut episodes, mut unused) = (0, 0, Vec::new());
    let alike = loop {
        let round = play(rounds)?;
        rounds += 1;
        kept.stats += round.stats;
        episodes += round.trajectories.len();
        solved += round.trajectories.iter().filter(|t| t.success).count();
        played.extend(round.trajectories.iter().map(|t| t.group));
        let alike = split(round.trajectories, reward, &mut kept.trajectories)?;
        if groups(&kept.trajectories).len() >= tasks || rounds == settings.max_rounds {
            break alike;
        }
        unused.extend(alike);
    };
    let first: BTreeSet<u32> = groups(&kept.trajectories).into_iter().take(tasks).collect();
    let (learned, surplus) = kept.trajectories.into_iter().partition(|t| first.contains(&t.group));
    kept.trajectories = learned;
    unused.extend::<Vec<_>>(surplus);
    if first.is_empty() {
        kept.trajectories = alike
    } else {
        unused.extend(alike)
    }
    let success = solved as f64 / episodes.max(1) as f64;
    let (played_groups, kept_groups) = (played.len(), first.len());
    Ok(InformativeGroups { rollouts: kept, unused, rounds, played_groups, kept_groups, success })
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
    // Rewards of the same sum differ in its last bits where they were earned on different ways.
    let rounded = |rewards: &Vec<f64>| (rewards.iter().sum::<f64>() * 1e9).round();
    let returns: Vec<f64> = reward.of(&trajectories).iter().map(rounded).collect();
    let groups: Vec<usize> = trajectories.iter().map(|t| t.group as usize).collect();
    let mut alike = Vec::new();
    for (trajectory, informative) in
        trajectories.into_iter().zip(informative_groups(&returns, &groups)?)
    {
        if informative {
            kept.push(trajectory)
        } else {
            alike.push(trajectory)
        }
    }
    Ok(alike)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Start, Task};
    use crate::rollout::engine::PlayStats;
    use crate::rollout::trajectory::{End, Turn};
    use crate::settings::Positive;

    const REWARD: RewardConfig = RewardConfig::Progress { points: Positive::literal(100.0) };

    /// An episode that ends with the last of `scores`.
    fn episode(group: u32, scores: &[f64]) -> Trajectory {
        let turn = |&score: &f64| Turn { score, ..Turn::default() };
        Trajectory {
            task: Task { name: "t".into(), variation: group },
            group,
            member: 0,
            start: Start { goal: String::new(), observation: String::new() },
            turns: scores.iter().map(turn).collect(),
            success: scores.last() == Some(&100.0),
            end: End::Done,
        }
    }

    /// Rounds of two groups of two episodes each; for every group whether its members differ.
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

    /// The groups of the episodes that are not learned from, ascending.
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
        assert_eq!(
            sampled.rollouts.stats.env_steps, 15,
            "what was dropped was played all the same"
        );
        assert_eq!(sampled.success, 9.0 / 12.0);
        let enough = sample(4, 2, &[[true, true]]);
        assert_eq!((enough.rounds, kept(&enough)), (1, vec![0, 0, 1, 1]));
    }

    #[test]
    fn at_the_last_round_what_there_is_is_used() {
        let some = sample(2, 2, &[[false, true], [false, false]]);
        assert_eq!((some.rounds, some.kept_groups, kept(&some)), (2, 1, vec![1, 1]));
        let none = sample(2, 2, &[[false, false], [false, false]]);
        assert_eq!((none.rounds, none.kept_groups, kept(&none)), (2, 0, vec![2, 2, 3, 3]));
        assert_eq!((unused(&some), unused(&none)), (vec![0, 0, 2, 2, 3, 3], vec![0, 0, 1, 1]));
    }

    #[test]
    fn settings_that_sample_nothing_are_refused() {
        let error = |max_rounds, group| {
            DynamicSampling { max_rounds }.validate(group).unwrap_err().to_string()
        };
        assert!(error(0, 2).contains("dynamic_sampling.max_rounds"));
        let error = error(4, 1);
        assert!(error.contains("dynamic_sampling") && error.contains("rollout.group"), "{error}");
    }
}
