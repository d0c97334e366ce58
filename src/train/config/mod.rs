//! The settings that every trainer has, in one place.

pub(crate) mod model;
pub(crate) mod presets;
pub(crate) mod unused;
pub(crate) mod update;

pub use presets::{Algorithm, Benchmark, Preset};
pub use unused::Unused;

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::advantage::dapo::Overlong;
use crate::entropy::config::{EntropyConfig, EntropyMethod, HistoryConfig};
use crate::optim::adamw::AdamWConfig;
use crate::optim::schedule::LrSchedule;
use crate::rollout::config::{ActionSpace, RolloutConfig};
use crate::run::folder::read_config;
use crate::run::folder::{flatten, overlay};
pub use crate::train::config::model::{DeviceKind, ModelConfig, WeightType};
pub use crate::train::config::unused::TaskSettings;
pub use crate::train::config::update::UpdateConfig;
use crate::train::credit::gae::GaeConfig;
use crate::train::credit::group::AdvantageConfig;
use crate::train::credit::reward::RewardConfig;
use crate::train::credit::sampling::DynamicSampling;
use crate::train::credit::shaping::KlReward;
use crate::train::evaluate::EvaluationConfig;
use crate::train::learn::agent::{AgentConfig, PolicyConfig};
use crate::train::learn::cloning::CloningConfig;
use crate::train::learn::critic::CriticConfig;
use crate::train::step::StepSettings;
use crate::train::watch::alarm::AlarmConfig;
use crate::{Error, Result};

/// Everything that decides what a run does. A run folder's `config.toml` holds it.
///
/// It is either GRPO's, with `advantage` ([`TrainConfig::grpo`]), or PPO's, with `gae` and `critic`
/// ([`TrainConfig::ppo`]). `E` is what only the environment's tasks need.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
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
    /// When and how the policy is evaluated.
    pub evaluation: EvaluationConfig,
    /// Keep every training episode, in `rollouts.jsonl`; evaluations are always kept.
    pub dump: bool,
    /// Most megabytes (10⁶ bytes) of dumped training episodes; of more the oldest are deleted, an eighth at a time.
    #[serde(default = "dump_megabytes")]
    pub dump_megabytes: u64,
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
    #[serde(default)]
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

/// The default of [`TrainConfig::dump_megabytes`].
pub(crate) fn dump_megabytes() -> u64 {
    20_000
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

impl Overrides<'_> {
    /// The settings that are given, by dotted name.
    fn keys(&self) -> impl Iterator<Item = &'static str> {
        let keys = [
            (self.seed.is_some(), "seed"),
            (self.steps.is_some(), "steps"),
            (self.entropy.is_some(), "entropy.method"),
            (self.actions.is_some(), "rollout.actions"),
            (self.model.is_some(), "model.source"),
            (self.lora.is_some(), "model.lora.rank"),
            (self.dtype.is_some(), "model.dtype"),
            (self.device.is_some(), "model.device"),
            (self.dump, "dump"),
        ];
        keys.into_iter().filter_map(|(given, key)| given.then_some(key))
    }
}

/// Settings without effect are left out ([`TrainConfig::unused`]).
impl<E: TaskSettings + Serialize> Serialize for TrainConfig<E> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.used().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

/// By way of a table, so that a program's own `environment` is all of this that it compiles again.
impl<'de, E: DeserializeOwned> Deserialize<'de> for TrainConfig<E> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        /// Alone in a table, so that errors have its name.
        #[derive(Deserialize)]
        struct Own<E> {
            environment: E,
        }
        let mut table = toml::Table::deserialize(deserializer)?;
        let own: toml::Table = table.remove_entry("environment").into_iter().collect();
        table.insert("environment".to_owned(), toml::Table::new().into());
        let config = from_table(table).map_err(serde::de::Error::custom)?;
        let Own { environment } = own.try_into().map_err(serde::de::Error::custom)?;
        Ok(config.with_environment(environment))
    }
}

fn from_table(
    table: toml::Table,
) -> std::result::Result<TrainConfig<toml::Table>, toml::de::Error> {
    TrainConfig::deserialize(table)
}

/// What derives make of all fields.
pub(crate) fn to_table(
    config: &TrainConfig<toml::Table>,
) -> std::result::Result<toml::Table, toml::ser::Error> {
    struct Whole<'a>(&'a TrainConfig<toml::Table>);
    impl Serialize for Whole<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
            TrainConfig::serialize(self.0, serializer)
        }
    }
    toml::Table::try_from(Whole(config))
}

impl<E> TrainConfig<E> {
    /// The same settings of another environment.
    pub(crate) fn with_environment<F>(&self, environment: F) -> TrainConfig<F> {
        TrainConfig {
            seed: self.seed,
            steps: self.steps,
            checkpoint_every: self.checkpoint_every,
            environments: self.environments,
            learning_rate: self.learning_rate,
            schedule: self.schedule.clone(),
            evaluation: self.evaluation,
            dump: self.dump,
            dump_megabytes: self.dump_megabytes,
            alarm: self.alarm,
            reward: self.reward,
            advantage: self.advantage,
            gae: self.gae,
            critic: self.critic.clone(),
            dynamic_sampling: self.dynamic_sampling,
            overlong: self.overlong,
            kl_reward: self.kl_reward,
            policy: self.policy,
            model: self.model.clone(),
            cloning: self.cloning,
            rollout: self.rollout,
            update: self.update.clone(),
            optimizer: self.optimizer.clone(),
            entropy: self.entropy,
            environment,
        }
    }
}

impl<E: TaskSettings> TrainConfig<E> {
    /// The same with a file's settings over it and what a command line changes over both. What the file leaves out stays as it
    /// is, but for a table that says another `kind`: it replaces the one here, since the kinds have different keys.
    ///
    /// # Errors
    /// A file that cannot be read, a key or a name that nothing has, and a setting of the file or of the command line that has
    /// no effect beside the others ([`TrainConfig::unused`]), with its value and the reason.
    pub fn with(self, file: Option<&Path>, overrides: &Overrides) -> Result<Self>
    where
        E: Serialize + DeserializeOwned,
    {
        let in_toml = |e: toml::ser::Error| Error::setting("config", "as TOML", e.to_string());
        let bad = |e: toml::de::Error| match file {
            Some(path) => Error::file(path, "config", e.to_string()),
            None => Error::setting("config", "as TOML", e.to_string()),
        };
        let of_file: toml::Table = file.map_or_else(|| Ok(toml::Table::new()), read_config)?;
        let base = self.changed(overrides)?.whole().map_err(in_toml)?;
        let mut written = BTreeMap::new();
        flatten(String::new(), &toml::Value::Table(of_file.clone()), &mut |key, value| {
            written.insert(key, value);
        });
        let mut table = base.clone();
        overlay(&mut table, of_file);
        for key in overrides.keys() {
            let value =
                lookup(&base, key).ok_or_else(|| Error::setting(key, "given", "is no setting"))?;
            written.insert(key.to_owned(), value.to_string());
            put(&mut table, key, value.clone());
        }
        let mut config: Self = table.try_into().map_err(bad)?;
        config.entropy = config.entropy.in_full();
        config.refuse_unused(&written)?;
        config.used().map_err(in_toml)?.try_into().map_err(bad)
    }

    /// What may change when a run goes on, for [`RunFolder::resume`](crate::run::RunFolder::resume): the number of steps, and the place
    /// of the checkpoint that the policy began as.
    ///
    /// # Errors
    /// A place for a policy that began as none.
    pub fn resumed(
        steps: Option<u64>,
        model: Option<&str>,
    ) -> impl Fn(&mut Self) -> Result<()> + use<'_, E> {
        move |config| {
            config.steps = steps.unwrap_or(config.steps);
            model.map_or(Ok(()), |place| config.model.moved(place))
        }
    }

    /// The same with what a command line changes.
    fn changed(mut self, overrides: &Overrides) -> Result<Self> {
        let Overrides { seed, steps, entropy, actions, model, lora, dtype, device, dump } =
            *overrides;
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
        for (name, n) in [
            ("checkpoint_every", self.checkpoint_every),
            ("environments", self.environments as u64),
            ("dump_megabytes", self.dump_megabytes),
        ] {
            if n == 0 {
                return Err(Error::setting(name, 0, "must be at least 1"));
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(Error::setting(
                "learning_rate",
                self.learning_rate,
                "must be positive and finite",
            ));
        }
        self.agent().validate()?;
        self.schedule.validate().map_err(|e| e.within("schedule"))?;
        self.evaluation.validate()?;
        self.alarm.validate()?;
        self.reward.validate()?;
        self.cloning.validate()?;
        self.update.validate()?;
        self.validate_sampling_and_shaping()?;
        self.validate_entropy()?;
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
        if overlong.penalty == 0.0 {
            return Err(Error::setting(
                "overlong.penalty",
                0,
                "costs nothing: leave [overlong] out",
            ));
        }
        if actions == ActionSpace::Free && overlong.limit - overlong.buffer >= max_action_tokens {
            let reason = format!(
                "less overlong.buffer is reached by no answer: rollout.max_action_tokens is {max_action_tokens}"
            );
            Err(Error::setting("overlong.limit", overlong.limit, reason))
        } else {
            Ok(())
        }
    }

    /// Refuses a method of entropy control that the other settings switch off, and a history too short for the episodes.
    fn validate_entropy(&self) -> Result<()> {
        let (entropy, update) = (&self.entropy, &self.update);
        let epo = matches!(entropy.method, EntropyMethod::Epo | EntropyMethod::EpoOfficial);
        let weighted =
            epo || matches!(entropy.method, EntropyMethod::Bonus | EntropyMethod::DecayedBonus);
        let kl_cov = entropy.kl_cov.filter(|_| entropy.method == EntropyMethod::KlCov);
        let zero = [
            (
                weighted && entropy.lambda == 0.0,
                "lambda",
                "is no term at all, which the method `none` says",
            ),
            (
                epo && entropy.alpha == 0.0,
                "alpha",
                "penalises nothing and leaves the method `bonus`: say that",
            ),
            (
                kl_cov.is_some_and(|k| k.coef == 0.0),
                "kl_cov.coef",
                "is no term at all, which the method `none` says",
            ),
        ];
        if let Some((_, key, reason)) = zero.into_iter().find(|(switched_off, ..)| *switched_off) {
            return Err(Error::setting(format!("entropy.{key}"), 0, reason));
        }
        if entropy.method == EntropyMethod::KlCov && update.epochs * update.mini_batches == 1 {
            let reason =
                "has no gradient in a step's only optimiser step: more update.mini_batches or update.epochs";
            return Err(Error::setting("entropy.method", "kl-cov", reason));
        }
        match entropy.history {
            HistoryConfig::Official { max_steps } if max_steps < self.rollout.max_turns => {
                let reason = format!(
                    "holds fewer turns than rollout.max_turns = {}",
                    self.rollout.max_turns
                );
                Err(Error::setting("entropy.history.max_steps", max_steps, reason))
            }
            _ => Ok(()),
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
    /// ([`crate::train::Trainer::lr_factor`]).
    pub fn settings(&self, step: u64, lr_factor: f64) -> StepSettings<'_> {
        let lr = self.learning_rate * self.schedule.factor(step) * lr_factor;
        StepSettings { seed: self.seed, step, lr, rows: self.rollout.rows, update: &self.update }
    }
}

fn refuse(name: &str, set: bool, reason: &str) -> Result<()> {
    if set {
        Err(Error::setting(name, "set", reason))
    } else {
        Ok(())
    }
}

fn needed<T>(name: &str, value: Option<T>, reason: &str) -> Result<T> {
    value.ok_or_else(|| Error::setting(name, "missing", reason))
}

/// The value of a dotted key.
fn lookup<'t>(table: &'t toml::Table, key: &str) -> Option<&'t toml::Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((first, rest)) => lookup(table.get(first)?.as_table()?, rest),
    }
}

/// Sets a dotted key, its tables made where they are missing.
fn put(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((first, rest)) => {
            let inner =
                table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let Some(inner) = inner.as_table_mut() {
                put(inner, rest, value);
            }
        }
    }
}
