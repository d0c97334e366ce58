//! The numbers of training steps that alarms depend on, and their means over windows.

use serde::{Deserialize, Serialize};

use crate::run::record::Record;

/// The numbers of a step that alarms depend on; one that is not finite counts as absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepNumbers {
    /// Share of groups in which every return is the same.
    pub zero_variance: Option<f64>,
    /// Share of actions the environment understood.
    pub valid_actions: Option<f64>,
    /// Mean entropy of the rollouts, nats per token.
    pub entropy: Option<f64>,
    /// The same over the last third of the turn indices.
    pub entropy_late: Option<f64>,
    /// Upper end of the entropy band, nats.
    pub band_high: Option<f64>,
    /// Share of episodes solved.
    pub success: Option<f64>,
}

impl StepNumbers {
    /// Reads the numbers of a record, under the keys that
    /// [`trajectory_metrics`](crate::train::watch::trajectory_metrics) and
    /// [`band_metrics`](crate::train::watch::band_metrics) write.
    pub fn of(record: &Record) -> Self {
        let number = |key| record.number(key).filter(|x| x.is_finite());
        Self {
            zero_variance: number("zero_variance_groups"),
            valid_actions: number("valid_actions"),
            entropy: number("entropy"),
            entropy_late: number("entropy_late"),
            band_high: number("band_high"),
            success: number("success"),
        }
    }
}

/// Baseline of a run that a window of steps is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AlarmBaseline {
    /// Mean entropy of the run's first window, nats per token.
    pub entropy: Option<f64>,
    /// The same over the last third of the turn indices.
    pub entropy_late: Option<f64>,
    /// Mean success of the best window so far.
    pub success: Option<f64>,
}

/// The mean over all steps; `None` if one lacks the number.
pub(crate) fn mean(
    steps: &[StepNumbers],
    number: impl Fn(&StepNumbers) -> Option<f64>,
) -> Option<f64> {
    let sum: Option<f64> = steps.iter().map(number).sum();
    sum.filter(|_| !steps.is_empty()).map(|sum| sum / steps.len() as f64)
}

/// The means over the older ⌊n/2⌋ steps and over the others.
pub(crate) fn halves(
    steps: &[StepNumbers],
    number: impl Fn(&StepNumbers) -> Option<f64> + Copy,
) -> Option<(f64, f64)> {
    let (older, newer) = steps.split_at(steps.len() / 2);
    Some((mean(older, number)?, mean(newer, number)?))
}
