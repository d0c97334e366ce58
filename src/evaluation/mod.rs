//! Evaluation: fixed task sets, confidence intervals, paired gains.

pub(crate) mod gains;
pub(crate) mod panel;
pub(crate) mod stats;

pub use gains::{
    gains_table, panel_gains, read_outcomes, EpisodeOutcome, ExaminationOutcomes, PanelGain,
};
pub use panel::{Panel, TaskSchedule};
pub use stats::{bootstrap_mean, paired_gain, wilson, Interval, PairedGain};
