//! The clipped policy loss. Suffixes: b rows, t token positions.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::{kl_penalty, KlKind, LossOutput, Metrics, TokenBatch};
use crate::{Error, Result};

/// The tensors of the policy loss, each [B, T] of one dtype; entries that are masked out may hold anything.
#[derive(Clone, Copy, Debug)]
pub struct LossInputs<'a> {
    /// log π(token), differentiable.
    pub log_probs_bt: &'a Tensor,
    /// log π_old(token) as sampled.
    pub old_log_probs_bt: &'a Tensor,
    /// log π_ref(token); needed where the KL term is on.
    pub ref_log_probs_bt: Option<&'a Tensor>,
    /// Advantages, constants.
    pub advantages_bt: &'a Tensor,
    /// Which tokens count, and how much.
    pub batch: &'a TokenBatch,
}

/// Settings of the KL term: c_KL times the aggregated [`kl_penalty`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlLoss {
    /// The estimator.
    pub kind: KlKind,
    /// c_KL ≥ 0.
    pub coef: f64,
}

/// Settings of the policy loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyLoss {
    /// ε_low of clip(r, 1 − ε_low, 1 + ε_high), in [0, 1].
    pub clip_low: f64,
    /// ε_high ≥ 0.
    pub clip_high: f64,
    /// Dual clip c > 1: for A < 0 the loss is at most −A·c (arXiv 1912.09729); off where `None` (`false` in a file).
    #[serde(with = "off")]
    pub dual_clip: Option<f64>,
    /// The KL term; off where `None` (`false` in a file).
    #[serde(with = "off")]
    pub kl: Option<KlLoss>,
}

/// `None` as `false`: TOML has no null, and a setting left out means its default.
mod off {
    use serde::{de::Error, Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Setting<T> {
        Off(bool),
        On(T),
    }

    pub(super) fn serialize<T: Serialize, S: Serializer>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value.serialize(s),
            None => s.serialize_bool(false),
        }
    }

    pub(super) fn deserialize<'de, T, D>(d: D) -> Result<Option<T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        match Setting::deserialize(d)? {
            Setting::Off(false) => Ok(None),
            Setting::Off(true) => Err(D::Error::custom("`true` says nothing: give the setting, or `false`")),
            Setting::On(value) => Ok(Some(value)),
        }
    }
}

impl Default for PolicyLoss {
    /// The authors' run settings: ε 0.2 on both sides, c = 3, k3 KL with coefficient 0.01.
    fn default() -> Self {
        let kl = Some(KlLoss { kind: KlKind::K3, coef: 0.01 });
        Self { clip_low: 0.2, clip_high: 0.2, dual_clip: Some(3.0), kl }
    }
}

impl PolicyLoss {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the field (`objective.clip_low`, …).
    pub fn validate(&self) -> Result<()> {
        let fail = |field: &str, value: f64, reason: &str| Err(Error::setting(field, value, reason));
        if !(0.0..=1.0).contains(&self.clip_low) {
            return fail("objective.clip_low", self.clip_low, "must lie in [0, 1]");
        }
        if !(self.clip_high >= 0.0 && self.clip_high.is_finite()) {
            return fail("objective.clip_high", self.clip_high, "must be finite and at least 0");
        }
        match (self.dual_clip, self.kl) {
            (Some(c), _) if c.is_nan() || c <= 1.0 => {
                fail("objective.dual_clip", c, "must be greater than 1")
            }
            (_, Some(kl)) if !(kl.coef >= 0.0 && kl.coef.is_finite()) => {
                fail("objective.kl.coef", kl.coef, "must be finite and at least 0")
            }
            _ => Ok(()),
        }
    }
}

/// L_PG + c_KL·KL with r = π/π_old (PPO, arXiv 1707.06347; verl `compute_policy_loss`):
/// per token max(−A·r, −A·clip(r, 1 − ε_low, 1 + ε_high)), at most −A·c where A < 0.
///
/// Metrics: `pg_loss`, `pg_clipfrac`, `pg_clipfrac_lower` (dual clip), `ppo_kl` (token mean of −log r),
/// `ratio_max` (a maximum, not a sum) and, where the KL term is on, `kl`.
///
/// # Errors
/// [`Error::Setting`] for a bad setting or a KL term without reference log-probs, [`Error::Shape`], and
/// [`Error::NonFinite`] where a masked-in input is NaN or infinite or the ratio overflows.
pub fn policy_loss(inputs: &LossInputs, settings: &PolicyLoss) -> Result<LossOutput> {
    settings.validate()?;
    let batch = inputs.batch;
    for (name, x_bt) in [
        ("log_probs_bt", inputs.log_probs_bt),
        ("old_log_probs_bt", inputs.old_log_probs_bt),
        ("advantages_bt", inputs.advantages_bt),
    ] {
        batch.host(name, x_bt)?;
    }
    let advantages_bt = batch.zero_masked("advantages_bt", &inputs.advantages_bt.detach())?;
    let log_ratio_bt = (inputs.log_probs_bt - inputs.old_log_probs_bt.detach())?;
    // Masked before the exponential, so that padding can neither overflow nor reach the gradient.
    let log_ratio_bt = batch.zero_masked("log_ratio_bt", &log_ratio_bt)?;
    let mut metrics = Metrics::new();
    metrics.add("ppo_kl", -batch.token_mean(&log_ratio_bt)?);
    let loss_bt = clipped_loss(&log_ratio_bt.exp()?, &advantages_bt, settings, batch, &mut metrics)?;
    let loss = batch.aggregate(&loss_bt)?;
    metrics.add("pg_loss", scalar(&loss)?);
    let output = LossOutput { loss, metrics };
    match settings.kl {
        Some(kl) => output.plus(kl_loss(inputs, kl)?),
        None => Ok(output),
    }
}

fn clipped_loss(
    ratio_bt: &Tensor,
    advantages_bt: &Tensor,
    settings: &PolicyLoss,
    batch: &TokenBatch,
    metrics: &mut Metrics,
) -> Result<Tensor> {
    metrics.max("ratio_max", batch.host("ratio", ratio_bt)?.into_iter().fold(0.0, f64::max));
    let minus_a_bt = advantages_bt.neg()?;
    let free_bt = (&minus_a_bt * ratio_bt)?;
    let clipped_bt = (&minus_a_bt * ratio_bt.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)?)?;
    metrics.add("pg_clipfrac", share_of(batch, &clipped_bt.gt(&free_bt)?)?);
    let upper_bt = free_bt.maximum(&clipped_bt)?;
    let Some(c) = settings.dual_clip else { return Ok(upper_bt) };
    let ceiling_bt = (&minus_a_bt * c)?;
    let negative_bt = advantages_bt.lt(&advantages_bt.zeros_like()?)?;
    let dual_bt = (upper_bt.gt(&ceiling_bt)? * &negative_bt)?;
    metrics.add("pg_clipfrac_lower", share_of(batch, &dual_bt)?);
    Ok(negative_bt.where_cond(&ceiling_bt.minimum(&upper_bt)?, &upper_bt)?)
}

fn kl_loss(inputs: &LossInputs, kl: KlLoss) -> Result<LossOutput> {
    let Some(ref_bt) = inputs.ref_log_probs_bt else {
        return Err(Error::setting("objective.kl", kl.coef, "the KL term needs reference log-probs"));
    };
    let batch = inputs.batch;
    batch.host("ref_log_probs_bt", ref_bt)?;
    let ref_bt = batch.zero_masked("ref_log_probs_bt", &ref_bt.detach())?;
    let log_probs_bt = batch.zero_masked("log_probs_bt", inputs.log_probs_bt)?;
    let aggregate = batch.aggregate(&kl_penalty(&log_probs_bt, &ref_bt, kl.kind)?)?;
    let mut metrics = Metrics::new();
    metrics.add("kl", scalar(&aggregate)?);
    Ok(LossOutput { loss: (aggregate * kl.coef)?, metrics })
}

/// The share of masked-in tokens where a 0/1 tensor is 1.
pub(super) fn share_of(batch: &TokenBatch, flag_bt: &Tensor) -> Result<f64> {
    batch.token_mean(&flag_bt.to_dtype(DType::F64)?)
}

/// A scalar tensor as a number.
pub(crate) fn scalar(x: &Tensor) -> Result<f64> {
    Ok(x.detach().to_dtype(DType::F64)?.to_scalar::<f64>()?)
}
