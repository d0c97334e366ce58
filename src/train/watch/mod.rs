//! Diagnostics of a training step, and alarms on them.

pub(crate) mod alarm;
pub(crate) mod diagnostics;

pub use alarm::{
    Alarm, AlarmAction, AlarmBaseline, AlarmConfig, AlarmKind, AlarmState, Alarms, StepNumbers,
};
pub use diagnostics::{band_metrics, length_metrics, step_entropy, trajectory_metrics};
