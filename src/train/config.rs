//! The settings that every trainer has, in one place.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{
    overlay_config, AdamWConfig, AdvantageConfig, AgentConfig, AlarmConfig, CloningConfig, CriticConfig,
    DeviceKind, DynamicSampling, EvaluationConfig, GaeConfig, KlReward, LrSchedule, ModelConfig,
    PolicyConfig, RewardConfig, StepSettings, UpdateConfig, WeightType,
};
use crate::advantage::Overlong;
use crate::entropy::EntropyConfig;
use crate::rollout::{ActionSpace, RolloutConfig};
use crate::{Error, Result};

/// Everything that decides what a run does. A run folder's `config.toml` holds it.
///
/// It is either GRPO's, with `advantage` ([`TrainConfig::grpo`]), or PPO's, with `gae` and `critic`
/// ([`TrainConfig::ppo`]). `E` is what only the environment's tasks need.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig<E> {
    /// Decides every random draw.
    pub seed: u64,
    /// Training steps; a step is one batch of episodes and its update.
    pub steps: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Episodes played at the same time.
    pub environments: usize,
    /// Highest learning rate of reinforcement learning.
    pub learning_rate: f64,
    /// The learning rate over the training steps.
    pub schedule: LrSchedule,
    /// When and how the policy is examined.
    pub evaluation: EvaluationConfig,
    /// Keep every training episode that is learned from, in `rollouts.jsonl`; examinations are always kept.
    pub dump: bool,
    /// What a cascade of the entropy looks like, and what happens then.
    pub alarm: AlarmConfig,
    /// What turns are paid.
    pub reward: RewardConfig,
    /// GRPO: how episodes and turns of a group are compared.
    pub advantage: Option<AdvantageConfig>,
    /// PPO: how rewards and values become advantages.
    pub gae: Option<GaeConfig>,
    /// PPO: what estimates the values.
    pub critic: Option<CriticConfig>,
    /// Further tasks in the place of those whose episodes all ended alike; off where absent.
    pub dynamic_sampling: Option<DynamicSampling>,
    /// What a turn pays for a long answer; off where absent.
    pub overlong: Option<Overlong>,
    /// What a token pays for leaving the cloned policy; off where absent.
    pub kl_reward: Option<KlReward>,
    /// The shape of a small policy.
    pub policy: PolicyConfig,
    /// The checkpoint to be trained, where the policy is one.
    pub model: ModelConfig,
    /// The warm start on demonstrations.
    pub cloning: CloningConfig,
    /// How episodes are chosen and played.
    pub rollout: RolloutConfig,
    /// How rows become optimiser steps.
    pub update: UpdateConfig,
    /// The policy's optimiser.
    pub optimizer: AdamWConfig,
    /// How entropy is controlled.
    pub entropy: EntropyConfig,
    /// The tasks, and what the environment needs.
    pub environment: E,
}

/// What a command line may change; `None` leaves a setting as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides<'a> {
    /// `seed`.
    pub seed: Option<u64>,
    /// `steps`.
    pub steps: Option<u64>,
    /// A name for [`EntropyConfig::with_method`].
    pub entropy: Option<&'a str>,
    /// `rollout.actions`.
    pub actions: Option<ActionSpace>,
    /// `model.source`.
    pub model: Option<&'a str>,
    /// The rank of `model.lora`.
    pub lora: Option<usize>,
    /// `model.dtype`.
    pub dtype: Option<WeightType>,
    /// `model.device`.
    pub device: Option<DeviceKind>,
    /// Whether `dump` is switched on.
    pub dump: bool,
}

impl<E> TrainConfig<E> {
    /// The same with a file's settings over it ([`overlay_config`]), where there is one.
    ///
    /// # Errors
    /// As [`overlay_config`].
    pub fn overlaid(self, file: Option<&Path>) -> Result<Self>
    where
        E: Serialize + DeserializeOwned,
    {
        match file {
            Some(path) => overlay_config(&self, path),
            None => Ok(self),
        }
    }

    /// The same with what a command line changes.
    ///
    /// # Errors
    /// A name that no entropy method has.
    pub fn with(mut self, overrides: &Overrides) -> Result<Self> {
        let Overrides { seed, steps, entropy, actions, model, lora, dtype, device, dump } = *overrides;
        self.dump |= dump;
        self.seed = seed.unwrap_or(self.seed);
        self.steps = steps.unwrap_or(self.steps);
        if let Some(name) = entropy {
            self.entropy = self.entropy.with_method(name)?;
        }
        self.rollout.actions = actions.unwrap_or(self.rollout.actions);
        self.model.choose(&mut self.policy, model, lora, dtype, device);
        Ok(self)
    }

    /// Refuses what is out of range, what contradicts something else, and what nothing would follow; the environment's
    /// settings are its own to check.
    ///
    /// # Errors
    /// The first such setting, by name.
    pub fn validate(&self) -> Result<()> {
        for (name, n) in
            [("checkpoint_every", self.checkpoint_every), ("environments", self.environments as u64)]
        {
            if n == 0 {
                return Err(Error::setting(name, 0, "must be at least 1"));
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(Error::setting("learning_rate", self.learning_rate, "must be positive and finite"));
        }
        self.agent().validate()?;
        self.schedule.validate()?;
        self.evaluation.validate()?;
        self.alarm.validate()?;
        self.reward.validate()?;
        self.cloning.validate()?;
        self.update.validate()?;
        self.validate_sampling_and_shaping()?;
        match (self.advantage, self.gae, &self.critic) {
            (Some(_), None, None) => self.grpo().map(drop),
            _ => self.ppo().map(drop),
        }
    }

    fn validate_sampling_and_shaping(&self) -> Result<()> {
        let RolloutConfig { tasks, group, max_action_tokens, actions, .. } = self.rollout;
        self.dynamic_sampling.map_or(Ok(()), |sampling| sampling.validate(group))?;
        self.kl_reward.map_or(Ok(()), |kl| kl.validate(tasks * group))?;
        let Some(overlong) = self.overlong else { return Ok(()) };
        overlong.validate()?;
        match actions == ActionSpace::Free && overlong.limit - overlong.buffer >= max_action_tokens {
            true => {
                let reason = format!(
                    "less overlong.buffer is reached by no answer: rollout.max_action_tokens is {max_action_tokens}"
                );
                Err(Error::setting("overlong.limit", overlong.limit, reason))
            }
            false => Ok(()),
        }
    }

    /// GRPO's own settings.
    ///
    /// # Errors
    /// A setting that is missing, out of range, or PPO's.
    pub fn grpo(&self) -> Result<AdvantageConfig> {
        let reason = "belongs to PPO; GRPO compares episodes and has no critic";
        refuse("gae", self.gae.is_some(), reason)?;
        refuse("critic", self.critic.is_some(), reason)?;
        let advantage = needed("advantage", self.advantage, "GRPO compares episodes by it")?;
        advantage.validate()?;
        if self.rollout.group < 2 {
            let reason = "a comparison needs at least 2 episodes";
            return Err(Error::setting("rollout.group", self.rollout.group, reason));
        }
        if advantage.turn_weight == 0.0 && advantage.gamma != 1.0 {
            let reason = "discounts the rewards of turns, which advantage.turn_weight = 0 leaves out";
            return Err(Error::setting("advantage.gamma", advantage.gamma, reason));
        }
        Ok(advantage)
    }

    /// PPO's own settings.
    ///
    /// # Errors
    /// A setting that is missing, out of range, or GRPO's.
    pub fn ppo(&self) -> Result<(GaeConfig, CriticConfig)> {
        refuse("advantage", self.advantage.is_some(), "belongs to GRPO; PPO has gae and critic")?;
        let gae = needed("gae", self.gae, "PPO takes its advantages from it")?;
        let critic = needed("critic", self.critic.clone(), "PPO takes its values from it")?;
        gae.validate()?;
        critic.validate()?;
        Ok((gae, critic))
    }

    /// The settings of the agent.
    pub fn agent(&self) -> AgentConfig {
        AgentConfig::new(self.policy, &self.model, &self.optimizer, self.entropy, self.rollout)
    }

    /// What the updates of training step `step` are told; `lr_factor` is what alarms have left of the learning rate
    /// ([`super::Trainer::lr_factor`]).
    pub fn settings(&self, step: u64, lr_factor: f64) -> StepSettings<'_> {
        let lr = self.learning_rate * self.schedule.factor(step) * lr_factor;
        StepSettings { seed: self.seed, step, lr, rows: self.rollout.rows, update: &self.update }
    }
}

fn refuse(name: &str, set: bool, reason: &str) -> Result<()> {
    match set {
        true => Err(Error::setting(name, "set", reason)),
        false => Ok(()),
    }
}

fn needed<T>(name: &str, value: Option<T>, reason: &str) -> Result<T> {
    value.ok_or_else(|| Error::setting(name, "missing", reason))
}
