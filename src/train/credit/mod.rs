//! Credit assignment: rewards of episodes, returns, and advantages of turns and tokens.

pub(crate) mod gae;
pub(crate) mod group;
pub(crate) mod overlong;
pub(crate) mod reward;
pub(crate) mod sampling;

pub use gae::{explained_variance, token_advantages, GaeConfig, GaeLevel, TokenCredit};
pub use group::{turn_advantages, AdvantageConfig};
pub use overlong::overlong_rewards;
pub use reward::{RewardConfig, Rewards};
pub use sampling::{sample_informative, DynamicSampling, InformativeGroups};
