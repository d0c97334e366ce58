//! Training: the parts of a training loop, and the [`Trainer`] that holds them.

pub mod config;
pub mod credit;
pub(crate) mod evaluate;
pub mod learn;
pub(crate) mod run_state;
pub(crate) mod step;
pub(crate) mod trainer;
pub mod watch;

pub use evaluate::{
    evaluate, evaluate_all, evaluation_episodes, evaluation_metrics, Evaluation, EvaluationConfig,
    Outcome, GREEDY,
};
pub use learn::step_settings::StepSettings;
pub use run_state::Setup;
pub use step::{
    group_episodes, record_without_update, round_episodes, step_line, summary, update_critic,
    update_policy, Advantages, Throughput,
};
pub use trainer::Trainer;
