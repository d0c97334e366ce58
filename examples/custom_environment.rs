//! An environment of your own, and an agent that learns it: PPO with a critic, through the library's parts.
//!
//! The world is a corridor of rooms; a treasure lies at one end, and a sign in the middle says at which. Everything
//! that a world needs is in `impl Environment`: text in, text out, a score, and when it is over.
//!
//! `cargo run --release --example custom_environment`

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use epo::env::{DemonstratedTurn, Demonstration, Environment, Start, Step, Task};
use epo::evaluation::TaskSet;
use epo::rollout::ActionSpace;
use epo::run::{stop_on_ctrl_c, RunFolder};
use epo::train::config::{Algorithm, Benchmark, Overrides, TaskSettings, TrainConfig};
use epo::train::learn::{CriticConfig, PolicyConfig};
use epo::train::{update_critic, update_policy, Advantages, Setup, Trainer};
use epo::Error;
use serde::{Deserialize, Serialize};

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
        (self.room, self.steps) = (self.room + moved, self.steps + 1);
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

/// `[environment]` of the configuration: this world has nothing to set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl TaskSettings for Nothing {}

/// Learns to follow a sign to a treasure.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "The last line of standard output is `summary {…}`, a JSON object."
)]
struct Args {
    /// Decides every random draw [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Training steps in all, those before a resume included [default: 12]
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Folder of a new run [default: runs/corridor]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in this folder; only --steps may change
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "config", "seed", "smoke"])]
    resume: Option<PathBuf>,
    /// Settings over this example's, in TOML
    #[arg(long, value_name = "FILE", conflicts_with = "smoke")]
    config: Option<PathBuf>,
    /// Two steps
    #[arg(long)]
    smoke: bool,
}

fn config() -> TrainConfig<Nothing> {
    let mut config = TrainConfig::small(Benchmark::AlfWorld, Algorithm::Ppo, Nothing {});
    (config.steps, config.environments, config.evaluation.episodes) = (12, 8, 20);
    (config.rollout.tasks, config.rollout.max_turns) = (32, 8);
    config.rollout.actions = ActionSpace::Admissible;
    config.policy = PolicyConfig { vocabulary: 300, hidden_size: 32, layers: 2, context: 160 };
    (config.learning_rate, config.cloning.epochs) = (1e-3, 1);
    config.critic = Some(CriticConfig::default());
    config
}

fn folder(args: &Args) -> Result<RunFolder<TrainConfig<Nothing>>> {
    if let Some(dir) = &args.resume {
        return Ok(RunFolder::resume(dir, TrainConfig::resumed(args.steps, None))?);
    }
    let steps = if args.smoke { args.steps.or(Some(2)) } else { args.steps };
    let overrides = Overrides { seed: args.seed, steps, ..Overrides::default() };
    let config = config().with(args.config.as_deref(), &overrides)?;
    config.ppo()?;
    config.validate()?;
    Ok(RunFolder::create(args.out.clone().unwrap_or_else(|| "runs/corridor".into()), config)?)
}

/// Only the tokenizer has to know the texts; one pass over two walks is not enough to follow the sign.
fn begin() -> epo::Result<Setup> {
    let task = |variation| Task { name: "corridor".into(), variation };
    let walk = |variation| -> epo::Result<Demonstration> {
        let (mut world, mut turns) = (Corridor::default(), Vec::new());
        let start = world.reset(&task(variation))?;
        let action = if world.treasure < 0 { "go west" } else { "go east" };
        while !world.over {
            turns.push(DemonstratedTurn {
                action: action.into(),
                step: world.step(action)?,
                imitated: true,
            });
        }
        Ok(Demonstration { task: task(variation), start, turns })
    };
    let panel = |name: &str| TaskSet::new(name, vec![task(0), task(1)]);
    let demonstrations = vec![walk(0)?, walk(1)?];
    Ok(Setup { train: panel("train")?, evaluation: vec![panel("test")?], demonstrations })
}

fn main() -> Result<()> {
    let (began, folder, stop) = (Instant::now(), folder(&Args::parse())?, stop_on_ctrl_c()?);
    let config = folder.config.clone();
    let (gae, _) = config.ppo()?;
    let worlds =
        (0..config.environments).map(|_| Box::new(Corridor::default()) as Box<dyn Environment>);
    let beginning = folder.checkpoint.is_none().then(begin).transpose()?;
    let mut run = Trainer::open(folder, worlds.collect(), beginning)?.stopping_at(stop);
    while let Some(step) = run.next_step() {
        let (began, rollouts) = (Instant::now(), run.play(step)?);
        let rewards = run.rewards(step, &rollouts)?;
        let (settings, (agent, critic)) =
            (config.settings(step, run.lr_factor()), run.actor_critic()?);
        let values = critic.values(&rollouts.trajectories, config.rollout.rows, &config.update)?;
        let credit = rewards.credit(&rollouts.trajectories, &values, &gae)?;
        let advantages = Advantages::Tokens(credit.advantages);
        let mut record =
            update_policy(agent, &rollouts, &rewards.returns(), &advantages, &settings)?;
        update_critic(critic, &rollouts, &values, &credit.returns, &settings, &mut record)?;
        run.record(record, &rollouts, began)?;
        run.evaluate_and_save()?;
    }
    let [before, after] = run.finish()?;
    println!("before: {}\nafter:  {}", before[0], after[0]);
    println!("summary {}", run.summary(began, &before[0], &after[0]));
    Ok(())
}
