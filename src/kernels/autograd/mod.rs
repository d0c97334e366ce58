//! Extensions of candle's autograd: gradients passed outside the graph, and gradients collected as
//! lists.

pub(crate) mod bundle;
pub(crate) mod chain;
pub(crate) mod existing;
pub(crate) mod gradient_sink;
