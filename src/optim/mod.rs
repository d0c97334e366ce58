//! The optimiser and its learning-rate schedules.

pub(crate) mod adamw;
pub(crate) mod schedule;

pub use adamw::{AdamW, AdamWConfig};
pub use schedule::LrSchedule;
