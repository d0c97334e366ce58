//! Training: the loop's parts.

pub mod config;
pub mod credit;
pub(crate) mod evaluate;
pub mod learn;
pub(crate) mod step;
pub(crate) mod trainer;
pub mod watch;

pub use evaluate::{
    examine, examine_panels, panel_episodes, panel_metrics, EvaluationConfig, Examination, Outcome,
    GREEDY,
};
pub use step::{
    group_episodes, leave_policy, round_episodes, step_line, summary, update_critic, update_policy,
    Advantages, StepSettings, Throughput,
};
pub use trainer::{Beginning, Trainer};
