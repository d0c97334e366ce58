//! Inference kernels: small-batch matrix multiplication, attention of one query, threads that stay awake.

pub(crate) mod decode_attention;
pub(crate) mod gemv;
pub(crate) mod inference;
pub(crate) mod scratch;
pub(crate) mod team;
