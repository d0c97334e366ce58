//! Outcome estimators that compare the rows of a group.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::advantage::centre::{equal, Centre};
use crate::advantage::token::zero_masked;
use crate::advantage::token::{broadcast, masked_whiten};
use crate::advantage::whiten::whiten_counted;
use crate::advantage::{check_finite, check_len};
use crate::objective::layout::TokenLayout;
use crate::{Error, Result};

/// Added to every standard deviation before dividing by it, as in the authors' code.
const EPSILON: f64 = 1e-6;

/// The groups of rows that are compared with each other, and their samples.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a> {
    groups: &'a [usize],
    trajectories: Option<&'a [usize]>,
}

impl<'a> Groups<'a> {
    /// Rows with equal group ids form a group, and every row is a sample. If rows are turns, long
    /// trajectories weigh more (verl `compute_mean_std_cross_all_data=True`, the authors' setting).
    pub fn over_rows(groups: &'a [usize]) -> Self {
        Self { groups, trajectories: None }
    }

    /// Every trajectory is one sample, represented by its first row
    /// (`compute_mean_std_cross_all_data=False`).
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths differ.
    pub fn over_trajectories(groups: &'a [usize], trajectories: &'a [usize]) -> Result<Self> {
        check_len("trajectories", trajectories.len(), groups.len())?;
        Ok(Self { groups, trajectories: Some(trajectories) })
    }

    /// The rows that are samples, by group id.
    fn samples(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut seen = HashSet::new();
        let mut samples: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (row, &group) in self.groups.iter().enumerate() {
            if self.trajectories.is_none_or(|t| seen.insert((group, t[row]))) {
                samples.entry(group).or_default().push(row);
            }
        }
        samples
    }

    /// Applies `of_row(score, statistics of its group)` to every row.
    fn map(&self, scores: &[f64], of_row: impl Fn(f64, &Stats) -> f64) -> Result<Vec<f64>> {
        check_len("scores", scores.len(), self.groups.len())?;
        check_finite("scores", scores)?;
        let stats_of = |(group, rows): (&usize, &Vec<usize>)| {
            (*group, Stats::new(&rows.iter().map(|&row| scores[row]).collect::<Vec<_>>()))
        };
        let stats: BTreeMap<usize, Stats> = self.samples().iter().map(stats_of).collect();
        Ok(scores
            .iter()
            .zip(self.groups)
            .map(|(&score, group)| of_row(score, &stats[group]))
            .collect())
    }
}

/// Number, mean and unbiased standard deviation of a group's samples.
pub(crate) struct Stats {
    pub(crate) count: f64,
    centre: Centre,
    pub(crate) std: f64,
}

impl Stats {
    /// The standard deviation of a single sample is 1, so that dividing by it does nothing.
    pub(crate) fn new(samples: &[f64]) -> Self {
        let count = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / count;
        let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
        Self {
            count,
            centre: Centre::new(samples.iter().copied(), mean),
            std: if samples.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 1.0 },
        }
    }

    /// score − mean, exactly 0 in a group of equal scores.
    pub(crate) fn difference(&self, score: f64) -> f64 {
        self.centre.difference(score)
    }

    /// difference/(std + 10⁻⁶), or without the division.
    pub(crate) fn scale(&self, difference: f64, by_std: bool) -> f64 {
        difference / if by_std { self.std + EPSILON } else { 1.0 }
    }
}

/// Returns GRPO's (score − mean)/(std + 10⁻⁶) within the group, std unbiased; without `by_std`
/// Dr.GRPO's (arXiv 2402.03300, 2503.20783; verl `compute_grpo_outcome_advantage`). One advantage
/// per row.
///
/// A singleton group has baseline 0 and std 1, as in the authors' code: its score passes through. A
/// group of equal scores gets zeros.
///
/// # Errors
/// [`Error::Shape`] if the lengths differ, [`Error::NonFinite`].
pub fn grpo(scores: &[f64], groups: &Groups, by_std: bool) -> Result<Vec<f64>> {
    groups.map(scores, |score, stats| {
        let difference = if stats.count > 1.0 { stats.difference(score) } else { score };
        stats.scale(difference, by_std)
    })
}

/// Returns RLOO's score − mean of the *other* samples = (score − mean)·n/(n − 1) (arXiv 2402.14740;
/// verl `compute_rloo_outcome_advantage`). One advantage per row; a singleton's score passes
/// through.
///
/// # Errors
/// [`Error::Shape`] if the lengths differ, [`Error::NonFinite`].
pub fn rloo(scores: &[f64], groups: &Groups) -> Result<Vec<f64>> {
    groups.map(scores, |score, stats| {
        if stats.count > 1.0 {
            stats.difference(score) * stats.count / (stats.count - 1.0)
        } else {
            score
        }
    })
}

/// Returns pass@k advantages: only the best sample of a group has one, best − second best, divided
/// by std + 10⁻⁶ if `by_std` (arXiv 2503.19595; verl `compute_grpo_passk_outcome_advantage`). One
/// advantage per row.
///
/// # Errors
/// [`Error::Setting`] for a group with fewer than two samples, [`Error::Shape`],
/// [`Error::NonFinite`].
pub fn pass_at_k(scores: &[f64], groups: &Groups, by_std: bool) -> Result<Vec<f64>> {
    check_len("scores", scores.len(), groups.groups.len())?;
    check_finite("scores", scores)?;
    let mut advantages = vec![0.0; scores.len()];
    for (group, mut rows) in groups.samples() {
        if rows.len() < 2 {
            let reason =
                format!("pass@k compares at least two samples, the group has {}", rows.len());
            return Err(Error::setting("group", group, reason));
        }
        let stats = Stats::new(&rows.iter().map(|&row| scores[row]).collect::<Vec<_>>());
        rows.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let [best, second] = [scores[rows[0]], scores[rows[1]]];
        let difference = if equal(second, best) { 0.0 } else { best - second };
        advantages[rows[0]] = stats.scale(difference, by_std);
    }
    Ok(advantages)
}

/// Returns REINFORCE++ advantages with group baseline: score − mean of the group, spread over the
/// tokens, then whitened over the batch's tokens (arXiv 2501.03262; verl
/// `compute_reinforce_plus_plus_baseline_outcome_advantage`). Row-major [B·T], zero where masked
/// out.
///
/// # Errors
/// As [`grpo`] and [`masked_whiten`].
pub fn reinforce_pp_baseline(
    scores: &[f64],
    groups: &Groups,
    layout: &TokenLayout,
) -> Result<Vec<f64>> {
    let centred = broadcast(&grpo(scores, groups, false)?, layout)?;
    let mut advantages = masked_whiten(&centred, layout.mask())?;
    zero_masked(&mut advantages, layout.mask());
    Ok(advantages)
}

/// The estimators that need only scores and groups, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeEstimator {
    /// `grpo`: [`grpo`] with the standard deviation.
    #[default]
    Grpo,
    /// `dr-grpo`: [`grpo`] without it.
    DrGrpo,
    /// `rloo`: [`rloo`].
    Rloo,
    /// `pass-at-k`: [`pass_at_k`] with the standard deviation.
    PassAtK,
    /// `reinforce-pp`: the scores, whitened over the batch's tokens; groups play no part
    /// ([`reinforce_pp`] with a reward at the end, not discounted).
    ///
    /// [`reinforce_pp`]: crate::advantage::reinforce_pp
    ReinforcePp,
    /// `reinforce-pp-baseline`: [`reinforce_pp_baseline`].
    ReinforcePpBaseline,
}

impl OutcomeEstimator {
    /// Returns one advantage per score; estimators that whiten count each score as one token.
    ///
    /// # Errors
    /// Those of the estimator.
    pub fn advantages(self, scores: &[f64], groups: &Groups) -> Result<Vec<f64>> {
        self.advantages_of_tokens(scores, groups, &vec![1; scores.len()])
    }

    /// Returns one advantage per score. `tokens` holds the number of tokens that share it; only
    /// estimators that whiten over the batch's tokens ([`whiten_counted`]) use it.
    ///
    /// # Errors
    /// Those of the estimator, and [`Error::Shape`] if the lengths differ.
    pub fn advantages_of_tokens(
        self,
        scores: &[f64],
        groups: &Groups,
        tokens: &[usize],
    ) -> Result<Vec<f64>> {
        check_len("tokens", tokens.len(), scores.len())?;
        match self {
            Self::Grpo => grpo(scores, groups, true),
            Self::DrGrpo => grpo(scores, groups, false),
            Self::Rloo => rloo(scores, groups),
            Self::PassAtK => pass_at_k(scores, groups, true),
            Self::ReinforcePp => whiten_counted(scores, tokens),
            Self::ReinforcePpBaseline => whiten_counted(&grpo(scores, groups, false)?, tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trajectory_counts_once_however_many_rows_it_has() {
        let (scores, groups, trajectories) = ([6.0, 6.0, 6.0, 0.0], [0; 4], [5, 5, 5, 8]);
        let over_rows = grpo(&scores, &Groups::over_rows(&groups), false).unwrap();
        assert_eq!(over_rows, [1.5, 1.5, 1.5, -4.5]);
        let over = Groups::over_trajectories(&groups, &trajectories).unwrap();
        assert_eq!(grpo(&scores, &over, false).unwrap(), [3.0, 3.0, 3.0, -3.0]);
        assert_eq!(rloo(&scores, &over).unwrap(), [6.0, 6.0, 6.0, -6.0]);
        let best = pass_at_k(&scores, &over, false).unwrap();
        assert_eq!(best, [6.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn equal_scores_have_advantages_of_exactly_zero() {
        let groups = [0; 8];
        let over = Groups::over_rows(&groups);
        let estimators = [
            OutcomeEstimator::Grpo,
            OutcomeEstimator::DrGrpo,
            OutcomeEstimator::Rloo,
            OutcomeEstimator::PassAtK,
            OutcomeEstimator::ReinforcePp,
            OutcomeEstimator::ReinforcePpBaseline,
        ];
        for score in [0.7, -0.1, 1e9 / 3.0, 0.0] {
            for estimator in estimators {
                let advantages = estimator.advantages(&[score; 8], &over).unwrap();
                assert_eq!(advantages, [0.0; 8], "{estimator:?} of {score}");
            }
        }
    }

    #[test]
    fn singletons_and_equal_scores_are_defined() {
        let groups = [0, 1, 1];
        let over = Groups::over_rows(&groups);
        let advantages = grpo(&[3.0, 2.0, 2.0], &over, true).unwrap();
        assert!((advantages[0] - 3.0).abs() < 1e-5);
        assert_eq!(advantages[1..], [0.0, 0.0]);
        assert_eq!(rloo(&[3.0, 2.0, 4.0], &over).unwrap(), [3.0, -2.0, 2.0]);
        let err = pass_at_k(&[3.0, 2.0, 2.0], &over, true).unwrap_err();
        assert!(err.to_string().starts_with("setting `group` = 0"));
        assert!(matches!(grpo(&[f64::INFINITY; 3], &over, true), Err(Error::NonFinite { .. })));
        assert!(matches!(grpo(&[1.0; 2], &over, true), Err(Error::Shape { name: "scores", .. })));
    }
}
