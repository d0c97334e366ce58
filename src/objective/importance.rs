//! ImportanceCorrection of samples that another engine, or another precision, has drawn.

use serde::{Deserialize, Serialize};

use crate::objective::layout::TokenLayout;
use crate::objective::metrics::Metrics;
use crate::{Error, Result};

/// Log-ratios are cut here before the exponential (verl `SAFETY_BOUND`).
const LARGEST_LOG_RATIO: f64 = 20.0;

/// The level of a token's ratio ρ = π_old/π_rollout. A sequence is one turn of a row, as in
/// [`sequence_ratio`](crate::objective::sequence_ratio).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RatioLevel {
    /// The token's own ratio.
    Token,
    /// The product over its turn: unbiased, with a variance that grows with the turn's length.
    Sequence,
    /// The geometric mean over its turn.
    SequenceMean,
}

/// A weight of tokens by ρ = π_old/π_rollout: π_old comes from the trainer's own forward pass,
/// π_rollout from the sampling engine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ImportanceCorrection {
    /// min(ρ, C): truncated importance sampling (TIS, Yao et al. 2025; verl `rollout_is`). C = 2 is
    /// usual.
    Truncate {
        /// The level of the ratio.
        level: RatioLevel,
        /// C ≥ 1.
        max: f64,
    },
    /// ρ if α ≤ ρ ≤ β, else 0 (IcePop, arXiv 2510.18855, with α 0.5 and β 5; at sequence level MIS,
    /// Liu et al. 2025). Tokens of weight 0 still count in the aggregation's denominators.
    Mask {
        /// The level of the ratio.
        level: RatioLevel,
        /// α in [0, 1].
        min: f64,
        /// β ≥ 1.
        max: f64,
    },
}

impl ImportanceCorrection {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`Error::Setting`] naming `update.correction.min` or `update.correction.max`.
    pub fn validate(&self) -> Result<()> {
        let (Self::Truncate { max, .. } | Self::Mask { max, .. }) = *self;
        if !(max >= 1.0 && max.is_finite()) {
            return Err(Error::setting(
                "update.correction.max",
                max,
                "must be finite and at least 1",
            ));
        }
        match *self {
            Self::Mask { min, .. } if !(0.0..=1.0).contains(&min) => {
                Err(Error::setting("update.correction.min", min, "must lie in [0, 1]"))
            }
            _ => Ok(()),
        }
    }

    fn level(self) -> RatioLevel {
        let (Self::Truncate { level, .. } | Self::Mask { level, .. }) = self;
        level
    }

    fn weight(self, ratio: f64) -> f64 {
        match self {
            Self::Truncate { max, .. } => ratio.min(max),
            Self::Mask { min, max, .. } if (min..=max).contains(&ratio) => ratio,
            Self::Mask { .. } => 0.0,
        }
    }
}

/// The weights of a batch, with metrics of the mismatch between the two engines.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportanceWeights {
    /// One constant factor per token, row-major [B·T], zero where masked out.
    pub weights: Vec<f64>,
    /// Over the batch's tokens: `is/mean` and `is/max` of ρ before it is cut, `is/cut` the share of
    /// tokens that were truncated or masked, `is/ess` = (Σw)²/(N·Σw²) the effective share of the
    /// sample in [0, 1], `is/kl` the mean of log π_rollout − log π_old in nats.
    pub metrics: Metrics,
}

/// Returns the weights with which tokens drawn from π_rollout stand for draws from π_old; pass them
/// to [`LossInputs::weights_bt`](crate::objective::LossInputs::weights_bt).
///
/// `old_log_probs` and `rollout_log_probs` are row-major [B·T], in nats; masked-out entries may
/// hold anything. The weights depend on a token's own turn alone, the metrics on the whole batch.
/// Log-ratios are cut to ±20.
///
/// # Errors
/// [`Error::Setting`] for a bad setting, [`Error::Shape`], [`Error::NonFinite`].
pub fn importance_weights(
    old_log_probs: &[f64],
    rollout_log_probs: &[f64],
    layout: &TokenLayout,
    correction: ImportanceCorrection,
) -> Result<ImportanceWeights> {
    correction.validate()?;
    let mask = layout.mask();
    for (name, values) in
        [("old_log_probs", old_log_probs), ("rollout_log_probs", rollout_log_probs)]
    {
        check(name, values, mask)?;
    }
    let log_ratio =
        |(i, &m): (usize, &bool)| if m { old_log_probs[i] - rollout_log_probs[i] } else { 0.0 };
    let of_token: Vec<f64> = mask.iter().enumerate().map(log_ratio).collect();
    let judged = match correction.level() {
        RatioLevel::Token => of_token.clone(),
        RatioLevel::SequenceMean => layout.segments().means(&of_token),
        RatioLevel::Sequence => {
            let segments = layout.segments();
            let means = segments.means(&of_token);
            let tokens = |s: &Option<usize>| s.map_or(0.0, |s| segments.counts[s] as f64);
            means.iter().zip(&segments.of_token).map(|(mean, s)| mean * tokens(s)).collect()
        }
    };
    let ratio = |x: &f64| x.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp();
    let ratios: Vec<f64> = judged.iter().map(ratio).collect();
    let weight = |(&r, &m): (&f64, &bool)| if m { correction.weight(r) } else { 0.0 };
    let weights: Vec<f64> = ratios.iter().zip(mask).map(weight).collect();
    let mut metrics = statistics(&ratios, &weights, mask);
    metrics.add("is/kl", -of_token.iter().sum::<f64>() / layout.count() as f64);
    Ok(ImportanceWeights { weights, metrics })
}

fn statistics(ratios: &[f64], weights: &[f64], mask: &[bool]) -> Metrics {
    let mut count = 0.0;
    let mut sum = 0.0;
    let mut cut = 0.0;
    let mut largest = 0f64;
    let mut total = 0.0;
    let mut squares = 0.0;
    for ((&ratio, &weight), _) in ratios.iter().zip(weights).zip(mask).filter(|(_, &m)| m) {
        count += 1.0;
        sum += ratio;
        largest = largest.max(ratio);
        cut += f64::from(u8::from(weight != ratio));
        total += weight;
        squares += weight * weight;
    }
    let mut metrics = Metrics::new();
    metrics.add("is/mean", sum / count);
    metrics.max("is/max", largest);
    metrics.add("is/cut", cut / count);
    metrics.add("is/ess", if squares > 0.0 { total * total / (count * squares) } else { 0.0 });
    metrics
}

fn check(name: &'static str, values: &[f64], mask: &[bool]) -> Result<()> {
    if values.len() != mask.len() {
        let expected = format!("{} values", mask.len());
        return Err(Error::Shape { name, expected, got: vec![values.len()] });
    }
    match (0..mask.len()).find(|&i| mask[i] && !values[i].is_finite()) {
        Some(i) => {
            Err(Error::NonFinite { name: name.into(), value: values[i], at: format!("index {i}") })
        }
        None => Ok(()),
    }
}
