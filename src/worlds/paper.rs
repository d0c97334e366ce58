//! The hyper-parameters that the paper's runs on both benchmarks have in common.

use crate::objective::settings::PolicyLoss;
use crate::optim::adamw::AdamWConfig;
use crate::optim::schedule::LrSchedule;
use crate::rollout::action::ActionFormat;
use crate::rollout::config::{ActionSpace, RolloutConfig};
use crate::settings::{Count, NonNegative, Positive, Unit};
use crate::train::config::algorithm::{Algorithm, AlgorithmConfig};
use crate::train::config::model::{CheckpointConfig, DeviceKind, ModelConfig, WeightType};
use crate::train::config::presets::steps_count;
use crate::train::config::run::TrainConfig;
use crate::train::config::update::UpdateConfig;
use crate::train::credit::gae::{GaeConfig, GaeLevel};
use crate::train::credit::group::AdvantageConfig;
use crate::train::credit::reward::RewardConfig;
use crate::train::evaluate::EvaluationConfig;
use crate::train::learn::critic::CriticConfig;
use crate::{Error, Result};

/// The hyper-parameters that the paper's runs have in common (v2, tables 2 and 3), for a small
/// policy until [`TrainConfig::model`] names a checkpoint: no demonstrations, 128 episodes per
/// step, a reward of 10 for a solved episode.
pub(crate) fn paper<E>(algorithm: Algorithm, steps: u64, environment: E) -> TrainConfig<E> {
    let base = TrainConfig::small(algorithm, environment);
    let (tasks, group) = match algorithm {
        Algorithm::Grpo => (Count::literal(16), Count::literal(8)),
        Algorithm::Ppo => (Count::literal(128), Count::literal(1)),
    };
    TrainConfig {
        steps,
        environments: Count::literal(128),
        learning_rate: Positive::literal(5e-6),
        schedule: LrSchedule::Cosine {
            warmup_steps: steps / 10,
            total_steps: steps_count(steps),
            min_ratio: Unit::literal(0.2),
            cycles: Positive::literal(0.5),
        },
        demonstrations: Count::literal(1),
        cloning: None,
        evaluation: EvaluationConfig {
            every: 5,
            episodes: Count::literal(1),
            temperature: NonNegative::literal(0.4),
            greedy: false,
        },
        reward: RewardConfig::Success { value: Positive::literal(10.0) },
        algorithm: paper_credit(algorithm),
        rollout: RolloutConfig { tasks, group, ..base.rollout },
        update: UpdateConfig {
            mini_batches: Count::literal(1),
            policy: PolicyLoss::default(),
            ..base.update
        },
        optimizer: AdamWConfig::default(),
        ..base
    }
}

/// Advantages of whole episodes, and verl's learning rate of the critic: the paper gives none.
fn paper_credit(algorithm: Algorithm) -> AlgorithmConfig {
    match algorithm {
        Algorithm::Grpo => AlgorithmConfig::Grpo {
            advantage: AdvantageConfig {
                turn_weight: NonNegative::literal(0.0),
                ..AdvantageConfig::default()
            },
        },
        Algorithm::Ppo => AlgorithmConfig::Ppo {
            gae: GaeConfig { level: GaeLevel::Token, ..GaeConfig::default() },
            critic: CriticConfig {
                learning_rate: Positive::literal(1e-5),
                ..CriticConfig::default()
            },
        },
    }
}

/// Puts the paper's model into `config`: bf16 weights on a GPU, gradient checkpointing, the
/// authors' prompts and forms of actions.
pub(crate) fn paper_model<E>(config: &mut TrainConfig<E>, source: &str, format: ActionFormat) {
    config.rollout.max_observation_tokens = Count::literal(2048);
    config.rollout.actions = ActionSpace::Free { max_tokens: Count::literal(512) };
    config.model = ModelConfig::Checkpoint(CheckpointConfig {
        dtype: WeightType::Bf16,
        format,
        checkpointing: true,
        device: DeviceKind::Cuda,
        ..CheckpointConfig::new(source)
    });
}

/// Checks that `environment.tasks` names at least one, and each once.
pub(crate) fn check_tasks<T: PartialEq + ToString>(tasks: &[T]) -> Result<()> {
    const KEY: &str = "environment.tasks";
    if tasks.is_empty() {
        return Err(Error::setting(KEY, "[]", "must name at least one"));
    }
    for (i, task) in tasks.iter().enumerate() {
        if tasks[..i].contains(task) {
            return Err(Error::setting(KEY, task.to_string(), "is named twice"));
        }
    }
    Ok(())
}
