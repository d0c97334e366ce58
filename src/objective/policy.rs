//! The policy loss. Suffixes: b rows, t token positions.

use candle_core::{DType, Tensor};

use crate::objective::aggregate::TokenBatch;
use crate::objective::cispo::{cispo_loss, reinforce_loss};
use crate::objective::gspo::sequence_ratio;
use crate::objective::kl::kl_penalty;
use crate::objective::metrics::Metrics;
use crate::objective::output::LossOutput;
use crate::objective::settings::{KlLoss, PolicyLoss, PolicyLossKind};
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
    /// Constant factors of the tokens' policy losses, the KL term left alone: an importance correction
    /// ([`importance_weights`](crate::objective::importance_weights)), a choice of tokens
    /// ([`TokenSelection`](crate::entropy::TokenSelection)), or their product; 1 everywhere where `None`.
    pub weights_bt: Option<&'a Tensor>,
    /// Which tokens count, and how much.
    pub batch: &'a TokenBatch,
}

/// L_PG + c_KL·KL, with the loss of a token as its [`PolicyLossKind`] says; by default, with r = π/π_old (PPO,
/// arXiv 1707.06347; verl `compute_policy_loss`): max(−A·r, −A·clip(r, 1 − ε_low, 1 + ε_high)), at most −A·c
/// where A < 0.
///
/// Metrics: `pg_loss`, `pg_clipfrac` (where there is a clip), `pg_clipfrac_lower` (dual clip), `ppo_kl` (token
/// mean of −log r), `ratio_max` (a maximum, not a sum; of GSPO the turns' ratios) and, where the KL term is
/// on, `kl`.
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
    let log_ratio_bt = (inputs.log_probs_bt - inputs.old_log_probs_bt.detach())?;
    // Masked before the exponential, so that padding can neither overflow nor reach the gradient.
    let log_ratio_bt = batch.zero_masked("log_ratio_bt", &log_ratio_bt)?;
    let mut metrics = Metrics::new();
    metrics.add("ppo_kl", -batch.token_mean(&log_ratio_bt)?);
    let mut loss_bt = token_losses(inputs, &log_ratio_bt, settings, &mut metrics)?;
    if let Some(weights_bt) = inputs.weights_bt {
        batch.host("weights_bt", weights_bt)?;
        loss_bt = (loss_bt * batch.zero_masked("weights_bt", &weights_bt.detach())?)?;
    }
    let loss = batch.aggregate(&loss_bt)?;
    metrics.add("pg_loss", scalar(&loss)?);
    let output = LossOutput { loss, metrics };
    match settings.kl {
        Some(kl) => output.plus(kl_loss(inputs, kl)?),
        None => Ok(output),
    }
}

fn token_losses(
    inputs: &LossInputs,
    log_ratio_bt: &Tensor,
    settings: &PolicyLoss,
    metrics: &mut Metrics,
) -> Result<Tensor> {
    let batch = inputs.batch;
    let advantages_bt = batch.zero_masked("advantages_bt", &inputs.advantages_bt.detach())?;
    let ratio_bt = match settings.kind {
        PolicyLossKind::Gspo => sequence_ratio(log_ratio_bt, batch)?,
        _ => log_ratio_bt.exp()?,
    };
    metrics.max("ratio_max", batch.host("ratio", &ratio_bt)?.into_iter().fold(0.0, f64::max));
    let log_probs_bt = || batch.zero_masked("log_probs_bt", inputs.log_probs_bt);
    match settings.kind {
        PolicyLossKind::Ppo | PolicyLossKind::Gspo => {
            clipped_loss(&ratio_bt, &advantages_bt, settings, batch, metrics)
        }
        PolicyLossKind::Cispo => {
            let clip = [settings.clip_low, settings.clip_high];
            cispo_loss(&ratio_bt, &log_probs_bt()?, &advantages_bt, clip, batch, metrics)
        }
        PolicyLossKind::Reinforce => reinforce_loss(&log_probs_bt()?, &advantages_bt),
    }
}

fn clipped_loss(
    ratio_bt: &Tensor,
    advantages_bt: &Tensor,
    settings: &PolicyLoss,
    batch: &TokenBatch,
    metrics: &mut Metrics,
) -> Result<Tensor> {
    let minus_a_bt = advantages_bt.neg()?;
    let free_bt = (&minus_a_bt * ratio_bt)?;
    let clipped_bt =
        (&minus_a_bt * ratio_bt.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)?)?;
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
        return Err(Error::setting(
            "update.policy.kl",
            kl.coef,
            "the KL term needs reference log-probs",
        ));
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
pub(crate) fn share_of(batch: &TokenBatch, flag_bt: &Tensor) -> Result<f64> {
    batch.token_mean(&flag_bt.to_dtype(DType::F64)?)
}

/// A scalar tensor as a number.
pub(crate) fn scalar(x: &Tensor) -> Result<f64> {
    Ok(x.detach().to_dtype(DType::F64)?.to_scalar::<f64>()?)
}
