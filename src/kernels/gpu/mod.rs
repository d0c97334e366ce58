//! Kernels for CUDA and Metal devices, written once.
//!
//! `elements.inc`, `scores.inc` and `layers.inc` hold them in the common subset of CUDA C++ and MSL; a prelude per
//! dialect goes before them. An operator describes its launch once, as a `Launch` over the storages of either back
//! end; `cuda.rs` and `metal.rs` compile the source at run time and carry the launch out. Elements are f32, bf16 or
//! f16, arithmetic is f32. Tensors of other types, and operators without a kernel, go through [`crate::kernels::composed`] on the same device.
//!
//! The operators of [`super`] come here by themselves.

pub(crate) mod adamw;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod launch;
pub(crate) mod logprob_entropy;
#[cfg(feature = "metal")]
pub(crate) mod metal;
pub(crate) mod operator;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod swiglu;
#[cfg(test)]
mod tests;
