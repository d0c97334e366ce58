//! KL in the reward: a penalty on tokens for leaving the reference policy.

use serde::{Deserialize, Serialize};

use crate::objective::kl::KlKind;
use crate::objective::kl_reward::{kl_in_reward, KlControl};
use crate::rollout::rows::{layout, Row};
use crate::rollout::trajectory::Trajectory;
use crate::train::learn::accumulate::{rows_of, widest};
use crate::train::learn::learner::Learner;
use crate::train::learn::prepare::flat;
use crate::train::learn::step_settings::StepSettings;
use crate::{Error, Result};

/// Settings of KL in the reward: every sampled token is penalised by β·kl against the frozen
/// reference (Ziegler et al. 2019, eq. 2).
///
/// If `update.policy.kl` is set, too, the loss has its own KL term in addition, and the reference's
/// log-probabilities are computed twice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlReward {
    /// The estimator of a token's KL.
    pub estimator: KlKind,
    /// β at the first step, and its control.
    pub control: KlControl,
}

impl KlReward {
    /// Checks every field, and that β stays positive over steps of `samples` episodes.
    ///
    /// # Errors
    /// [`Error::Setting`] with the key of a field out of range.
    pub fn validate(&self, samples: usize) -> Result<()> {
        self.control.validate()?;
        let mut falling = self.control;
        falling.update(0.0, samples)
    }
}

/// The reward −β·kl of each sampled token, one list per trajectory, and the mean of kl over all
/// tokens in nats; β is `coef`.
///
/// kl compares the log-probabilities at sampling time with those of the learner's reference, at the
/// same temperature and over the same candidate sets.
///
/// # Errors
/// A learner without a reference, an episode without sampled tokens, β out of range, or a number
/// that is not finite.
pub fn kl_rewards(
    learner: &Learner,
    trajectories: &[Trajectory],
    kind: KlKind,
    coef: f64,
    settings: &StepSettings,
) -> Result<(Vec<Vec<f64>>, f64)> {
    let rows = rows_of(trajectories, settings.rows)?;
    let Some(reference) = learner.reference_log_probs(&rows, settings.update)? else {
        return Err(Error::setting(
            "kl_reward",
            "set",
            "needs a reference, but the policy has none",
        ));
    };
    let all: Vec<&Row> = rows.iter().collect();
    let layout = layout(&all, widest(&all))?;
    let sampled = flat(&layout, "log_probs", rows.iter().map(|row| row.old_log_probs.as_slice()))?;
    let reference = flat(&layout, "ref_log_probs", reference.iter().map(Vec::as_slice))?;
    let zeros = vec![0.0; sampled.len()];
    let (rewards, kl) = kl_in_reward(&zeros, &sampled, &reference, &layout, kind, coef)?;
    let mut of_trajectories = vec![Vec::new(); trajectories.len()];
    for (row, rewards) in rows.iter().zip(rewards.chunks_exact(layout.tokens())) {
        of_trajectories[row.trajectory].extend_from_slice(&rewards[..row.positions.len()]);
    }
    Ok((of_trajectories, kl))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::kl_reward::AdaptiveKl;

    #[test]
    fn a_horizon_that_one_step_exhausts_is_rejected() {
        let control = KlControl::Adaptive(AdaptiveKl { coef: 0.1, target: 0.1, horizon: 10.0 });
        let kl = KlReward { estimator: KlKind::K1, control };
        kl.validate(49).unwrap();
        assert!(kl.validate(50).unwrap_err().to_string().contains("horizon"));
    }
}
