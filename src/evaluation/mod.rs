//! Evaluation: fixed task sets, outcomes, confidence intervals and paired gains.

pub(crate) mod gains;
pub(crate) mod outcomes;
pub(crate) mod stats;
pub(crate) mod task_set;

pub use gains::{gains_table, task_set_gains, TaskSetGain};
pub use outcomes::{read_outcomes, EpisodeOutcome, EvaluationOutcomes};
pub use stats::{bootstrap_mean, paired_gain, wilson, Interval, PairedGain};
pub use task_set::{TaskSchedule, TaskSet};
