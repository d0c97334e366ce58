//! An environment of your own, and an agent that learns it with PPO and a critic.
//!
//! The world is a corridor of rooms. A treasure lies at one end, and a sign in the middle says at
//! which. `impl Environment` is all that a world needs: text in, text out, a score, and an end.
//!
//! `cargo run --release --example custom_environment`

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use epo::env::{DemonstratedTurn, Demonstration, Environment, Start, Step, Task};
use epo::evaluation::TaskSet;
use epo::optim::LrSchedule;
use epo::rollout::ActionSpace;
use epo::run::stop_on_ctrl_c;
use epo::settings::{Count, Positive};
use epo::train::config::{
    Algorithm, AlgorithmConfig, ModelConfig, NoSettings, SmallConfig, TrainConfig,
};
use epo::train::credit::{GaeConfig, GaeLevel, RewardConfig};
use epo::train::learn::CriticConfig;
use epo::train::{update_critic, update_policy, Advantages, Setup, Trainer};
use epo::Error;

use common::output::{self, print_line};
use common::RunArgs;

mod common;

/// Rooms on either side of the middle.
const REACH: i32 = 2;

/// A corridor; even variations have the treasure in the west, odd ones in the east.
#[derive(Default)]
struct Corridor {
    treasure: i32,
    room: i32,
    steps: usize,
    over: bool,
}

impl Environment for Corridor {
    fn reset(&mut self, task: &Task) -> epo::Result<Start> {
        let treasure = if task.variation.is_multiple_of(2) { -REACH } else { REACH };
        *self = Self { treasure, ..Self::default() };
        let side = if treasure < 0 { "west" } else { "east" };
        Ok(Start { goal: "find the treasure".into(), observation: format!("a sign points {side}") })
    }

    fn step(&mut self, action: &str) -> epo::Result<Step> {
        if self.over {
            return Err(Error::setting("action", action, "the episode is over"));
        }
        let moved = match action {
            "go west" => -1,
            "go east" => 1,
            _ => 0,
        };
        self.room += moved;
        self.steps += 1;
        let success = self.room == self.treasure;
        self.over = self.room.abs() == REACH || self.steps == 8;
        let observation = match (success, self.over) {
            (true, _) => "the treasure!",
            (_, true) => "a wall; it was the other way",
            _ => "an empty room",
        };
        let score = if success { 1.0 } else { 0.0 };
        let observation = observation.into();
        Ok(Step { observation, reward: score, score, done: self.over, success, valid: moved != 0 })
    }

    fn admissible(&mut self) -> epo::Result<Vec<String>> {
        Ok(["go east", "go west"].map(String::from).to_vec())
    }
}

/// Learns to follow a sign to a treasure.
#[derive(Debug, Parser)]
#[command(version, after_help = common::AFTER_HELP)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

fn config(smoke: bool) -> TrainConfig {
    let mut config = TrainConfig::small(Algorithm::Ppo, NoSettings {});
    config.steps = if smoke { 2 } else { 12 };
    config.learning_rate = Positive::literal(1e-3);
    config.schedule = LrSchedule::default();
    config.environments = Count::literal(8);
    config.evaluation.episodes = Count::literal(20);
    config.reward = RewardConfig::Progress { points: Positive::literal(1.0) };
    config.rollout.tasks = Count::literal(32);
    config.rollout.max_turns = Count::literal(8);
    config.rollout.actions = ActionSpace::Admissible;
    config.model = ModelConfig::Small(SmallConfig {
        vocabulary: Count::literal(300),
        hidden_size: Count::literal(32),
        context: Count::literal(160),
        ..SmallConfig::default()
    });
    if let Some(cloning) = &mut config.cloning {
        cloning.epochs = Count::literal(1);
    }
    let gae = GaeConfig { level: GaeLevel::Turn, ..GaeConfig::default() };
    config.algorithm = AlgorithmConfig::Ppo { gae, critic: CriticConfig::default() };
    config
}

fn task(variation: u32) -> Task {
    Task { name: "corridor".into(), variation }
}

/// Walks to the treasure.
fn walk(variation: u32) -> epo::Result<Demonstration> {
    let mut world = Corridor::default();
    let mut turns = Vec::new();
    let start = world.reset(&task(variation))?;
    let action = if world.treasure < 0 { "go west" } else { "go east" };
    while !world.over {
        let step = world.step(action)?;
        turns.push(DemonstratedTurn { action: action.into(), step, imitated: true });
    }
    Ok(Demonstration { task: task(variation), start, turns })
}

/// The tasks, and two walks: one pass over them teaches the tokenizer the texts, but not to follow
/// the sign.
fn setup() -> epo::Result<Setup> {
    let tasks = vec![task(0), task(1)];
    Ok(Setup {
        train: TaskSet::new("train", tasks.clone())?,
        evaluation: vec![TaskSet::new("test", tasks)?],
        demonstrations: vec![walk(0)?, walk(1)?],
    })
}

fn main() -> ExitCode {
    output::run(train)
}

fn train() -> Result<()> {
    let began = Instant::now();
    let args = Args::parse();
    let base = config(args.run.smoke);
    let Some(folder) = args.run.folder("corridor", base)? else { return Ok(()) };
    let config = folder.config.clone();
    let (gae, _) = config.algorithm.ppo()?;
    let stop = stop_on_ctrl_c()?;
    let setup = folder.checkpoint.is_none().then(setup).transpose()?;
    let mut environments = Vec::new();
    for _ in 0..config.environments.get() {
        environments.push(Box::new(Corridor::default()) as Box<dyn Environment>);
    }
    let mut run = Trainer::open(folder, environments, setup)?.stopping_at(stop);
    while let Some(step) = run.next_step() {
        let began = Instant::now();
        let rollouts = run.play(step)?;
        let rewards = run.rewards(step, &rollouts)?;
        let returns = rewards.returns();
        let settings = config.settings(step, run.lr_factor());
        let (agent, critic) = run.actor_critic()?;
        let values = critic.values(&rollouts.trajectories, config.rollout.rows, &config.update)?;
        let credit = rewards.credit(&rollouts.trajectories, &values, &gae)?;
        let advantages = Advantages::Tokens(credit.advantages);
        let mut record = update_policy(agent, &rollouts, &returns, &advantages, &settings)?;
        update_critic(critic, &rollouts, &values, &credit.returns, &settings, &mut record)?;
        run.record(record, &rollouts, began)?;
        run.evaluate_and_save()?;
    }
    let [before, after] = run.finish()?;
    print_line(format_args!("before: {}\nafter:  {}", before[0], after[0]))?;
    print_line(format_args!("summary {}", run.summary(began, &before[0], &after[0])))?;
    Ok(())
}
