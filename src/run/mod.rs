//! A run's files: folder, checkpoints, metrics, episodes and TensorBoard events.

pub(crate) mod checkpoint;
pub(crate) mod episodes;
pub(crate) mod folder;
pub(crate) mod interrupt;
pub(crate) mod lines;
pub(crate) mod lock;
pub(crate) mod progress;
pub(crate) mod record;
pub(crate) mod recorder;
pub(crate) mod replay;
pub(crate) mod rollout_log;
pub(crate) mod tensorboard;

pub use checkpoint::{prune_checkpoints, Checkpoint, CheckpointWriter, Latest};
pub use episodes::{dump_rollouts, episode_files, read_episodes, EpisodeLine};
pub use folder::{best_checkpoint, config_text, read_config, RunFolder};
pub use interrupt::stop_on_ctrl_c;
pub use progress::{clock, Progress};
pub use record::{first_difference, read_metrics, Metric, Record, METRICS_FILE, TIME_PREFIX};
pub use recorder::{Position, Recorder, EPISODES_FILE};
pub use replay::{replay_episode, Difference};
pub use rollout_log::ROLLOUTS_FILE;
