//! The searching expert and its demonstrations.

pub(crate) mod demonstrate;
pub(crate) mod expert;
