//! Matrix multiplication, vector code and the optimiser step on the CPU.

pub(crate) mod amx;
pub(crate) mod buffer;
pub(crate) mod element;
pub(crate) mod float;
pub(crate) mod matmul;
pub(crate) mod narrow;
pub(crate) mod optimizer;
pub(crate) mod packed;
pub(crate) mod tile;
pub(crate) mod transposed;
pub(crate) mod view;
