//! Per-token KL estimates against a reference policy.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::Result;

/// An estimate of KL(π ‖ π_ref) from one sampled token, with d = log π_ref − log π
/// (Schulman 2020, "Approximating KL divergence"; verl `kl_penalty`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KlKind {
    /// −d (verl `kl`, `k1`).
    #[serde(alias = "kl")]
    K1,
    /// |d|, with gradient 0 at d = 0.
    Abs,
    /// d²/2 (verl `mse`, `k2`).
    #[serde(alias = "mse")]
    K2,
    /// e^d − d − 1, cut to [−10, 10] (verl `low_var_kl`, `k3`); no gradient where it is cut.
    #[serde(alias = "low_var_kl")]
    K3,
}

impl KlKind {
    /// Returns the estimate of one token as a number, nats: [`kl_penalty`] without tensors.
    pub fn estimate(self, log_prob: f64, ref_log_prob: f64) -> f64 {
        let d = ref_log_prob - log_prob;
        match self {
            Self::K1 => -d,
            Self::Abs => d.abs(),
            Self::K2 => 0.5 * d * d,
            Self::K3 => {
                (d.clamp(-20.0, 20.0).exp() - d.clamp(-20.0, 20.0) - 1.0).clamp(-10.0, 10.0)
            }
        }
    }
}

/// Returns the per-token estimate, of the shape of its arguments, in nats.
///
/// # Errors
/// [`Error::Candle`](crate::Error::Candle) if shapes, dtypes or devices differ.
pub fn kl_penalty(log_probs: &Tensor, ref_log_probs: &Tensor, kind: KlKind) -> Result<Tensor> {
    let d = (ref_log_probs - log_probs)?;
    Ok(match kind {
        KlKind::K1 => d.neg()?,
        KlKind::Abs => d.mul(&d.sign()?)?,
        KlKind::K2 => (d.sqr()? * 0.5)?,
        KlKind::K3 => {
            // Beyond |d| = 20 the estimate is cut at 10 anyway; an infinite e^d would turn 0 · ∞
            // into NaN.
            let d = d.clamp(-20.0, 20.0)?;
            ((d.exp()? - &d)? - 1.0)?.clamp(-10.0, 10.0)?
        }
    })
}
