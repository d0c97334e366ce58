//! Every setting of a run.
//!
//! A setting that has no effect given another one cannot be written: alternatives are enums,
//! tagged by `kind`, whose variants hold only their own fields, and what can be switched off is
//! `false` in a file. Ranges are types ([`crate::settings`]). What remains to be checked is what
//! one setting asks of another, in [`TrainConfig::check`].

use serde::{Deserialize, Serialize};

use crate::advantage::dapo::Overlong;
use crate::entropy::config::{EntropyConfig, EntropyMethod, HistoryConfig};
use crate::optim::adamw::AdamWConfig;
use crate::optim::schedule::LrSchedule;
use crate::rollout::config::{ActionSpace, RolloutConfig};
use crate::settings::off;
use crate::settings::{Count, Limit, Positive};
use crate::train::config::algorithm::AlgorithmConfig;
use crate::train::config::model::ModelConfig;
use crate::train::config::update::UpdateConfig;
use crate::train::credit::reward::RewardConfig;
use crate::train::credit::sampling::DynamicSampling;
use crate::train::evaluate::EvaluationConfig;
use crate::train::learn::agent::AgentConfig;
use crate::train::learn::cloning::CloningConfig;
use crate::train::learn::kl_reward::KlReward;
use crate::train::learn::step_settings::StepSettings;
use crate::train::watch::alarm::AlarmConfig;
use crate::{Error, Result};

/// Every setting of a run; a run folder's `config.toml` holds it. `E` is the world's own table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig<E = NoSettings> {
    /// Seed of every random draw.
    pub seed: u64,
    /// Training steps; a step is one batch of episodes and its update.
    pub steps: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: Limit,
    /// Episodes played at the same time.
    pub environments: Count,
    /// Highest learning rate of reinforcement learning.
    pub learning_rate: Positive,
    /// The learning rate over the training steps.
    pub schedule: LrSchedule,
    /// Demonstrations of each task family; a small policy's tokenizer is trained on them too.
    pub demonstrations: Count,
    /// Training episodes kept in `rollouts.jsonl`; `false` for none. Evaluations are always kept.
    #[serde(with = "off")]
    pub dump: Option<DumpConfig>,
    /// Behaviour cloning of the demonstrations before reinforcement learning; `false` for none.
    #[serde(with = "off")]
    pub cloning: Option<CloningConfig>,
    /// Alarms on an entropy cascade; `false` for none.
    #[serde(with = "off")]
    pub alarm: Option<AlarmConfig>,
    /// More tasks in place of those whose episodes all ended alike; `false` for none.
    #[serde(with = "off")]
    pub dynamic_sampling: Option<DynamicSampling>,
    /// The penalty for long actions; `false` for none.
    #[serde(with = "off")]
    pub overlong: Option<Overlong>,
    /// The KL penalty in the reward; `false` for none.
    #[serde(with = "off")]
    pub kl_reward: Option<KlReward>,
    /// When and how the policy is evaluated.
    pub evaluation: EvaluationConfig,
    /// The reward of turns.
    pub reward: RewardConfig,
    /// GRPO or PPO.
    pub algorithm: AlgorithmConfig,
    /// The policy: a small one, or a model checkpoint.
    pub model: ModelConfig,
    /// How episodes are chosen and played.
    pub rollout: RolloutConfig,
    /// How rows become optimiser steps.
    pub update: UpdateConfig,
    /// The policy's optimiser.
    pub optimizer: AdamWConfig,
    /// Entropy control.
    pub entropy: EntropyConfig,
    /// The tasks, and the world's other settings.
    pub environment: E,
}

/// Most episodes of a training step; all of them are in memory.
const MOST_EPISODES: usize = 1_000_000;

/// The `[environment]` table of a world without settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// Settings of [`TrainConfig::dump`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DumpConfig {
    /// Most megabytes (10⁶ bytes) of training episodes; the oldest eighth is deleted when it is
    /// full.
    pub megabytes: Count,
}

impl Default for DumpConfig {
    fn default() -> Self {
        Self { megabytes: Count::literal(20_000) }
    }
}

impl<E> TrainConfig<E> {
    /// Checks what one setting asks of another; the world's own table is the world's to check.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first contradiction.
    pub fn check(&self) -> Result<()> {
        self.agent().check()?;
        self.schedule.check("schedule")?;
        self.evaluation.check()?;
        match &self.algorithm {
            AlgorithmConfig::Grpo { advantage } => advantage.check()?,
            AlgorithmConfig::Ppo { critic, .. } => critic.check()?,
        }
        self.check_groups()?;
        self.check_penalties()?;
        self.check_entropy()
    }

    fn check_groups(&self) -> Result<()> {
        let tasks = self.rollout.tasks.get();
        let group = self.rollout.group.get();
        if tasks.saturating_mul(group) > MOST_EPISODES {
            let reason = format!(
                "rollout.tasks × rollout.group must be at most {MOST_EPISODES}; \
                 rollout.group is {group}"
            );
            return Err(Error::setting("rollout.tasks", tasks, reason));
        }
        if group >= 2 {
            return Ok(());
        }
        if self.dynamic_sampling.is_some() {
            let reason = "dynamic_sampling compares the episodes of a group: must be at least 2";
            return Err(Error::setting("rollout.group", group, reason));
        }
        match self.algorithm {
            AlgorithmConfig::Grpo { .. } => {
                let reason = "must be at least 2: GRPO compares the episodes of a group";
                Err(Error::setting("rollout.group", group, reason))
            }
            AlgorithmConfig::Ppo { .. } => Ok(()),
        }
    }

    fn check_penalties(&self) -> Result<()> {
        let RolloutConfig { tasks, group, actions, .. } = self.rollout;
        if let Some(kl_reward) = &self.kl_reward {
            kl_reward.validate(tasks.get() * group.get())?;
        }
        if let Some(overlong) = &self.overlong {
            overlong.validate()?;
        }
        if let Some(sampling) = &self.dynamic_sampling {
            sampling.validate(group.get())?;
        }
        self.update.policy.validate()?;
        if let Some(correction) = &self.update.correction {
            correction.validate()?;
        }
        let (Some(overlong), ActionSpace::Free { max_tokens }) = (&self.overlong, actions) else {
            return Ok(());
        };
        if overlong.limit - overlong.buffer < max_tokens.get() {
            return Ok(());
        }
        let reason = format!(
            "overlong.limit - overlong.buffer must be below rollout.actions.max_tokens \
             ({max_tokens}), or no action is ever penalised"
        );
        Err(Error::setting("overlong.limit", overlong.limit, reason))
    }

    fn check_entropy(&self) -> Result<()> {
        self.entropy.check()?;
        let one_update = self.update.epochs.get() * self.update.mini_batches.get() == 1;
        if matches!(self.entropy.method, EntropyMethod::KlCov(_)) && one_update {
            let reason =
                "`kl-cov` has no gradient in the first optimiser step of a training step: \
                          set update.mini_batches or update.epochs to at least 2";
            return Err(Error::setting("entropy.method.kind", "kl-cov", reason));
        }
        let turns = self.rollout.max_turns;
        match self.entropy.history {
            HistoryConfig::Official { max_steps } if max_steps < turns => {
                let reason = format!("must be at least rollout.max_turns = {turns}");
                Err(Error::setting("entropy.history.max_steps", max_steps, reason))
            }
            _ => Ok(()),
        }
    }

    /// Returns true if demonstrations are needed: for imitation, or for a small policy's tokenizer.
    pub fn needs_demonstrations(&self) -> bool {
        self.cloning.is_some() || matches!(self.model, ModelConfig::Small(_))
    }

    /// The settings of the agent.
    pub fn agent(&self) -> AgentConfig {
        AgentConfig {
            model: self.model.clone(),
            optimizer: self.optimizer.clone(),
            entropy: self.entropy,
            rollout: self.rollout,
        }
    }

    /// The settings of the updates of training step `step`; `lr_factor` is
    /// [`Trainer::lr_factor`](crate::train::Trainer::lr_factor).
    pub fn settings(&self, step: u64, lr_factor: f64) -> StepSettings<'_> {
        let lr = self.learning_rate.get() * self.schedule.factor(step) * lr_factor;
        StepSettings { seed: self.seed, step, lr, rows: self.rollout.rows, update: &self.update }
    }
}
