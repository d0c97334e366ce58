//! The policy loss. Suffixes: b rows, t token positions.

use candle_core::Tensor;

use crate::objective::aggregate::TokenBatch;
use crate::objective::cispo::{cispo_weight, reinforce_loss};
use crate::objective::gspo::sequence_ratio;
use crate::objective::kl::kl_penalty;
use crate::objective::output::LossOutput;
use crate::objective::readout::Readout;
use crate::objective::settings::{KlLoss, PolicyLoss, PolicyLossKind};
use crate::{Error, Result};

/// The tensors of a policy loss, each [B, T]. Masked-out entries may hold anything.
///
/// The dtype is that of the log-probabilities: `f32`, `f64`, `bf16` or `f16`; the last two are
/// widened to `f32`. Constants of another dtype are converted to it.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use epo::objective::{policy_loss, LossInputs, PolicyLoss, TokenBatch};
///
/// let batch = TokenBatch::turns(&[2, 1], &[0, 0])?;
/// let log_probs = Tensor::new(&[[-0.5f32, -1.0], [-2.0, 0.0]], &Device::Cpu)?;
/// let advantages = Tensor::new(&[[1f32, 1.0], [-0.5, 0.0]], &Device::Cpu)?;
/// let inputs = LossInputs::new(&log_probs, &log_probs, &advantages, &batch);
/// let output = policy_loss(&inputs, &PolicyLoss { kl: None, ..PolicyLoss::default() })?;
/// assert_eq!(output.loss.to_scalar::<f32>()?, -0.25); // −A·r with r = 1: −(½·1 + ½·(−0.5))
/// # Ok::<(), epo::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LossInputs<'a> {
    /// log π(token), differentiable.
    pub log_probs_bt: &'a Tensor,
    /// log π_old(token) as sampled.
    pub old_log_probs_bt: &'a Tensor,
    /// log π_ref(token) of the reference policy; needed if the KL term is on.
    pub ref_log_probs_bt: Option<&'a Tensor>,
    /// Advantages, constants.
    pub advantages_bt: &'a Tensor,
    /// Constant factors of the tokens' policy losses, 1 if `None`: an importance-sampling
    /// correction ([`importance_weights`](crate::objective::importance_weights)), a selection of
    /// tokens ([`TokenSelection`](crate::entropy::TokenSelection)), or their product. The KL term
    /// is not weighted.
    pub weights_bt: Option<&'a Tensor>,
    /// Mask and aggregation weights of the tokens.
    pub batch: &'a TokenBatch,
}

impl<'a> LossInputs<'a> {
    /// Inputs without a reference policy and with weights of 1.
    pub fn new(
        log_probs_bt: &'a Tensor,
        old_log_probs_bt: &'a Tensor,
        advantages_bt: &'a Tensor,
        batch: &'a TokenBatch,
    ) -> Self {
        let ref_log_probs_bt = None;
        let weights_bt = None;
        Self { log_probs_bt, old_log_probs_bt, ref_log_probs_bt, advantages_bt, weights_bt, batch }
    }

    /// Adds the log-probabilities of the reference policy, for the KL term.
    #[must_use]
    pub fn with_reference(self, ref_log_probs_bt: impl Into<Option<&'a Tensor>>) -> Self {
        Self { ref_log_probs_bt: ref_log_probs_bt.into(), ..self }
    }

    /// Adds constant factors of the tokens' policy losses.
    #[must_use]
    pub fn with_weights(self, weights_bt: impl Into<Option<&'a Tensor>>) -> Self {
        Self { weights_bt: weights_bt.into(), ..self }
    }

    /// log π, zero where masked out.
    fn log_probs(&self) -> Result<Tensor> {
        self.batch.zero_masked("log_probs_bt", self.log_probs_bt)
    }

    /// A constant, zero where masked out, in the dtype of the log-probabilities.
    fn constant(&self, name: &'static str, x_bt: &Tensor, like: &Tensor) -> Result<Tensor> {
        Ok(self.batch.zero_masked(name, &x_bt.detach())?.to_dtype(like.dtype())?)
    }
}

/// Returns L_PG + c_KL·KL.
///
/// The loss of a token is chosen by [`PolicyLossKind`]. The default is PPO's with r = π/π_old:
/// max(−A·r, −A·clip(r, 1 − ε_low, 1 + ε_high)), at most −A·c if A < 0 (arXiv 1707.06347; verl
/// `compute_policy_loss`).
///
/// Metrics: `pg_loss`, `pg_clipfrac` (if there is a clip), `pg_clipfrac_lower` (dual clip),
/// `ppo_kl` (token mean of −log r), `ratio_max` (a maximum, not a sum; the turns' ratios for GSPO)
/// and, if the KL term is on, `kl`. Input checks and metrics are read from the device in one copy.
///
/// # Errors
/// [`Error::Setting`] for a bad setting or a KL term without a reference policy, [`Error::Shape`],
/// and [`Error::NonFinite`] if a masked-in input is NaN or infinite, or if the ratio overflows
/// without a limit ([`PolicyLoss::max_log_ratio`]).
pub fn policy_loss(inputs: &LossInputs, settings: &PolicyLoss) -> Result<LossOutput> {
    settings.validate()?;
    let mut readout = Readout::new(inputs.batch);
    let log_probs_bt = inputs.log_probs()?;
    readout.check("log_probs_bt", &log_probs_bt);
    let old_bt = inputs.constant("old_log_probs_bt", inputs.old_log_probs_bt, &log_probs_bt)?;
    readout.check("old_log_probs_bt", &old_bt);
    let advantages_bt = inputs.constant("advantages_bt", inputs.advantages_bt, &log_probs_bt)?;
    readout.check("advantages_bt", &advantages_bt);
    // Masked before the exponential, so that padding can neither overflow nor reach the gradient.
    let log_ratio_bt = (&log_probs_bt - old_bt)?;
    readout.token_mean("ppo_kl", &log_ratio_bt, -1.0)?;
    let log_ratio_bt = match settings.max_log_ratio {
        Some(limit) => log_ratio_bt.clamp(-limit, limit)?,
        None => log_ratio_bt,
    };
    let tokens = Tokens { log_probs_bt, log_ratio_bt, advantages_bt };
    let mut loss_bt = tokens.losses(settings, &mut readout, inputs.batch)?;
    if let Some(weights_bt) = inputs.weights_bt {
        let weights_bt = inputs.constant("weights_bt", weights_bt, &loss_bt)?;
        readout.check("weights_bt", &weights_bt);
        loss_bt = (loss_bt * weights_bt)?;
    }
    let mut loss = inputs.batch.aggregate(&loss_bt)?;
    readout.scalar("pg_loss", &loss);
    if let Some(kl) = settings.kl {
        loss = (loss + kl_loss(inputs, &tokens.log_probs_bt, kl, &mut readout)?)?;
    }
    Ok(LossOutput { loss, metrics: readout.finish()? })
}

/// The masked tensors that the loss of a token is computed from.
struct Tokens {
    log_probs_bt: Tensor,
    log_ratio_bt: Tensor,
    advantages_bt: Tensor,
}

impl Tokens {
    fn losses(
        &self,
        settings: &PolicyLoss,
        readout: &mut Readout,
        batch: &TokenBatch,
    ) -> Result<Tensor> {
        let ratio_bt = if settings.kind == PolicyLossKind::Gspo {
            readout.read()?; // a NaN is reported as its input's, not as the turns' mean
            sequence_ratio(&self.log_ratio_bt, batch)?
        } else {
            self.log_ratio_bt.exp()?
        };
        readout.maximum("ratio_max", "ratio", &batch.zero_masked("ratio", &ratio_bt.detach())?);
        match settings.kind {
            PolicyLossKind::Ppo | PolicyLossKind::Gspo => {
                clipped_loss(&ratio_bt, &self.advantages_bt, settings, readout)
            }
            PolicyLossKind::Cispo => {
                let clip = [settings.clip_low, settings.clip_high];
                let weight_bt = cispo_weight(&ratio_bt, clip)?;
                readout.share("pg_clipfrac", &weight_bt.ne(&ratio_bt.detach())?)?;
                Ok((weight_bt * reinforce_loss(&self.log_probs_bt, &self.advantages_bt)?)?)
            }
            PolicyLossKind::Reinforce => reinforce_loss(&self.log_probs_bt, &self.advantages_bt),
        }
    }
}

fn clipped_loss(
    ratio_bt: &Tensor,
    advantages_bt: &Tensor,
    settings: &PolicyLoss,
    readout: &mut Readout,
) -> Result<Tensor> {
    let minus_a_bt = advantages_bt.neg()?;
    let free_bt = (&minus_a_bt * ratio_bt)?;
    let clipped_ratio_bt = ratio_bt.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)?;
    let clipped_bt = (&minus_a_bt * clipped_ratio_bt)?;
    readout.share("pg_clipfrac", &clipped_bt.gt(&free_bt)?)?;
    let upper_bt = free_bt.maximum(&clipped_bt)?;
    let Some(c) = settings.dual_clip else { return Ok(upper_bt) };
    let ceiling_bt = (&minus_a_bt * c)?;
    let negative_bt = advantages_bt.lt(&advantages_bt.zeros_like()?)?;
    readout.share("pg_clipfrac_lower", &(upper_bt.gt(&ceiling_bt)? * &negative_bt)?)?;
    Ok(negative_bt.where_cond(&ceiling_bt.minimum(&upper_bt)?, &upper_bt)?)
}

fn kl_loss(
    inputs: &LossInputs,
    log_probs_bt: &Tensor,
    kl: KlLoss,
    readout: &mut Readout,
) -> Result<Tensor> {
    let Some(ref_bt) = inputs.ref_log_probs_bt else {
        let reason = "the KL term needs the log-probabilities of a reference policy";
        return Err(Error::setting("update.policy.kl", kl.coef, reason));
    };
    let ref_bt = inputs.constant("ref_log_probs_bt", ref_bt, log_probs_bt)?;
    readout.check("ref_log_probs_bt", &ref_bt);
    let aggregate = inputs.batch.aggregate(&kl_penalty(log_probs_bt, &ref_bt, kl.estimator)?)?;
    readout.scalar("kl", &aggregate);
    Ok((aggregate * kl.coef)?)
}
