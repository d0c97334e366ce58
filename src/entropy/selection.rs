//! The selection of tokens by a regulariser, and its view of the policy loss.
//! Suffixes: b rows, t token positions.

use candle_core::Tensor;

use crate::objective::layout::TokenLayout;
use crate::rng::Stream;
use crate::{Error, Result};

/// All tokens of a training step, on the host, before its first optimiser step. Lists are row-major
/// [B·T] and may hold anything where masked out.
#[derive(Clone, Copy, Debug)]
pub struct StepTokens<'a> {
    /// log π_old of the sampled tokens, nats.
    pub log_probs: &'a [f64],
    /// Entropies at sampling time, nats; `None` if the sampler did not report them.
    pub entropies: Option<&'a [f64]>,
    /// Advantages.
    pub advantages: &'a [f64],
    /// Mask, turns and trajectories of the step.
    pub layout: &'a TokenLayout,
    /// Random numbers of this step, for regularisers that draw.
    pub stream: Stream,
}

impl StepTokens<'_> {
    /// Checks the lengths, and that masked-in values are finite.
    pub(crate) fn check(&self) -> Result<()> {
        let lists = [
            ("log_probs", Some(self.log_probs)),
            ("entropies", self.entropies),
            ("advantages", Some(self.advantages)),
        ];
        for (name, values) in lists.into_iter().filter_map(|(name, values)| Some((name, values?))) {
            if values.len() != self.layout.mask().len() {
                let expected = format!("{} values", self.layout.mask().len());
                return Err(Error::Shape { name, expected, got: vec![values.len()] });
            }
            if let Some(i) = self.counted().find(|&i| !values[i].is_finite()) {
                let at = format!("index {i}");
                return Err(Error::NonFinite { name: name.into(), value: values[i], at });
            }
        }
        Ok(())
    }

    /// The masked-in positions.
    pub(crate) fn counted(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.layout.mask().len()).filter(|&i| self.layout.mask()[i])
    }
}

/// The tokens of a step that a regulariser selects, and their weight in the policy loss.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenSelection {
    /// The selected tokens, row-major [B·T]; passed back as [`PolicyInputs::chosen_bt`].
    pub chosen: Vec<bool>,
    /// A constant factor of every token's policy loss, row-major [B·T]
    /// ([`LossInputs::weights_bt`](crate::objective::LossInputs::weights_bt)); `None` for 1.
    pub policy_weights: Option<Vec<f64>>,
}

/// The inputs of a micro-batch's policy loss, tensors [B, T].
#[derive(Clone, Copy, Debug)]
pub struct PolicyInputs<'a> {
    /// log π(token), differentiable.
    pub log_probs_bt: &'a Tensor,
    /// log π_old(token), constants.
    pub old_log_probs_bt: &'a Tensor,
    /// Advantages, constants.
    pub advantages_bt: &'a Tensor,
    /// 1 for tokens in the step's [`TokenSelection`], else 0; `None` without a selection.
    pub chosen_bt: Option<&'a Tensor>,
}
