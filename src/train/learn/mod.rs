//! Learning: the agent, its updates, the critic, behaviour cloning.

pub(crate) mod accumulate;
pub(crate) mod agent;
pub(crate) mod cloning;
pub(crate) mod critic;
pub(crate) mod learner;
pub(crate) mod learner_files;
pub(crate) mod prepare;

pub use agent::{Agent, AgentConfig};
pub use cloning::{clone_demonstrations, CloningConfig};
pub use critic::{Critic, CriticBody, CriticConfig, ValueBatch};
pub use learner::{Learner, PolicyBatch, PolicyLossFn};
