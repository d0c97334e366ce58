//! Evaluation: fixed task sets, confidence intervals, paired gains.

pub(crate) mod gains;
pub(crate) mod stats;
pub(crate) mod task_set;

pub use gains::{
    gains_table, panel_gains, read_outcomes, EpisodeOutcome, EvaluationOutcomes, PanelGain,
};
pub use stats::{bootstrap_mean, paired_gain, wilson, Interval, PairedGain};
pub use task_set::{TaskSchedule, TaskSet};
