//! Diagnostics of a training step, and alarms on them.

pub(crate) mod alarm;
pub(crate) mod diagnostics;
pub(crate) mod step_numbers;

pub use alarm::{Alarm, AlarmAction, AlarmConfig, AlarmKind, AlarmState, Alarms};
pub use diagnostics::{band_metrics, length_metrics, step_entropy, trajectory_metrics};
pub use step_numbers::{AlarmBaseline, StepNumbers};
