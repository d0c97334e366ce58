//! A regulariser, a history and β, driven through the training steps.

use candle_core::Tensor;
use serde_json::{json, Value};

use crate::entropy::band::Band;
use crate::entropy::selection::{PolicyInputs, StepTokens, TokenSelection};
use crate::entropy::stats::StepEntropy;
use crate::entropy::traits::{
    AdaptiveBeta, EntropyHistory, EntropyInputs, EntropyRegularizer, State,
};
use crate::objective::aggregate::TokenBatch;
use crate::objective::metrics::Metrics;
use crate::objective::output::LossOutput;
use crate::objective::readout::Readout;
use crate::{Error, Result};

/// A regulariser with its history and β: the part of EPO that a training loop holds.
///
/// One training step, with its optimiser steps over micro-batches in the middle:
///
/// ```text
/// begin_step(k, rollout entropies)   reference H̄ and β_k are fixed for the whole step
///  └ select(tokens of the step)      once, if the regulariser selects tokens (Clip-Cov, KL-Cov, …)
///     └ term(entropies, batch)       for each micro-batch: loss = policy loss + term
/// finish_step()                      the rollout entropies become history
/// ```
///
/// [`begin_step_with`](Self::begin_step_with) and [`term_with`](Self::term_with) take more:
/// statistics collected by the caller, and the inputs of the policy loss. A step's own entropies
/// enter the history when it ends, as in the paper (v2, alg. 1), or when it begins, as in the
/// published code.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use epo::entropy::EntropyConfig;
/// use epo::objective::TokenBatch;
///
/// let mut control = EntropyConfig::default().build()?;
/// let batch = TokenBatch::turns(&[2, 2], &[0, 0])?;
/// let entropies = Tensor::new(&[[1.0f32, 0.5], [0.5, 2.0]], &Device::Cpu)?;
/// control.begin_step(0, &entropies, &batch)?;
/// assert_eq!(control.reference(0)?, None);
/// let term = control.term(&entropies, &batch)?;
/// assert_eq!(term.metrics.get("entropy/mean"), Some(1.0));
/// control.finish_step()?;
/// assert_eq!(control.reference(0)?, Some(1.0));
/// # Ok::<(), epo::Error>(())
/// ```
pub struct EntropyControl {
    regularizer: Box<dyn EntropyRegularizer>,
    history: Box<dyn EntropyHistory>,
    beta: Box<dyn AdaptiveBeta>,
    band: Band,
    include_current: bool,
    step: u64,
    current: Option<StepEntropy>,
}

impl EntropyControl {
    /// Combines the three parts. The reported band is 0.5–1.5 times the reference.
    pub fn new(
        regularizer: Box<dyn EntropyRegularizer>,
        history: Box<dyn EntropyHistory>,
        beta: Box<dyn AdaptiveBeta>,
    ) -> Self {
        let band = Band::literal(0.5, 1.5);
        Self { regularizer, history, beta, band, include_current: false, step: 0, current: None }
    }

    /// Sets the band whose occupancy is reported. A regulariser may act on a band of its own.
    #[must_use]
    pub fn with_band(mut self, band: Band) -> Self {
        self.band = band;
        self
    }

    /// Includes the current step in the reference, as the published code does, or not, as in the
    /// paper (the default).
    #[must_use]
    pub fn with_current_step_in_reference(mut self, include: bool) -> Self {
        self.include_current = include;
        self
    }

    /// Begins training step k with the entropies [B, T] (nats) of its rollouts.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`], and those of
    /// [`begin_step_with`](Self::begin_step_with).
    pub fn begin_step(&mut self, step: u64, entropy_bt: &Tensor, batch: &TokenBatch) -> Result<()> {
        self.begin_step_with(step, StepEntropy::from_tensor(entropy_bt, batch)?)
    }

    /// Begins training step k with statistics that the caller has collected.
    ///
    /// # Errors
    /// [`Error::Setting`] if the previous step is not finished; the errors of history and
    /// regulariser.
    pub fn begin_step_with(&mut self, step: u64, rollout: StepEntropy) -> Result<()> {
        if self.current.is_some() {
            let reason = format!("step {} is not finished: call finish_step first", self.step);
            return Err(Error::setting("step", step, reason));
        }
        if self.include_current {
            self.history.record(&rollout)?;
        }
        self.regularizer.begin_step(step, &rollout)?;
        self.step = step;
        self.current = Some(rollout);
        Ok(())
    }

    /// Lets the regulariser select tokens of the whole step, before the first optimiser step.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`] at a masked-in token, and the regulariser's errors.
    pub fn select(&self, tokens: &StepTokens) -> Result<Option<TokenSelection>> {
        tokens.check()?;
        self.regularizer.select(tokens)
    }

    /// Returns the term of one micro-batch from its entropies [B, T] (nats), to be added to the
    /// policy loss.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`], and the errors of history and regulariser.
    pub fn term(&self, entropy_bt: &Tensor, batch: &TokenBatch) -> Result<LossOutput> {
        self.term_with(entropy_bt, batch, None)
    }

    /// [`term`](Self::term) for regularisers that also need the inputs of the policy loss, such as
    /// KL-Cov.
    ///
    /// Adds metrics that do not depend on the regulariser: `entropy/mean` and, if there is a
    /// reference, `entropy/below_band`, `entropy/in_band` and `entropy/above_band` (shares of the
    /// batch's tokens). `entropy/chosen` is the share of tokens in the step's selection.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`], and the errors of history and regulariser.
    pub fn term_with(
        &self,
        entropy_bt: &Tensor,
        batch: &TokenBatch,
        policy: Option<PolicyInputs>,
    ) -> Result<LossOutput> {
        let inputs = EntropyInputs::new(entropy_bt, batch, self.history.as_ref(), self.beta())?
            .with_policy(policy);
        let mut output = self.regularizer.term(&inputs)?;
        let total: f64 = inputs.entropies().iter().sum();
        output.metrics.add("entropy/mean", total * batch.share());
        let names = ["entropy/below_band", "entropy/in_band", "entropy/above_band"];
        let counts = self.band.occupancy(inputs.entropies(), &inputs.references()?);
        for (name, count) in names.into_iter().zip(counts) {
            output.metrics.add(name, count * batch.share());
        }
        if let Some(chosen_bt) = policy.and_then(|policy| policy.chosen_bt) {
            let mut readout = Readout::new(batch);
            readout.token_mean("entropy/chosen", chosen_bt, 1.0)?;
            output.metrics.merge(&readout.finish()?);
        }
        Ok(output)
    }

    /// Ends the training step: its entropies become history.
    ///
    /// # Errors
    /// [`Error::Setting`] if no step was begun; the history's error.
    pub fn finish_step(&mut self) -> Result<()> {
        let Some(current) = self.current.take() else {
            return Err(Error::setting("step", self.step, "no step was begun"));
        };
        if self.include_current {
            Ok(())
        } else {
            self.history.record(&current)
        }
    }

    /// Returns β of the current step.
    pub fn beta(&self) -> f64 {
        self.beta.beta(self.step)
    }

    /// Returns the band whose occupancy is reported.
    pub fn band(&self) -> Band {
        self.band
    }

    /// Returns the reference H̄ (nats) of a turn index for the current step.
    ///
    /// # Errors
    /// [`Error::Setting`] for a turn index that the history cannot hold.
    pub fn reference(&self, turn: usize) -> Result<Option<f64>> {
        self.history.reference(turn)
    }

    /// Reports the current step's rollout entropies (nats): `entropy/rollout`, `entropy/beta`, and
    /// per turn index `entropy/turn_007` and `entropy/reference_007`, as far as they exist.
    ///
    /// # Errors
    /// [`Error::Setting`] for a turn index that the history cannot hold.
    pub fn report(&self) -> Result<Metrics> {
        let mut metrics = Metrics::new();
        metrics.add("entropy/beta", self.beta());
        let Some(current) = &self.current else { return Ok(metrics) };
        if let Some(mean) = current.mean() {
            metrics.add("entropy/rollout", mean);
        }
        for turn in 0..current.turns() {
            let Some(mean) = current.turn_mean(turn) else { continue };
            metrics.add(format!("entropy/turn_{turn:03}"), mean);
            if let Some(reference) = self.history.reference(turn)? {
                metrics.add(format!("entropy/reference_{turn:03}"), reference);
            }
        }
        Ok(metrics)
    }

    /// Returns everything needed to continue after the last finished step, for a checkpoint.
    pub fn state(&self) -> Value {
        json!({
            "regularizer": self.regularizer.state(),
            "history": self.history.state(),
            "beta": self.beta.state(),
            "step": self.step,
        })
    }

    /// Continues from a value that [`EntropyControl::state`] returned, for a control of the same
    /// parts.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the part whose state does not fit.
    pub fn load_state(&mut self, state: &Value) -> Result<()> {
        let Some(step) = state["step"].as_u64() else {
            return Err(Error::setting(
                "entropy.state.step",
                &state["step"],
                "must be a step number",
            ));
        };
        restore("regularizer", self.regularizer.as_mut(), state)?;
        restore("history", self.history.as_mut(), state)?;
        restore("beta", self.beta.as_mut(), state)?;
        self.step = step;
        self.current = None;
        Ok(())
    }
}

/// Gives a part its state back; an error about the `state` itself says whose it is.
fn restore(name: &str, part: &mut dyn State, states: &Value) -> Result<()> {
    part.load_state(&states[name]).map_err(|error| match error {
        Error::Setting { field, value, reason } if field == "state" => {
            Error::setting(format!("entropy.{name}.state"), value, reason)
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::entropy::config::EntropyConfig;
    use crate::objective::readout::COPIES;

    #[test]
    fn a_term_copies_the_entropies_once_and_its_numbers_once() {
        let batch = TokenBatch::turns(&[2, 1], &[0, 0]).unwrap();
        let entropy_bt = Tensor::new(&[[0.5f32, 1.0], [2.0, f32::NAN]], &Device::Cpu).unwrap();
        let mut control = EntropyConfig::default().build().unwrap();
        control.begin_step(0, &entropy_bt, &batch).unwrap();
        let before = COPIES.get();
        control.term(&entropy_bt, &batch).unwrap();
        assert_eq!(COPIES.get() - before, 2);
    }
}
