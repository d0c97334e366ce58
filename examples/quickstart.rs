//! The whole training loop on a toy world, in seconds: imitation, then GRPO with EPO.
//!
//! A coin lies in one of four boxes: `look` tells which, `open COLOUR` ends the episode. A policy
//! of about thirty thousand weights imitates the four solutions, too briefly to solve the task,
//! and then learns by playing.
//!
//! `cargo run --release --example quickstart`

use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use epo::env::{DemonstratedTurn, Demonstration, Environment, Task, ToyEnvironment};
use epo::evaluation::TaskSet;
use epo::optim::LrSchedule;
use epo::rollout::ActionSpace;
use epo::run::stop_on_ctrl_c;
use epo::settings::{Count, Decay, NonNegative, Positive};
use epo::train::config::{
    Algorithm, AlgorithmConfig, ModelConfig, NoSettings, SmallConfig, TrainConfig,
};
use epo::train::credit::{turn_advantages, AdvantageConfig};
use epo::train::learn::CloningConfig;
use epo::train::{update_policy, Advantages, Setup, Trainer};

use common::RunArgs;

mod common;

/// Learns to find a coin in one of four boxes.
#[derive(Debug, Parser)]
#[command(version, after_help = common::AFTER_HELP)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

fn config(smoke: bool) -> TrainConfig {
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

fn setup() -> epo::Result<Setup> {
    let tasks = TaskSet::new("toy", (0..4).map(task).collect())?;
    let demonstrations = (0..4).map(solve).collect::<epo::Result<_>>()?;
    Ok(Setup { train: tasks.clone(), evaluation: vec![tasks], demonstrations })
}

fn main() -> Result<()> {
    let began = Instant::now();
    let mut args = Args::parse();
    if args.run.out.is_none() {
        let name = format!("epo-quickstart-{}", std::process::id());
        args.run.out = args.run.resume.is_none().then(|| std::env::temp_dir().join(name));
    }
    let base = config(args.run.smoke);
    let Some(folder) = args.run.folder("quickstart", base)? else { return Ok(()) };
    let config = folder.config.clone();
    let advantage = config.algorithm.grpo()?;
    let stop = stop_on_ctrl_c()?;
    let setup = folder.checkpoint.is_none().then(setup).transpose()?;
    let mut environments = Vec::new();
    for _ in 0..config.environments.get() {
        environments.push(Box::new(ToyEnvironment::new()) as Box<dyn Environment>);
    }
    let mut run = Trainer::open(folder, environments, setup)?.stopping_at(stop);
    while let Some(step) = run.next_step() {
        let began = Instant::now();
        let rollouts = run.play(step)?;
        let rewards = run.rewards(step, &rollouts)?;
        let returns = rewards.returns();
        let settings = config.settings(step, run.lr_factor());
        let advantages = turn_advantages(&rollouts.trajectories, rewards.turns(), &advantage)?;
        let advantages = Advantages::Turns(advantages);
        let record = update_policy(&mut run.agent, &rollouts, &returns, &advantages, &settings)?;
        run.record(record, &rollouts, began)?;
        run.evaluate_and_save()?;
    }
    let [before, after] = run.finish()?;
    println!("before: {}\nafter:  {}", before[0], after[0]);
    println!("summary {}", run.summary(began, &before[0], &after[0]));
    Ok(())
}
