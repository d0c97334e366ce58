//! From episodes to training rows: prompts, the turn loop over many environments, trajectories.
//!
//! Tokens in, tokens out: the ids that were sampled are the ids that are trained on; no text is ever
//! tokenised twice. [`play`] runs episodes, a [`Trajectory`] holds what happened, and [`Row`] is the form
//! in which a sequence meets the loss, either one row a trajectory or one row a turn.

pub(crate) mod action;
pub(crate) mod chat;
pub(crate) mod config;
pub(crate) mod engine;
#[cfg(feature = "transformers")]
mod frozen;
pub(crate) mod prompt;
pub(crate) mod rows;
pub(crate) mod sampler;
pub(crate) mod trajectory;

pub use action::{Action, ActionFormat};
pub use config::{ActionSpace, PlayConfig, RolloutConfig};
pub use engine::{play, Episode, PlayStats, Request, Rollouts, Sampled, Sampler};
pub use prompt::{demonstration_texts, Prompter, SPECIAL_TOKENS};
pub use rows::{demonstration_layouts, layout, DemonstrationRow, MicroBatch, Row, RowKind};
pub use sampler::PolicySampler;
pub use trajectory::{End, Trajectory, Turn};
