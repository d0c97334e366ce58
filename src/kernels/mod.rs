//! The operators a policy is trained through, each with a closed-form gradient.
//!
//! Every public function takes and returns candle tensors and records one autograd node. On the
//! CPU it runs this crate's own f32/f64 code, parallel over rows and bitwise identical for any
//! number of threads. With the `cuda` and `metal` features, f32, bf16 and f16 tensors on such
//! devices run kernels of this crate; f64 tensors run differentiable candle operations there
//! ([`composed`]), and quantised weights need the CPU.
//!
//! | function | value |
//! |---|---|
//! | [`embedding`] | rows of a table |
//! | [`linear`], [`linear_residual`] | x Wᵀ + b, r + x Wᵀ |
//! | [`linear_lora`] | x Wᵀ + b + s (x Aᵀ) Bᵀ with W and b frozen |
//! | [`quantized_linear`] | the same with W in quantised blocks ([`QuantizedMatrix`]) |
//! | [`rms_norm`] | x / √(mean x² + ε) · w |
//! | [`rope`] | rotation of feature pairs by position-dependent angles |
//! | [`swiglu`], [`silu_mul`] | silu(x W_gᵀ) ∘ (x W_uᵀ), silu(a) ∘ b |
//! | [`attention`] | causal grouped-query attention over packed sequences |
//! | [`attention_branch`], [`feed_forward`] | the two residual branches of a pre-norm block |
//! | [`checkpoint()`] | any function, recomputed in the backward pass |
//! | [`logprob_entropy`], [`logprob_entropy_with`] | log p of a token, entropy |
//! | [`linear_logprob_entropy`] | the same from hidden states, in tiles of logits |
//! | [`quantized_logprob_entropy`] | the same through a head in quantised blocks |
//! | [`evaluate`], [`evaluate_linear`] | both without autograd, gradients on demand |
//!
//! A trainer uses [`linear_logprob_entropy`], through
//! [`Decoder::score`](crate::policy::Decoder::score).

pub(crate) mod autograd;
pub(crate) mod cpu;
pub(crate) mod decode;
pub(crate) mod dispatch;
#[cfg(any(test, feature = "cuda", feature = "metal"))]
pub(crate) mod gpu;
pub(crate) mod layers;
pub(crate) mod quantized;
pub mod reference;
pub(crate) mod score;

pub use layers::attention::attention;
pub use layers::attention_branch::attention_branch;
pub use layers::attention_rows::{AttentionRows, AttentionShape, AttentionWeights};
pub use layers::checkpoint::checkpoint;
pub use layers::composed;
pub use layers::embedding::embedding;
pub use layers::feed_forward::feed_forward;
pub use layers::linear::{linear, linear_residual};
pub use layers::lora::linear_lora;
pub use layers::rms_norm::rms_norm;
pub use layers::rope::rope;
pub use layers::rope_table::RopeTable;
pub use layers::shared::SharedPrefixes;
pub use layers::swiglu::{silu_mul, swiglu};
pub use quantized::linear::quantized_linear;
pub use quantized::matrix::QuantizedMatrix;
pub use score::linear_logprob_entropy::{
    evaluate_linear, linear_logprob_entropy, LinearEvaluation, LinearGradients, LmHead, LowRank,
};
pub use score::logprob_entropy::{evaluate, logprob_entropy, logprob_entropy_with, Evaluation};
pub use score::quantized_head::quantized_logprob_entropy;
pub use score::scoring::ScoreOptions;
pub use score::support::{RowSupport, Support};

#[cfg(test)]
mod score_tests;
#[cfg(test)]
mod tests;
