//! The operators a policy is trained through, each with a closed-form gradient.
//!
//! Every public function takes and returns candle tensors and records one autograd node. On the CPU it runs
//! this module's own f32/f64 code, parallel over rows and bit-identical for any number of threads; on other
//! devices it falls back to differentiable candle operations ([`composed`]).
//!
//! | function | value |
//! |---|---|
//! | [`linear`], [`linear_residual`] | x Wᵀ + b, r + x Wᵀ |
//! | [`rms_norm`] | x / √(mean x² + ε) · w |
//! | [`rope`] | rotation of feature pairs by position-dependent angles |
//! | [`swiglu`] | silu(x W_gᵀ) ∘ (x W_uᵀ) |
//! | [`attention`] | causal grouped-query attention over packed sequences |
//! | [`logprob_entropy`] | log-probability of a token and entropy of its distribution |

mod attention;
mod buffer;
pub mod composed;
mod head;
mod inference;
mod linear;
mod linear_logprob_entropy;
mod linear_token_loss;
mod logprob_entropy;
mod matmul;
mod real;
pub mod reference;
mod rms_norm;
mod rope;
mod rows;
mod support;
mod swiglu;

pub use attention::{attention, AttentionShape};
pub use linear::{linear, linear_residual};
pub use linear_logprob_entropy::{
    evaluate_linear, linear_logprob_entropy, LinearEvaluation, LinearGradients, LmHead, LowRank,
};
pub use linear_token_loss::{linear_token_loss, TokenLoss, TokenLosses};
pub use logprob_entropy::{evaluate, logprob_entropy, logprob_entropy_with, Evaluation, ScoreOptions};
pub use rms_norm::rms_norm;
pub use rope::{rope, RopeTable};
pub use support::{RowSupport, Support};
pub use swiglu::swiglu;

pub(crate) use inference::{attend, linear_into, norm_rows, swiglu_rows};
pub(crate) use real::with_slice;
pub(crate) use rows::{probabilities, row_statistics};

#[cfg(test)]
mod score_tests;
#[cfg(test)]
mod tests;
