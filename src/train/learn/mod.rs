//! Learning: the agent, its updates, the critic, and imitation of demonstrations.

pub(crate) mod accumulate;
pub(crate) mod agent;
pub(crate) mod cloning;
pub(crate) mod critic;
pub(crate) mod kl_reward;
pub(crate) mod learner;
pub(crate) mod learner_files;
pub(crate) mod policy_batch;
pub(crate) mod prepare;
pub(crate) mod step_settings;

pub use agent::{Agent, AgentConfig};
pub use cloning::{clone_demonstrations, CloningConfig};
pub use critic::{Critic, CriticBody, CriticConfig, ValueBatch};
pub use kl_reward::{kl_rewards, KlReward};
pub use learner::{Learner, PolicyLossFn};
pub use policy_batch::PolicyBatch;
