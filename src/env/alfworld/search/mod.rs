//! Searches: the expert, shortest plans, demonstrations.

pub(crate) mod demonstrate;
pub(crate) mod expert;
pub(crate) mod planner;
pub(crate) mod relaxed;
