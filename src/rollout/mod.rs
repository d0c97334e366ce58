//! From episodes to training rows: prompts, the turn loop over many environments, trajectories.
//!
//! Tokens in, tokens out: the sampled ids are the ids that are trained on, and no text is tokenised
//! twice. [`play`] plays episodes, a [`Trajectory`] records one of them, and a [`Row`] is the
//! sequence that enters the loss: one row per trajectory or one row per turn.

pub(crate) mod action;
pub(crate) mod chat;
pub(crate) mod config;
pub(crate) mod engine;
#[cfg(feature = "transformers")]
mod frozen;
pub(crate) mod layout;
pub(crate) mod prompt;
pub(crate) mod rows;
pub(crate) mod sampler;
pub(crate) mod trajectory;

pub use action::{Action, ActionFormat};
pub use config::{ActionSpace, PlayConfig, RolloutConfig};
pub use engine::{play, Episode, PlayStats, Rollouts};
pub use prompt::{demonstration_texts, Prompter, SPECIAL_TOKENS};
pub use rows::{demonstration_layouts, layout, DemonstrationRow, MicroBatch, Row, RowKind};
pub use sampler::{PolicySampler, Request, Sampled, Sampler};
pub use trajectory::{End, Trajectory, Turn};
