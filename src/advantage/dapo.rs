//! DAPO's selection and shaping of samples (arXiv 2503.14476).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::advantage::centre::equal;
use crate::advantage::{check_finite, check_len};
use crate::{Error, Result};

/// Returns for every row whether the scores of its group differ, so that the group has a gradient
/// (dynamic sampling, DAPO eq. 11; verl `filter_groups`).
///
/// The advantages of a dropped group are zero anyway; dropping its rows keeps them out of the
/// aggregation's denominators, and a trainer may sample other tasks in their place.
///
/// # Errors
/// [`Error::Shape`] if the lengths differ, [`Error::NonFinite`].
pub fn informative_groups(scores: &[f64], groups: &[usize]) -> Result<Vec<bool>> {
    check_len("scores", scores.len(), groups.len())?;
    check_finite("scores", scores)?;
    let mut range: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (&score, &group) in scores.iter().zip(groups) {
        let (low, high) = range.entry(group).or_insert((score, score));
        (*low, *high) = (low.min(score), high.max(score));
    }
    Ok(groups.iter().map(|group| !equal(range[group].0, range[group].1)).collect())
}

/// The soft penalty for long responses (DAPO eq. 13; verl `overlong_buffer`): a reward to be added.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlong {
    /// L_max in tokens, > 0: the length from which the whole penalty applies.
    pub limit: usize,
    /// L_cache in tokens, in (0, L_max]: the penalty begins this far below L_max.
    pub buffer: usize,
    /// The penalty for L_max tokens or more, ≥ 0, in units of the reward.
    pub penalty: f64,
}

impl Overlong {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the field (`overlong.buffer`, …).
    pub fn validate(&self) -> Result<()> {
        if self.buffer == 0 || self.buffer > self.limit {
            let reason = format!("must lie between 1 and overlong.limit = {}", self.limit);
            return Err(Error::setting("overlong.buffer", self.buffer, reason));
        }
        if self.penalty >= 0.0 && self.penalty.is_finite() {
            Ok(())
        } else {
            Err(Error::setting("overlong.penalty", self.penalty, "must be finite and at least 0"))
        }
    }

    /// Returns 0 up to L_max − L_cache tokens, then −penalty·(length − L_max + L_cache)/L_cache, at
    /// least −penalty.
    ///
    /// # Errors
    /// As [`Overlong::validate`].
    pub fn reward(&self, length: usize) -> Result<f64> {
        self.validate()?;
        let over = length.saturating_sub(self.limit - self.buffer).min(self.buffer);
        Ok(-self.penalty * over as f64 / self.buffer as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_equal_scores_teach_nothing() {
        let keep =
            informative_groups(&[1.0, 0.0, 2.0, 1.0, 0.0, 7.0], &[5, 0, 2, 5, 2, 9]).unwrap();
        assert_eq!(keep, [false, false, true, false, true, false]);
        assert!(matches!(informative_groups(&[1.0], &[0, 0]), Err(Error::Shape { .. })));
        assert!(matches!(informative_groups(&[f64::NAN], &[0]), Err(Error::NonFinite { .. })));
    }

    #[test]
    fn long_answers_cost_more_and_more_up_to_the_limit() {
        let overlong = Overlong { limit: 20, buffer: 4, penalty: 2.0 };
        let rewards: Vec<f64> =
            [1, 16, 17, 19, 20, 99].map(|n| overlong.reward(n).unwrap()).to_vec();
        assert_eq!(rewards, [0.0, 0.0, -0.5, -1.5, -2.0, -2.0]);
        for (bad, name) in [
            (Overlong { buffer: 0, ..overlong }, "overlong.buffer"),
            (Overlong { buffer: 21, ..overlong }, "overlong.buffer"),
            (Overlong { penalty: -1.0, ..overlong }, "overlong.penalty"),
        ] {
            assert!(
                matches!(bad.reward(3), Err(Error::Setting { field, .. }) if field == name),
                "{name}"
            );
        }
    }
}
