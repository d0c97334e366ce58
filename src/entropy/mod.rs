//! The heart of the crate: entropy regularisation against a policy's own history.
//!
//! Long multi-turn episodes tend to lose their way in one of two directions: entropy collapses
//! before the agent has found anything, or it grows from turn to turn until actions are noise. EPO
//! pushes the entropy back into a band around its own history.
//!
//! Three small, object-safe traits, each with a [`State`] that checkpoints keep:
//!
//! * [`EntropyHistory`]: the memory of past entropies, gives the reference H̄ of a turn;
//! * [`AdaptiveBeta`]: the weight β_k of the smoothing term at step k;
//! * [`EntropyRegularizer`]: a loss term from the entropies of a batch, the reference and β.
//!
//! [`EntropyControl`] holds one of each and shows a training step in four lines; [`EntropyConfig`]
//! builds it from names and numbers. Entropies are in nats per generated token, at the sampling
//! temperature.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use epo::entropy::EntropyConfig;
//! use epo::objective::TokenBatch;
//!
//! let batch = TokenBatch::turns(&[2, 2], &[0, 0])?;
//! let mut control = EntropyConfig::paper_v2().build()?;
//! // A first step fills the history; its mean entropy is 1 nat.
//! let rollout_bt = Tensor::new(&[[1f32, 1.0], [1.0, 1.0]], &Device::Cpu)?;
//! control.begin_step(0, &rollout_bt, &batch)?;
//! control.finish_step()?;
//! // At the next step entropies outside [0.5, 1.5] nats are pushed back into the band.
//! control.begin_step(1, &rollout_bt, &batch)?;
//! let entropy_bt = Var::from_tensor(&Tensor::new(&[[0.1f32, 1.0], [1.0, 2.0]], &Device::Cpu)?)?;
//! let term = control.term(&entropy_bt, &batch)?;
//! assert_eq!(term.metrics.get("entropy/in_band"), Some(0.5));
//! let grad = term.loss.backward()?.get(&entropy_bt).unwrap().to_vec2::<f32>()?;
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
pub(crate) mod traits;

pub use adaptive::{AdaptiveBonus, AdaptiveRule, AdaptiveTarget, DecayedBonus};
pub use band::{Band, Granularity};
pub use beta::{official_two_phase, paper_v2_beta, BetaSchedule};
pub use config::{
    AdaptiveConfig, BonusConfig, DecayedBonusConfig, EntropyConfig, EntropyMethod, EpoConfig,
    EpoOfficialConfig, HistoryConfig,
};
pub use control::EntropyControl;
pub use covariance::{token_covariances, ClipCov, KlCov};
pub use history::{AverageHistory, Averaging};
pub use official::{left_pad, EpoIndicator, OfficialHistory};
pub use regularizer::{EntropyBonus, EpoHinge, NoEntropy};
pub use selection::{PolicyInputs, StepTokens, TokenSelection};
pub use stats::StepEntropy;
pub use top_entropy::TopEntropy;
pub use traits::{
    read_state, AdaptiveBeta, EntropyHistory, EntropyInputs, EntropyRegularizer, State,
};
