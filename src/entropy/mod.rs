//! The heart of the crate: entropy regularisation against a policy's own history.
//!
//! Three small traits, each object-safe, `Send`, with a state that serialises:
//!
//! * [`EntropyHistory`]: what the entropy of a turn has been so far, the reference H̄;
//! * [`AdaptiveBeta`]: the weight β_k of the smoothing term at step k;
//! * [`EntropyRegularizer`]: turns the entropies of a batch, the reference and β into a loss term.
//!
//! [`EntropyControl`] holds one of each; [`EntropyConfig`] builds it from names and numbers. Entropies are in
//! nats per generated token, at the sampling temperature.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use epo::entropy::{EntropyConfig, StepEntropy};
//! use epo::objective::{Aggregation, TokenBatch, TokenLayout};
//!
//! let layout = TokenLayout::per_turn(2, vec![true; 4], &[0, 1], vec![0, 0])?;
//! let mut control = EntropyConfig::paper_v2().build()?;
//! // A first step fills the history; its mean entropy is 1 nat.
//! let rollout = StepEntropy::from_tokens(&[1.0; 4], &layout)?;
//! control.begin_step(0, rollout)?;
//! control.finish_step()?;
//! // At the next step entropies outside [0.5, 1.5] nats are pushed back into the band.
//! control.begin_step(1, StepEntropy::from_tokens(&[1.0; 4], &layout)?)?;
//! let entropy_bt = Var::from_tensor(&Tensor::new(&[[0.1f64, 1.0], [1.0, 2.0]], &Device::Cpu)?)?;
//! let term = control.term(&entropy_bt, &TokenBatch::new(layout, Aggregation::TurnMean))?;
//! assert_eq!(term.metrics.get("entropy/in_band"), Some(0.5));
//! let grad = term.loss.backward()?.get(&entropy_bt).unwrap().to_vec2::<f64>()?;
//! assert!(grad[0][0] < grad[0][1] && grad[1][1] > grad[1][0]);
//! # Ok::<(), epo::Error>(())
//! ```

pub(crate) mod adaptive;
pub(crate) mod band;
pub(crate) mod beta;
pub(crate) mod config;
pub(crate) mod control;
pub(crate) mod covariance;
pub(crate) mod history;
pub(crate) mod official;
pub(crate) mod regularizer;
pub(crate) mod selection;
pub(crate) mod stats;
pub(crate) mod top_entropy;

pub use adaptive::{AdaptiveBonus, AdaptiveRule, AdaptiveTarget, DecayedBonus};
pub use band::{Band, Granularity};
pub use beta::{official_two_phase, paper_v2_beta, BetaSchedule};
pub use config::{EntropyConfig, EntropyMethod, HistoryConfig};
pub use control::EntropyControl;
pub use covariance::{token_covariances, ClipCov, KlCov};
pub use history::{AverageHistory, Averaging};
pub use official::{left_pad, EpoIndicator, OfficialHistory};
pub use regularizer::{EntropyBonus, EpoHinge, NoEntropy};
pub use selection::{PolicyInputs, StepTokens, TokenSelection};
pub use stats::StepEntropy;
pub use top_entropy::TopEntropy;

use candle_core::Tensor;
use serde_json::Value;

use crate::objective::aggregate::TokenBatch;
use crate::objective::LossOutput;
use crate::Result;

/// What the entropy has been: gives the reference H̄ of a turn and records one step at a time.
pub trait EntropyHistory: Send + Sync {
    /// The reference H̄ (nats) for a turn index, `None` while there is none: then nothing is penalised.
    ///
    /// # Errors
    /// A turn index that this history cannot hold.
    fn reference(&self, turn: usize) -> Result<Option<f64>>;

    /// Records the masked entropy means of one training step, with their counts.
    ///
    /// # Errors
    /// A statistic that this history cannot hold.
    fn record(&mut self, step: &StepEntropy) -> Result<()>;

    /// Everything needed to continue, for a checkpoint.
    fn state(&self) -> Value;

    /// Continues from a state that [`EntropyHistory::state`] gave.
    ///
    /// # Errors
    /// A state of another shape or kind.
    fn load_state(&mut self, state: &Value) -> Result<()>;
}

/// The weight β_k of the smoothing term.
pub trait AdaptiveBeta: Send + Sync {
    /// β at training step k, counted from 0.
    fn beta(&self, step: u64) -> f64;

    /// Everything needed to continue, for a checkpoint; `Null` where β depends on the step alone.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Continues from a state that [`AdaptiveBeta::state`] gave.
    ///
    /// # Errors
    /// A state of another shape or kind.
    fn load_state(&mut self, state: &Value) -> Result<()> {
        stats::expect_null("beta", state)
    }
}

/// What a regulariser sees of a micro-batch. Suffixes: b rows, t token positions.
#[derive(Clone, Copy)]
pub struct EntropyInputs<'a> {
    /// Token entropies H [B, T] in nats, differentiable; masked-out entries may hold anything.
    pub entropy_bt: &'a Tensor,
    /// Mask, turn indices and aggregation weights of these rows.
    pub batch: &'a TokenBatch,
    /// The reference H̄ per turn.
    pub history: &'a dyn EntropyHistory,
    /// β of this step.
    pub beta: f64,
    /// What the policy loss sees, and the step's selection; `None` where the caller has only entropies.
    pub policy: Option<PolicyInputs<'a>>,
}

/// Turns token entropies into a term of the loss.
///
/// Implementing it takes about twenty lines, see `examples/custom_regularizer.rs`.
pub trait EntropyRegularizer: Send + Sync {
    /// The term to be *added* to the policy loss, λ and signs included, with metrics that add up over
    /// micro-batches.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) and [`Error::NonFinite`](crate::Error::NonFinite) naming the input.
    fn term(&self, inputs: &EntropyInputs) -> Result<LossOutput>;

    /// Sees the mean entropies of a training step's rollouts before its first micro-batch.
    ///
    /// # Errors
    /// What the regulariser cannot use.
    fn begin_step(&mut self, _step: u64, _rollout: &StepEntropy) -> Result<()> {
        Ok(())
    }

    /// Singles out tokens of a training step, once, before its first optimiser step: what it returns cannot
    /// depend on how the step is cut into mini-batches and micro-batches. `None` leaves every token alone.
    ///
    /// # Errors
    /// What the regulariser needs and `tokens` lack.
    fn select(&self, _tokens: &StepTokens) -> Result<Option<TokenSelection>> {
        Ok(None)
    }

    /// Everything needed to continue, for a checkpoint; `Null` where there is nothing.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Continues from a state that [`EntropyRegularizer::state`] gave.
    ///
    /// # Errors
    /// A state of another shape or kind.
    fn load_state(&mut self, state: &Value) -> Result<()> {
        stats::expect_null("regularizer", state)
    }
}
