//! Frozen weights that stay in GGML's quantised blocks.

pub(crate) mod linear;
pub(crate) mod matrix;
pub(crate) mod unpack;
pub(crate) mod weight;

#[cfg(test)]
mod tests;
