//! The objective: policy, KL and value losses as pure functions, and one place for every
//! normaliser.
//!
//! A loss is Σ w·x over the tokens of a [`TokenBatch`]. The weights come from the whole batch
//! ([`Aggregation`]), so micro-batches add up. The total of the paper (v2, eq. 6) is
//!
//! loss = L_PG − λ[L_H − β·L_smooth] + c_KL·KL,
//!
//! where [`policy_loss`] gives the first and last term and an
//! [`EntropyRegularizer`](crate::entropy::EntropyRegularizer) the middle one:
//! `policy_loss(..)?.plus(entropy_term)?`.

pub(crate) mod aggregate;
pub(crate) mod cispo;
pub(crate) mod gspo;
pub(crate) mod importance;
pub(crate) mod kl;
pub(crate) mod kl_reward;
pub(crate) mod layout;
pub(crate) mod metrics;
pub(crate) mod output;
pub(crate) mod policy;
pub(crate) mod readout;
pub(crate) mod settings;
pub(crate) mod tensor_cache;
pub(crate) mod tensors;
pub(crate) mod value;

pub use aggregate::{Aggregation, TokenBatch};
pub use cispo::{cispo_weight, reinforce_loss};
pub use gspo::sequence_ratio;
pub use importance::{importance_weights, ImportanceCorrection, ImportanceWeights, RatioLevel};
pub use kl::{kl_penalty, KlKind};
pub use kl_reward::{kl_in_reward, AdaptiveKl, KlControl};
pub use layout::{Segments, TokenLayout};
pub use metrics::Metrics;
pub use output::LossOutput;
pub use policy::{policy_loss, LossInputs};
pub use settings::{KlLoss, PolicyLoss, PolicyLossKind};
pub use value::{value_loss, ValueInputs};
