//! Training layers with closed-form gradients.

pub(crate) mod affine;
pub(crate) mod attention;
pub(crate) mod attention_branch;
pub(crate) mod attention_rows;
pub(crate) mod checkpoint;
pub mod composed;
pub(crate) mod embedding;
pub(crate) mod feed_forward;
pub(crate) mod linear;
pub(crate) mod lora;
pub(crate) mod residual;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod rope_table;
pub(crate) mod rows_at;
pub(crate) mod shared;
pub(crate) mod shared_attention;
pub(crate) mod swiglu;
