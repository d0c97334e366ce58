//! Training: the loop's parts.

pub mod config;
pub mod credit;
pub(crate) mod evaluate;
pub mod learn;
pub(crate) mod step;
pub(crate) mod trainer;
pub mod watch;

pub use evaluate::{
    evaluate, evaluate_all, panel_episodes, panel_metrics, Evaluation, EvaluationConfig, Outcome,
    GREEDY,
};
pub use step::{
    group_episodes, record_without_update, round_episodes, step_line, summary, update_critic,
    update_policy, Advantages, StepSettings, Throughput,
};
pub use trainer::{Setup, Trainer};
