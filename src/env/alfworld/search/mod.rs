//! The expert that plays by searching, and its games as demonstrations.

pub(crate) mod demonstrate;
pub(crate) mod expert;
