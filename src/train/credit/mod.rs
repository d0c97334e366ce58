//! Credit: rewards of episodes, returns, and advantages of turns and tokens.

pub(crate) mod gae;
pub(crate) mod group;
pub(crate) mod reward;
pub(crate) mod sampling;
pub(crate) mod shaping;

pub use gae::{explained_variance, token_advantages, GaeConfig, GaeLevel, TokenCredit};
pub use group::{turn_advantages, AdvantageConfig};
pub use reward::RewardConfig;
pub use sampling::{sample_informative, DynamicSampling, InformativeGroups};
pub use shaping::{kl_rewards, overlong_rewards, KlReward, Rewards};
