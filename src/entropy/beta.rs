//! Schedules of β.

use serde::{Deserialize, Serialize};

use crate::entropy::traits::{AdaptiveBeta, State};
use crate::settings::{AtLeast, Count, NonNegative, Positive};

/// Returns β_k = 1 + exp(−γ·k / ⌊K/2⌋): from 2 down to 1 (paper v2, eq. 5 and alg. 1).
pub fn paper_v2_beta(step: u64, gamma: f64, total_steps: u64) -> f64 {
    1.0 + (-gamma * step as f64 / (total_steps / 2) as f64).exp()
}

/// Returns β of the authors' code (`_calculate_epoch_based_entropy_weight`): with h = ⌊K/2⌋ and k
/// clamped to [0, K], 1 − 0.2(1 − e^(−2k/h)) up to h, then 0.8·e^(−3(k−h)/(K−h)). It jumps by about
/// −0.03 at h and ends at 0.04.
pub fn official_two_phase(step: i64, total_steps: i64) -> f64 {
    let k = step.clamp(0, total_steps.max(0)) as f64;
    let half = total_steps / 2;
    if total_steps <= 0 || (half == 0 && k == 0.0) {
        return 1.0;
    }
    let half = half as f64;
    if k <= half {
        1.0 - 0.2 * (1.0 - (-2.0 * (k / half)).exp())
    } else {
        0.8 * (-3.0 * ((k - half) / (total_steps as f64 - half))).exp()
    }
}

/// The built-in schedules of β; K = `total_steps` is the planned number of training steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum BetaSchedule {
    /// The same β at every step.
    Constant {
        /// β ≥ 0.
        value: NonNegative,
    },
    /// [`paper_v2_beta`].
    PaperV2 {
        /// Decay rate γ > 0; the paper uses 3.
        gamma: Positive,
        /// K ≥ 2.
        total_steps: AtLeast<2>,
    },
    /// [`official_two_phase`]; the published code always uses K = 150.
    OfficialTwoPhase {
        /// K ≥ 1.
        total_steps: Count,
    },
    /// From `from` to `to` along a line, then constant.
    Linear {
        /// β at step 0.
        from: NonNegative,
        /// β from step K on.
        to: NonNegative,
        /// K ≥ 1.
        total_steps: Count,
    },
    /// From `from` to `to` along half a cosine, then constant.
    Cosine {
        /// β at step 0.
        from: NonNegative,
        /// β from step K on.
        to: NonNegative,
        /// K ≥ 1.
        total_steps: Count,
    },
}

impl BetaSchedule {
    /// The paper's: γ = 3, K = 150.
    pub const PAPER_V2: Self =
        Self::PaperV2 { gamma: Positive::literal(3.0), total_steps: AtLeast::literal(150) };
}

impl State for BetaSchedule {}

impl AdaptiveBeta for BetaSchedule {
    fn beta(&self, step: u64) -> f64 {
        let progress = |total_steps: Count| (step as f64 / total_steps.get() as f64).min(1.0);
        match *self {
            Self::Constant { value } => value.get(),
            Self::PaperV2 { gamma, total_steps } => {
                paper_v2_beta(step, gamma.get(), total_steps.get() as u64)
            }
            Self::OfficialTwoPhase { total_steps } => {
                official_two_phase(signed(step), signed(total_steps.get() as u64))
            }
            Self::Linear { from, to, total_steps } => {
                from.get() + (to.get() - from.get()) * progress(total_steps)
            }
            Self::Cosine { from, to, total_steps } => {
                let share = 0.5 * (1.0 - (std::f64::consts::PI * progress(total_steps)).cos());
                from.get() + (to.get() - from.get()) * share
            }
        }
    }
}

fn signed(steps: u64) -> i64 {
    i64::try_from(steps).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_and_cosine_meet_their_ends_and_stay() {
        let line = BetaSchedule::Linear {
            from: NonNegative::literal(2.0),
            to: NonNegative::literal(1.0),
            total_steps: Count::literal(4),
        };
        assert_eq!([0, 1, 4, 9].map(|k| line.beta(k)), [2.0, 1.75, 1.0, 1.0]);
        let cosine = BetaSchedule::Cosine {
            from: NonNegative::literal(2.0),
            to: NonNegative::literal(1.0),
            total_steps: Count::literal(4),
        };
        assert_eq!([0, 4, 9].map(|k| cosine.beta(k)), [2.0, 1.0, 1.0]);
        assert!((cosine.beta(2) - 1.5).abs() < 1e-15 && cosine.beta(1) > line.beta(1));
    }
}
