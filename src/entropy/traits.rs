//! The three traits of entropy control, and what they share.
//!
//! Each has at most three methods of its own and can be made a trait object. Checkpoints go through
//! one supertrait, [`State`]: a part without state writes `impl State for Mine {}`, and whatever a
//! user writes is saved and resumed like the built-in parts. Suffixes: b rows, t token positions.

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::Value;

use crate::entropy::selection::{PolicyInputs, StepTokens, TokenSelection};
use crate::entropy::stats::StepEntropy;
use crate::objective::aggregate::TokenBatch;
use crate::objective::output::LossOutput;
use crate::objective::readout::Readout;
use crate::{Error, Result};

/// State that a checkpoint must keep; the default is a part without any.
///
/// ```
/// use epo::entropy::{read_state, AdaptiveBeta, State};
/// use serde_json::{json, Value};
///
/// /// β halves when somebody calls `halve`: its value is no function of the step.
/// struct Halving(f64);
///
/// impl AdaptiveBeta for Halving {
///     fn beta(&self, _step: u64) -> f64 {
///         self.0
///     }
/// }
///
/// impl State for Halving {
///     fn state(&self) -> Value {
///         json!(self.0)
///     }
///     fn load_state(&mut self, state: &Value) -> epo::Result<()> {
///         self.0 = read_state(state)?;
///         Ok(())
///     }
/// }
/// ```
pub trait State: Send + Sync {
    /// Returns everything needed to continue; `Null` if there is nothing.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Continues from a value that [`State::state`] returned.
    ///
    /// # Errors
    /// [`Error::Setting`] naming `state` if the value has another shape; the default accepts `Null`
    /// only.
    fn load_state(&mut self, state: &Value) -> Result<()> {
        if state.is_null() {
            return Ok(());
        }
        Err(Error::setting("state", state, "must be null: this part keeps no state"))
    }
}

/// Deserialises a state inside [`State::load_state`].
///
/// # Errors
/// [`Error::Setting`] naming `state` if the value has another shape.
pub fn read_state<T: for<'de> Deserialize<'de>>(state: &Value) -> Result<T> {
    T::deserialize(state).map_err(|error| Error::setting("state", state, error.to_string()))
}

/// The memory of past entropies: gives the reference H̄ of a turn and records one step at a time.
pub trait EntropyHistory: State {
    /// Returns the reference H̄ (nats) of a turn index, or `None` if there is none yet: then
    /// nothing is penalised.
    ///
    /// # Errors
    /// [`Error::Setting`] for a turn index that this history cannot hold.
    fn reference(&self, turn: usize) -> Result<Option<f64>>;

    /// Records the masked mean entropies of one training step.
    ///
    /// # Errors
    /// An error for statistics that this history cannot hold.
    fn record(&mut self, step: &StepEntropy) -> Result<()>;
}

/// The weight β_k of the smoothing term.
pub trait AdaptiveBeta: State {
    /// Returns β at training step k, counted from 0.
    fn beta(&self, step: u64) -> f64;
}

/// One micro-batch as a regulariser sees it.
///
/// The entropies are checked and copied to the host once, when this is made; every regulariser and
/// every metric reads that copy.
pub struct EntropyInputs<'a> {
    /// Token entropies H [B, T] in nats, differentiable, finite, zero where masked out; `f32` if
    /// the caller's are in half precision.
    pub entropy_bt: Tensor,
    /// Mask, turn indices and aggregation weights of these rows.
    pub batch: &'a TokenBatch,
    /// The reference H̄ per turn; [`references`](Self::references) gives it per token.
    pub history: &'a dyn EntropyHistory,
    /// β of this step.
    pub beta: f64,
    /// The inputs of the policy loss and the step's selection; `None` if the caller passed only
    /// entropies.
    pub policy: Option<PolicyInputs<'a>>,
    /// The caller's tensor, padding included.
    pub(crate) unmasked_bt: &'a Tensor,
    entropies: Vec<f64>,
}

impl<'a> EntropyInputs<'a> {
    /// Checks the entropies [B, T] and copies them to the host; masked-out entries may hold
    /// anything.
    ///
    /// # Errors
    /// [`Error::Shape`], and [`Error::NonFinite`] if a
    /// masked-in entropy is NaN or infinite.
    pub fn new(
        entropy_bt: &'a Tensor,
        batch: &'a TokenBatch,
        history: &'a dyn EntropyHistory,
        beta: f64,
    ) -> Result<Self> {
        let unmasked_bt = entropy_bt;
        let entropy_bt = batch.zero_masked("entropy_bt", unmasked_bt)?;
        let entropies = Readout::copy(&[entropy_bt.detach()])?;
        batch.check_finite("entropy_bt", &entropies)?;
        Ok(Self { entropy_bt, batch, history, beta, policy: None, unmasked_bt, entropies })
    }

    /// Adds the inputs of the policy loss.
    #[must_use]
    pub fn with_policy(self, policy: impl Into<Option<PolicyInputs<'a>>>) -> Self {
        Self { policy: policy.into(), ..self }
    }

    /// Returns the entropies on the host, row-major [B·T] in nats, zero where masked out.
    pub fn entropies(&self) -> &[f64] {
        &self.entropies
    }

    /// Returns the reference H̄ (nats) of every token's own turn, row-major [B·T]; `None` where
    /// masked out and where the history has no reference yet.
    ///
    /// # Errors
    /// [`Error::Setting`] for a turn index that the history cannot hold.
    pub fn references(&self) -> Result<Vec<Option<f64>>> {
        let layout = self.batch.layout();
        let mut references = Vec::with_capacity(layout.mask().len());
        for (&counts, &turn) in layout.mask().iter().zip(layout.turns()) {
            references.push(if counts { self.history.reference(turn)? } else { None });
        }
        Ok(references)
    }
}

/// A term of the loss computed from token entropies.
///
/// Only [`term`](Self::term) must be written; with `impl State for Mine {}` that is about ten
/// lines.
///
/// ```
/// use epo::entropy::{EntropyInputs, EntropyRegularizer, State};
/// use epo::objective::{LossOutput, Metrics};
///
/// /// λ·agg(H²): punishes uncertain tokens.
/// struct Square(f64);
///
/// impl State for Square {}
///
/// impl EntropyRegularizer for Square {
///     fn term(&self, inputs: &EntropyInputs) -> epo::Result<LossOutput> {
///         let square = inputs.batch.aggregate(&inputs.entropy_bt.sqr()?)?;
///         Ok(LossOutput { loss: (square * self.0)?, metrics: Metrics::new() })
///     }
/// }
/// ```
pub trait EntropyRegularizer: State {
    /// Returns the term to be *added* to the policy loss, with λ and signs included, and metrics
    /// that add up over micro-batches.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::NonFinite`] naming the input.
    fn term(&self, inputs: &EntropyInputs) -> Result<LossOutput>;

    /// Receives the mean entropies of a training step's rollouts before its first micro-batch.
    ///
    /// # Errors
    /// An error for statistics that the regulariser cannot use.
    fn begin_step(&mut self, _step: u64, _rollout: &StepEntropy) -> Result<()> {
        Ok(())
    }

    /// Selects tokens of a training step, once, before its first optimiser step, so that the
    /// selection does not depend on the cut into mini-batches and micro-batches. `None` leaves
    /// every token alone.
    ///
    /// # Errors
    /// An error if `tokens` lack what the regulariser needs.
    fn select(&self, _tokens: &StepTokens) -> Result<Option<TokenSelection>> {
        Ok(None)
    }
}
