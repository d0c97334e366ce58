//! Training: the loop's parts, what it records and what it leaves on disk.

#[cfg(feature = "text")]
mod accumulate;
#[cfg(feature = "text")]
mod agent;
mod alarm;
mod atomic;
mod checkpoint;
#[cfg(feature = "text")]
mod cloning;
#[cfg(feature = "text")]
mod config;
#[cfg(feature = "text")]
mod credit;
#[cfg(feature = "text")]
mod critic;
#[cfg(feature = "text")]
mod diagnostics;
#[cfg(feature = "text")]
mod dump;
#[cfg(feature = "text")]
mod evaluate;
#[cfg(feature = "text")]
mod gae;
#[cfg(feature = "text")]
mod interrupt;
#[cfg(feature = "text")]
mod learner;
#[cfg(feature = "text")]
mod learner_files;
#[cfg(feature = "text")]
mod model;
pub mod optim;
mod outcomes;
#[cfg(feature = "text")]
mod prepare;
#[cfg(feature = "text")]
mod presets;
mod progress;
mod record;
mod recorder;
#[cfg(feature = "text")]
mod replay;
mod report;
#[cfg(feature = "text")]
mod reward;
mod rollout_log;
#[cfg(feature = "text")]
mod run_folder;
#[cfg(feature = "text")]
mod sampling;
pub mod schedule;
#[cfg(feature = "text")]
mod shaping;
mod stats;
#[cfg(feature = "text")]
mod step;
mod tasks;
mod tensorboard;
#[cfg(feature = "text")]
mod trainer;
#[cfg(feature = "text")]
mod unused;
#[cfg(feature = "text")]
mod update;
#[cfg(feature = "text")]
mod worlds;

#[cfg(feature = "text")]
pub use agent::{Agent, AgentConfig, PolicyConfig};
pub use alarm::{Alarm, AlarmAction, AlarmBaseline, AlarmConfig, AlarmKind, AlarmState, Alarms, StepNumbers};
pub(crate) use atomic::atomic_folder;
pub use atomic::atomic_write;
pub use checkpoint::{prune_checkpoints, Checkpoint, CheckpointWriter, Latest};
#[cfg(feature = "text")]
pub use cloning::{clone_demonstrations, CloningConfig};
#[cfg(feature = "text")]
pub use config::{Overrides, TrainConfig};
#[cfg(feature = "text")]
pub use credit::{turn_advantages, AdvantageConfig};
#[cfg(feature = "text")]
pub use critic::{Critic, CriticBody, CriticConfig, ValueBatch};
#[cfg(feature = "text")]
pub use diagnostics::{band_metrics, length_metrics, step_entropy, trajectory_metrics};
#[cfg(feature = "text")]
pub(crate) use dump::EpisodeRef;
#[cfg(feature = "text")]
pub use dump::{dump_rollouts, episode_files, read_episodes, EpisodeLine};
#[cfg(feature = "text")]
pub use evaluate::{
    examine, examine_panels, panel_episodes, panel_metrics, EvaluationConfig, Examination, Outcome, GREEDY,
};
#[cfg(feature = "text")]
pub use gae::{explained_variance, token_advantages, GaeConfig, GaeLevel, TokenCredit};
#[cfg(feature = "text")]
pub use interrupt::stop_on_ctrl_c;
#[cfg(feature = "text")]
pub use learner::{Learner, PolicyBatch};
#[cfg(feature = "text")]
pub use model::{DeviceKind, ModelConfig, WeightType};
pub use optim::AdamWConfig;
pub use outcomes::{gains_table, panel_gains, read_outcomes, EpisodeOutcome, ExaminationOutcomes, PanelGain};
#[cfg(feature = "text")]
pub use presets::{Algorithm, Benchmark, Preset};
pub use progress::{clock, Progress};
pub use record::{first_difference, read_metrics, Metric, Record, METRICS_FILE, TIME_PREFIX};
pub use recorder::{Position, Recorder, EPISODES_FILE, ROLLOUTS_FILE};
#[cfg(feature = "text")]
pub use replay::{replay_episode, Difference};
pub use report::{render_report, write_report};
#[cfg(feature = "text")]
pub use reward::RewardConfig;
#[cfg(feature = "text")]
pub use run_folder::{best_checkpoint, config_text, read_config, RunFolder};
#[cfg(feature = "text")]
pub use sampling::{sample_informative, DynamicSampling, InformativeGroups};
pub use schedule::LrSchedule;
#[cfg(feature = "text")]
pub use shaping::{kl_rewards, overlong_rewards, KlReward, Rewards};
pub use stats::{bootstrap_mean, paired_gain, wilson, Interval, PairedGain};
#[cfg(feature = "text")]
pub use step::{
    group_episodes, leave_policy, round_episodes, step_line, summary, update_critic, update_policy,
    Advantages, StepSettings, Throughput,
};
pub use tasks::{Panel, TaskSchedule};
#[cfg(feature = "text")]
pub use trainer::{Beginning, Trainer};
#[cfg(feature = "text")]
pub use unused::{TaskSettings, Unused};
#[cfg(feature = "text")]
pub use update::UpdateConfig;
#[cfg(all(feature = "text", feature = "alfworld"))]
#[cfg_attr(docsrs, doc(cfg(all(feature = "text", feature = "alfworld"))))]
pub use worlds::AlfWorldTasks;
#[cfg(all(feature = "text", feature = "scienceworld"))]
#[cfg_attr(docsrs, doc(cfg(all(feature = "text", feature = "scienceworld"))))]
pub use worlds::ScienceWorldTasks;
