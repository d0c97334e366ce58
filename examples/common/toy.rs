//! The toy task of `quickstart` and `custom_regularizer`: a coin lies in one of four boxes.
//!
//! `look` names the box, `open COLOUR` ends the episode.

use epo::env::{DemonstratedTurn, Demonstration, Environment, Task, ToyEnvironment};
use epo::evaluation::TaskSet;
use epo::optim::LrSchedule;
use epo::rollout::ActionSpace;
use epo::settings::{Count, Decay, NonNegative, Positive};
use epo::train::config::{
    Algorithm, AlgorithmConfig, ModelConfig, NoSettings, SmallConfig, TrainConfig,
};
use epo::train::credit::AdvantageConfig;
use epo::train::learn::CloningConfig;
use epo::train::Setup;

/// Settings of a run of seconds; three steps for a smoke run.
pub(crate) fn config(smoke: bool) -> TrainConfig {
    let mut config = TrainConfig::small(Algorithm::Grpo, NoSettings {});
    config.seed = 3;
    config.steps = if smoke { 3 } else { 30 };
    config.environments = Count::literal(8);
    config.learning_rate = Positive::literal(1e-3);
    config.schedule = LrSchedule::default();
    config.evaluation.every = 0;
    config.evaluation.episodes = Count::literal(16);
    // The returns of sixteen episodes of each task are compared, and turns with the same
    // observation.
    config.algorithm = AlgorithmConfig::Grpo { advantage: AdvantageConfig::default() };
    config.rollout.tasks = Count::literal(4);
    config.rollout.group = Count::literal(16);
    config.rollout.max_turns = Count::literal(3);
    config.rollout.actions = ActionSpace::Free { max_tokens: Count::literal(8) };
    config.model = ModelConfig::Small(SmallConfig {
        vocabulary: Count::literal(300),
        hidden_size: Count::literal(32),
        context: Count::literal(96),
        ..SmallConfig::default()
    });
    config.demonstrations = Count::literal(4);
    config.cloning = Some(CloningConfig {
        epochs: Count::literal(25),
        learning_rate: Positive::literal(3e-3),
        observation_weight: NonNegative::literal(0.1),
        ..CloningConfig::default()
    });
    config.optimizer.beta2 = Decay::literal(0.95);
    config
}

fn task(variation: u32) -> Task {
    Task { name: ToyEnvironment::TASK.into(), variation }
}

/// Looks, then opens the box that was named.
fn solve(variation: u32) -> epo::Result<Demonstration> {
    let mut environment = ToyEnvironment::new();
    let start = environment.reset(&task(variation))?;
    let seen = environment.step("look")?;
    let colour = seen.observation.split(' ').nth(5).unwrap_or_default().to_owned();
    let open = format!("open {colour}");
    let end = environment.step(&open)?;
    let turns = vec![
        DemonstratedTurn { action: "look".into(), step: seen, imitated: true },
        DemonstratedTurn { action: open, step: end, imitated: true },
    ];
    Ok(Demonstration { task: task(variation), start, turns })
}

/// The four tasks and their solutions.
pub(crate) fn setup() -> epo::Result<Setup> {
    let tasks = TaskSet::new("toy", (0..4).map(task).collect())?;
    let demonstrations = (0..4).map(solve).collect::<epo::Result<_>>()?;
    Ok(Setup { train: tasks.clone(), evaluation: vec![tasks], demonstrations })
}

/// `n` boxes to play in at the same time.
pub(crate) fn environments(n: usize) -> Vec<Box<dyn Environment>> {
    (0..n).map(|_| Box::new(ToyEnvironment::new()) as Box<dyn Environment>).collect()
}
