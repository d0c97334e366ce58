//! One regulariser, one history and one β, driven through the training steps.

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
use crate::{Error, Result};

/// A regulariser with its history and β: what a trainer holds.
///
/// A training step is [`begin_step`](Self::begin_step), [`select`](Self::select) where the regulariser may single
/// out tokens, then [`term`](Self::term) or [`term_with`](Self::term_with) for each micro-batch, then
/// [`finish_step`](Self::finish_step). The reference is the same for all micro-batches of a step; the step's
/// own entropies enter it afterwards, as in the paper (v2, alg. 1), or before, as in the published code.
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
    /// Holds the three parts; reports the occupancy of the band 0.5–1.5 around the reference.
    pub fn new(
        regularizer: Box<dyn EntropyRegularizer>,
        history: Box<dyn EntropyHistory>,
        beta: Box<dyn AdaptiveBeta>,
    ) -> Self {
        let band = Band { kappa_low: 0.5, kappa_high: 1.5 };
        Self { regularizer, history, beta, band, include_current: false, step: 0, current: None }
    }

    /// Reports the occupancy of this band instead; the regulariser's own band is its own business.
    ///
    /// # Errors
    /// As [`Band::validate`].
    pub fn with_band(mut self, band: Band) -> Result<Self> {
        band.validate()?;
        self.band = band;
        Ok(self)
    }

    /// Whether the reference includes the current step (the published code) or not (the paper, the default).
    pub fn with_current_step_in_reference(mut self, include: bool) -> Self {
        self.include_current = include;
        self
    }

    /// Starts training step k with the entropies of its rollouts.
    ///
    /// # Errors
    /// [`Error::Setting`] where the step before was not finished; the errors of the parts.
    pub fn begin_step(&mut self, step: u64, rollout: StepEntropy) -> Result<()> {
        if self.current.is_some() {
            return Err(Error::setting(
                "step",
                step,
                format!("step {} is not finished", self.step),
            ));
        }
        if self.include_current {
            self.history.record(&rollout)?;
        }
        self.regularizer.begin_step(step, &rollout)?;
        self.step = step;
        self.current = Some(rollout);
        Ok(())
    }

    /// The tokens of the whole step that the regulariser singles out, before the first optimiser step.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`] at a masked-in token, and the regulariser's errors.
    pub fn select(&self, tokens: &StepTokens) -> Result<Option<TokenSelection>> {
        tokens.check()?;
        self.regularizer.select(tokens)
    }

    /// [`term_with`](Self::term_with) for regularisers that need the entropies alone.
    ///
    /// # Errors
    /// As [`term_with`](Self::term_with).
    pub fn term(&self, entropy_bt: &Tensor, batch: &TokenBatch) -> Result<LossOutput> {
        self.term_with(entropy_bt, batch, None)
    }

    /// The term of one micro-batch, to be added to its policy loss; `entropy_bt` [B, T] in nats.
    ///
    /// Adds the metrics `entropy/mean` and, where there is a reference, `entropy/below_band`, `entropy/in_band`
    /// and `entropy/above_band` (shares of the batch's tokens), whatever the regulariser; `entropy/chosen` is the
    /// share that the step's selection singled out.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`], and the errors of the parts.
    pub fn term_with(
        &self,
        entropy_bt: &Tensor,
        batch: &TokenBatch,
        policy: Option<PolicyInputs>,
    ) -> Result<LossOutput> {
        let history = self.history.as_ref();
        let inputs =
            EntropyInputs { entropy_bt, batch, history, beta: self.beta.beta(self.step), policy };
        let entropies = batch.host("entropy_bt", entropy_bt)?;
        let mut output = self.regularizer.term(&inputs)?;
        output.metrics.add("entropy/mean", entropies.iter().sum::<f64>() * batch.share());
        let counts = self.band.occupancy(&entropies, batch.layout(), history)?;
        for (name, count) in
            ["entropy/below_band", "entropy/in_band", "entropy/above_band"].iter().zip(counts)
        {
            output.metrics.add(*name, count * batch.share());
        }
        if let Some(chosen_bt) = policy.and_then(|policy| policy.chosen_bt) {
            output.metrics.add("entropy/chosen", batch.token_mean(chosen_bt)?);
        }
        Ok(output)
    }

    /// Ends the training step: its entropies become history.
    ///
    /// # Errors
    /// [`Error::Setting`] where no step was begun; the history's error.
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

    /// β of the current step.
    pub fn beta(&self) -> f64 {
        self.beta.beta(self.step)
    }

    /// The band whose occupancy is reported.
    pub fn band(&self) -> Band {
        self.band
    }

    /// The reference H̄ (nats) that the current step is compared with.
    ///
    /// # Errors
    /// A turn index that the history cannot hold.
    pub fn reference(&self, turn: usize) -> Result<Option<f64>> {
        self.history.reference(turn)
    }

    /// The current step's rollout entropies (nats): `entropy/rollout`, `entropy/beta`, and per turn index
    /// `entropy/turn_007` and `entropy/reference_007`, as far as they exist.
    ///
    /// # Errors
    /// A turn index that the history cannot hold.
    pub fn report(&self) -> Result<Metrics> {
        let mut metrics = Metrics::new();
        metrics.add("entropy/beta", self.beta());
        let Some(current) = &self.current else { return Ok(metrics) };
        current.mean().into_iter().for_each(|mean| metrics.add("entropy/rollout", mean));
        for turn in (0..current.turns()).filter(|&turn| current.count(turn) > 0) {
            let pairs =
                [("turn", current.turn_mean(turn)), ("reference", self.history.reference(turn)?)];
            for (name, value) in pairs {
                value
                    .into_iter()
                    .for_each(|value| metrics.add(format!("entropy/{name}_{turn:03}"), value));
            }
        }
        Ok(metrics)
    }

    /// Everything needed to continue after the last finished step, for a checkpoint.
    pub fn state(&self) -> Value {
        json!({
            "regularizer": self.regularizer.state(),
            "history": self.history.state(),
            "beta": self.beta.state(),
            "step": self.step,
        })
    }

    /// Continues from a state that [`EntropyControl::state`] gave, built from the same configuration.
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
