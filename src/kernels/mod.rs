//! The operators a policy is trained through, each with a closed-form gradient.
//!
//! Every public function takes and returns candle tensors and records one autograd node. On the CPU it runs
//! this module's own f32/f64 code, parallel over rows and bit-identical for any number of threads. With the `cuda`
//! and `metal` features, [`rms_norm`], [`rope`], [`swiglu`] and [`logprob_entropy`] of f32, bf16 and f16 tensors run
//! own kernels on such devices; everything else is made of differentiable candle operations ([`composed`]).
//!
//! | function | value |
//! |---|---|
//! | [`embedding`] | rows of a table |
//! | [`linear`], [`linear_residual`] | x Wᵀ + b, r + x Wᵀ |
//! | [`linear_lora`] | x Wᵀ + b + s (x Aᵀ) Bᵀ with W and b frozen |
//! | [`rms_norm`], [`rms_norm_residual`] | x / √(mean x² + ε) · w, the same of r + x beside r + x |
//! | [`rope`] | rotation of feature pairs by position-dependent angles |
//! | [`swiglu`], [`silu_mul`] | silu(x W_gᵀ) ∘ (x W_uᵀ), silu(a) ∘ b |
//! | [`attention`] | causal grouped-query attention over packed sequences |
//! | [`attention_branch`], [`feed_forward`] | the halves of a pre-norm block, each in one operator |
//! | [`checkpoint()`] | any function, of which only the input is kept for backward |
//! | [`logprob_entropy`], [`logprob_entropy_with`], [`evaluate`] | log-probability of a token and entropy of its distribution |
//! | [`linear_logprob_entropy`], [`linear_token_loss`], [`evaluate_linear`] | the same from hidden states, without all logits at once |

/// Returns the value where the tensor's device has a kernel for it; nothing without a device feature but in tests.
macro_rules! on_device {
    ($tensor:expr => $value:expr) => {
        #[cfg(any(test, feature = "cuda", feature = "metal"))]
        if crate::kernels::gpu::serves($tensor) {
            return $value;
        }
    };
}
pub(crate) use on_device;

mod attention;
mod attention_branch;
mod branch;
mod buffer;
mod chain;
mod checkpoint;
mod collect;
pub mod composed;
mod embedding;
mod feed_forward;
mod few_rows;
#[cfg(any(test, feature = "cuda", feature = "metal"))]
pub(crate) mod gpu;
mod head;
mod inference;
mod linear;
mod linear_logprob_entropy;
mod linear_token_loss;
mod logit;
mod logprob_entropy;
mod lora;
mod matmul;
mod one_query;
mod optimizer;
mod packed;
mod real;
pub mod reference;
mod rms_norm;
mod rms_norm_residual;
mod rope;
mod rows;
mod scoring;
mod scratch;
mod shared;
mod support;
mod swiglu;
mod team;
mod tile;
mod transposed;

pub use attention::{attention, AttentionShape};
pub(crate) use attention_branch::chain_attention;
pub use attention_branch::{attention_branch, AttentionRows, AttentionWeights};
pub(crate) use chain::Chain;
pub use checkpoint::checkpoint;
pub use embedding::embedding;
pub(crate) use feed_forward::chain_feed_forward;
pub use feed_forward::feed_forward;
pub use head::TokenLoss;
pub use linear::{linear, linear_residual};
pub use linear_logprob_entropy::{
    evaluate_linear, linear_logprob_entropy, LinearEvaluation, LinearGradients, LmHead, LowRank,
};
pub use linear_token_loss::{linear_token_loss, TokenLosses};
pub use logprob_entropy::{evaluate, logprob_entropy, logprob_entropy_with, Evaluation};
pub use lora::linear_lora;
pub use rms_norm::rms_norm;
pub use rms_norm_residual::rms_norm_residual;
pub use rope::{rope, RopeTable};
pub use scoring::ScoreOptions;
pub use shared::SharedPrefixes;
pub use support::{RowSupport, Support};
pub use swiglu::{silu_mul, swiglu};

pub(crate) use collect::{add_into, collecting, Collected};
pub(crate) use embedding::RowGradient;
pub(crate) use inference::{attend, embedding_rows, norm_rows, Input, Past, FEW};
pub(crate) use logit::Logit;
pub(crate) use optimizer::{adamw, adamw_narrow, sum_of_squares, AdamWStep};
pub(crate) use real::with_slice;
pub(crate) use rows::{probabilities, row_statistics};
pub(crate) use scratch::Scratch;
pub(crate) use team::Team;

#[cfg(test)]
mod score_tests;
#[cfg(test)]
mod tests;
