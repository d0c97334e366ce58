//! Complete settings by name; the worlds complete them ([`crate::worlds`]).

use std::str::FromStr;

use crate::entropy::config::EntropyConfig;
use crate::optim::adamw::AdamWConfig;
use crate::optim::schedule::LrSchedule;
use crate::policy::LoraConfig;
use crate::rollout::config::RolloutConfig;
use crate::settings::{AtLeast, Count, Decay, Limit, NonNegative, Positive, Unit};
use crate::train::config::algorithm::{Algorithm, AlgorithmConfig};
use crate::train::config::model::{CheckpointConfig, ModelConfig, SmallConfig};
use crate::train::config::run::TrainConfig;
use crate::train::config::update::UpdateConfig;
use crate::train::credit::gae::{GaeConfig, GaeLevel};
use crate::train::credit::group::AdvantageConfig;
use crate::train::credit::reward::RewardConfig;
use crate::train::evaluate::EvaluationConfig;
use crate::train::learn::cloning::CloningConfig;
use crate::train::learn::critic::CriticConfig;
use crate::train::watch::alarm::AlarmConfig;
use crate::{Error, Result};

/// A complete set of settings by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    /// `small`: a small policy on a CPU, in minutes.
    #[default]
    Small,
    /// `llm`: LoRA adapters on a published instruct model of 135 M parameters, on a CPU, in an hour
    /// or two.
    Llm,
    /// `paper`: the hyper-parameters of the paper's runs.
    Paper,
    /// `official`: those of its published code.
    Official,
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "small" => Ok(Self::Small),
            "llm" => Ok(Self::Llm),
            "paper" => Ok(Self::Paper),
            "official" => Ok(Self::Official),
            _ => {
                let reason = "must be `small`, `llm`, `paper` or `official`";
                Err(Error::setting("--preset", name, reason))
            }
        }
    }
}

impl<E> TrainConfig<E> {
    /// A small policy with fresh weights on a CPU, in any world: EPO, a cosine learning rate, and
    /// cloning first.
    pub fn small(algorithm: Algorithm, environment: E) -> Self {
        let steps = 60;
        let mut config = Self {
            seed: 0,
            steps,
            checkpoint_every: Limit::literal(10),
            environments: Count::literal(2),
            learning_rate: Positive::literal(2e-4),
            schedule: small_schedule(steps),
            demonstrations: Count::literal(150),
            dump: None,
            cloning: Some(CloningConfig::default()),
            alarm: Some(AlarmConfig::default()),
            dynamic_sampling: None,
            overlong: None,
            kl_reward: None,
            evaluation: EvaluationConfig::default(),
            reward: RewardConfig::Progress { points: Positive::literal(100.0) },
            algorithm: small_credit(algorithm),
            model: ModelConfig::Small(SmallConfig::default()),
            rollout: RolloutConfig::default(),
            update: UpdateConfig::default(),
            optimizer: small_optimizer(),
            entropy: EntropyConfig::paper_v2(),
            environment,
        };
        if algorithm == Algorithm::Ppo {
            config.rollout.tasks = Count::literal(64);
            config.rollout.group = Count::literal(1);
        }
        config
    }

    /// These settings of a small policy for LoRA adapters of rank 16 on SmolLM2-135M-Instruct, or
    /// another instruct model of that size: fewer and smaller steps, since each costs much more,
    /// and one episode per task of the evaluation sets. One epoch of imitation leaves groups of
    /// episodes that differ; after a second one they hardly did (docs/RESULTS.md).
    #[must_use]
    pub fn llm(mut self, steps: AtLeast<2>) -> Self {
        self.steps = steps.get() as u64;
        self.checkpoint_every = Limit::literal(4);
        self.environments = Count::literal(32);
        self.learning_rate = Positive::literal(3e-4);
        self.schedule = small_schedule(self.steps);
        self.entropy = EntropyConfig::paper_v2().over(steps);
        self.model = ModelConfig::Checkpoint(CheckpointConfig {
            lora: Some(LoraConfig::of_rank(16)),
            ..CheckpointConfig::new("smollm2-135m-instruct")
        });
        self.evaluation.every = 0;
        self.evaluation.episodes = Count::literal(1);
        self.cloning = Some(CloningConfig {
            epochs: Count::literal(1),
            batch: Count::literal(8),
            learning_rate: Positive::literal(1e-3),
            ..CloningConfig::default()
        });
        let (tasks, group) = match self.algorithm {
            AlgorithmConfig::Grpo { .. } => (4, 8),
            AlgorithmConfig::Ppo { .. } => (32, 1),
        };
        self.rollout.tasks = Count::literal(tasks);
        self.rollout.group = Count::literal(group);
        self.update.mini_batches = Count::literal(2);
        self.update.micro_batch_tokens = Limit::literal(2048);
        self
    }

    /// A run of less than two minutes on two cores that goes through everything; with a model
    /// checkpoint it does less, enough for one of 135 M parameters.
    #[must_use]
    pub fn smoke(mut self) -> Self {
        self.steps = 2;
        self.checkpoint_every = Limit::literal(1);
        self.evaluation.episodes = Count::literal(1);
        self.demonstrations = Count::literal(4);
        self.rollout.tasks = Count::literal(2);
        self.rollout.group = Count::literal(4);
        match &mut self.model {
            ModelConfig::Small(model) => {
                model.vocabulary = Count::literal(512);
                model.hidden_size = Count::literal(64);
                model.layers = Count::literal(2);
            }
            ModelConfig::Checkpoint(_) => {
                self.demonstrations = Count::literal(2);
                self.rollout.group = Count::literal(2);
            }
        }
        if let Some(cloning) = &mut self.cloning {
            cloning.batch = Count::literal(2);
        }
        if let AlgorithmConfig::Ppo { critic, .. } = &mut self.algorithm {
            critic.warmup_steps = 1;
        }
        self
    }
}

/// The learning rate of small runs over `steps`.
pub(crate) fn small_schedule(steps: u64) -> LrSchedule {
    LrSchedule::Cosine {
        warmup_steps: 3,
        total_steps: steps_count(steps),
        min_ratio: Unit::literal(0.1),
        cycles: Positive::literal(0.5),
    }
}

/// A number of training steps as a count; presets have at least one.
pub(crate) fn steps_count(steps: u64) -> Count {
    Count::literal(steps.max(1) as usize)
}

fn small_optimizer() -> AdamWConfig {
    AdamWConfig { beta2: Decay::literal(0.98), ..AdamWConfig::default() }
}

fn small_credit(algorithm: Algorithm) -> AlgorithmConfig {
    match algorithm {
        // Turns alone: an episode's outcome says little about most of its turns and adds noise.
        Algorithm::Grpo => AlgorithmConfig::Grpo {
            advantage: AdvantageConfig {
                episode_weight: NonNegative::literal(0.0),
                ..AdvantageConfig::default()
            },
        },
        Algorithm::Ppo => AlgorithmConfig::Ppo {
            gae: GaeConfig {
                level: GaeLevel::Turn,
                lambda: Unit::literal(0.95),
                ..GaeConfig::default()
            },
            critic: CriticConfig {
                warmup_steps: 3,
                optimizer: small_optimizer(),
                ..CriticConfig::default()
            },
        },
    }
}
