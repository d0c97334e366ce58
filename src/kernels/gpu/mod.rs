//! Kernels for CUDA and Metal devices from one source.
//!
//! The `.inc` files contain the kernels in the common subset of CUDA C++ and MSL, preceded by a
//! prelude per dialect. An operator describes its launch once, as a [`launch::Launch`] over the
//! storages of either back end; `cuda.rs` and `metal.rs` compile the source at run time and perform
//! the launch. Elements are f32, bf16 or f16; arithmetic is f32. Tensors of other types use
//! [`crate::kernels::composed`] on the same device.
//!
//! The public operators of [`crate::kernels`] dispatch here through `on_device!`.

pub(crate) mod adamw;
pub(crate) mod attention;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod decode;
pub(crate) mod head;
pub(crate) mod launch;
pub(crate) mod linear;
pub(crate) mod logprob_entropy;
#[cfg(feature = "metal")]
pub(crate) mod metal;
pub(crate) mod operator;
pub(crate) mod product;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod rows;
pub(crate) mod swiglu;
#[cfg(test)]
pub(crate) mod tests;
