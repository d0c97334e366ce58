//! The operators a policy is trained through, each with a closed-form gradient.
//!
//! Every public function takes and returns candle tensors and records one autograd node. On the CPU it runs
//! this module's own f32/f64 code, parallel over rows and bit-identical for any number of threads. With the `cuda`
//! and `metal` features, [`rms_norm`], [`rope`], [`swiglu`] and [`logprob_entropy`] of f32, bf16 and f16 tensors run
//! own kernels on such devices; everything else is made of differentiable candle operations ([`composed`]).
//!
//! | function | value |
//! |---|---|
//! | [`linear`], [`linear_residual`] | x Wᵀ + b, r + x Wᵀ |
//! | [`rms_norm`] | x / √(mean x² + ε) · w |
//! | [`rope`] | rotation of feature pairs by position-dependent angles |
//! | [`swiglu`] | silu(x W_gᵀ) ∘ (x W_uᵀ) |
//! | [`attention`] | causal grouped-query attention over packed sequences |
//! | [`logprob_entropy`] | log-probability of a token and entropy of its distribution |

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
pub mod composed;
#[cfg(any(test, feature = "cuda", feature = "metal"))]
pub mod gpu;
mod inference;
mod linear;
mod logprob_entropy;
mod matmul;
mod real;
pub mod reference;
mod rms_norm;
mod rope;
mod swiglu;

pub use attention::{attention, AttentionShape};
pub use linear::{linear, linear_residual};
pub use logprob_entropy::logprob_entropy;
pub use rms_norm::rms_norm;
pub use rope::{rope, RopeTable};
pub use swiglu::swiglu;

pub(crate) use inference::{attend, linear_into, norm_rows, swiglu_rows};
pub(crate) use logprob_entropy::{probabilities, row_statistics};
pub(crate) use real::with_slice;

#[cfg(test)]
mod tests;
