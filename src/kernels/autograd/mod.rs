//! What works around candle's tape: gradients handed on beside the graph, and gradients collected as lists.

pub(crate) mod bundle;
pub(crate) mod chain;
pub(crate) mod gradient_sink;
