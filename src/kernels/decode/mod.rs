//! Kernels of decoding, without gradients: small-batch matrix multiplication, attention of one
//! query per head, and threads that stay awake between short tasks.

pub(crate) mod amx;
pub(crate) mod block_gemv;
pub(crate) mod decode_attention;
pub(crate) mod gemv;
pub(crate) mod inference;
pub(crate) mod paged;
pub(crate) mod rows;
pub(crate) mod scratch;
pub(crate) mod team;
pub(crate) mod wide_tile;
