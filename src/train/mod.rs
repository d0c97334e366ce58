//! Training: the loop's parts, what it records and what it leaves on disk.

mod atomic;
mod checkpoint;
pub mod optim;
mod record;
mod recorder;
mod report;
pub mod schedule;
mod stats;
mod tensorboard;

pub use atomic::atomic_write;
pub use checkpoint::{prune_checkpoints, Checkpoint, CheckpointWriter, Latest};
pub use record::{first_difference, read_metrics, Metric, Record, METRICS_FILE, TIME_PREFIX};
pub use recorder::{Position, Recorder, EPISODES_FILE};
pub use report::{render_report, write_report};
pub use stats::{bootstrap_mean, wilson, Interval};
