//! Rotary frequencies, and their scaling to contexts longer than that of pre-training.

use crate::policy::config::rejected::{require, Rejected};
use std::f64::consts::TAU;

/// Scaling of the rotary frequencies f_j = θ^(−2j/d) to a longer context.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum RopeScaling {
    /// No scaling.
    #[default]
    None,
    /// f_j / factor (position interpolation, Chen et al. 2023, arXiv 2306.15595).
    Linear {
        /// Divisor of all frequencies.
        factor: f64,
    },
    /// The scaling of Llama 3.1 (arXiv 2407.21783, as its checkpoints define it).
    ///
    /// Let w_j = 2π/f_j be the wavelength in tokens and L the original context. Frequencies with
    /// w_j > L/low are divided by the factor, those with w_j < L/high are kept, and the others
    /// become (1 − s) f_j/factor + s f_j with s = (L/w_j − low)/(high − low).
    Llama3 {
        /// Divisor of the lowest frequencies.
        factor: f64,
        /// `low`, in rotations per original context.
        low_freq_factor: f64,
        /// `high`, in rotations per original context.
        high_freq_factor: f64,
        /// L, in tokens.
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// The frequencies `[d/2]`, in radians per position, for heads of `head_dim` features.
    pub(crate) fn frequencies(&self, head_dim: usize, theta: f64) -> Vec<f64> {
        let base = (0..head_dim / 2).map(|j| theta.powf(-2.0 * j as f64 / head_dim as f64));
        base.map(|frequency| self.scaled(frequency)).collect()
    }

    fn scaled(&self, frequency: f64) -> f64 {
        match *self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: context,
            } => {
                let turns = context as f64 * frequency / TAU;
                let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }

    /// Rejects factors that are out of range.
    pub(crate) fn check(&self) -> Result<(), Rejected> {
        let at_least_one = |factor: f64| {
            require(
                factor >= 1.0 && factor.is_finite(),
                "rope_scaling.factor",
                factor,
                "must be at least 1",
            )
        };
        match *self {
            Self::None => Ok(()),
            Self::Linear { factor } => at_least_one(factor),
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: context,
            } => {
                at_least_one(factor)?;
                require(
                    low > 0.0 && low.is_finite(),
                    "rope_scaling.low_freq_factor",
                    low,
                    "must be positive",
                )?;
                require(
                    high > low && high.is_finite(),
                    "rope_scaling.high_freq_factor",
                    high,
                    "must be above low_freq_factor",
                )?;
                require(
                    context > 0,
                    "rope_scaling.original_max_position_embeddings",
                    context,
                    "must be positive",
                )
            }
        }
    }
}
