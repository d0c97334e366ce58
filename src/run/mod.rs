//! What a run leaves on disk and reads back: folder, checkpoints, metrics, episodes, TensorBoard events.

pub(crate) mod checkpoint;
#[cfg(feature = "text")]
pub(crate) mod episodes;
#[cfg(feature = "text")]
pub(crate) mod folder;
#[cfg(feature = "text")]
pub(crate) mod interrupt;
pub(crate) mod progress;
pub(crate) mod record;
pub(crate) mod recorder;
#[cfg(feature = "text")]
pub(crate) mod replay;
pub(crate) mod rollout_log;
pub(crate) mod tensorboard;

pub use checkpoint::{prune_checkpoints, Checkpoint, CheckpointWriter, Latest};
#[cfg(feature = "text")]
pub use episodes::{dump_rollouts, episode_files, read_episodes, EpisodeLine};
#[cfg(feature = "text")]
pub use folder::{best_checkpoint, config_text, read_config, RunFolder};
#[cfg(feature = "text")]
pub use interrupt::stop_on_ctrl_c;
pub use progress::{clock, Progress};
pub use record::{first_difference, read_metrics, Metric, Record, METRICS_FILE, TIME_PREFIX};
pub use recorder::{Position, Recorder, EPISODES_FILE, ROLLOUTS_FILE};
#[cfg(feature = "text")]
pub use replay::{replay_episode, Difference};
