//! The whole loop on a toy world, in seconds: clone a little, then learn by comparing episodes, with EPO.
//!
//! Four boxes, a coin in one of them: `look` tells which, `open COLOUR` ends the episode. A policy of about thirty thousand
//! weights clones the four solutions, too briefly to solve the task, and then finds out by playing.
//!
//! `cargo run --release --example quickstart`

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use epo::env::{DemonstratedTurn, Demonstration, Environment, Task, ToyEnvironment};
use epo::evaluation::TaskSet;
use epo::optim::LrSchedule;
use epo::rollout::RolloutConfig;
use epo::run::{stop_on_ctrl_c, RunFolder};
use epo::train::config::{Algorithm, Benchmark, Overrides, TaskSettings, TrainConfig};
use epo::train::credit::{turn_advantages, AdvantageConfig};
use epo::train::learn::{CloningConfig, PolicyConfig};
use epo::train::{update_policy, Advantages, EvaluationConfig, Setup, Trainer};
use serde::{Deserialize, Serialize};

/// `[environment]` of the configuration: this world has nothing to set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl TaskSettings for Nothing {}

/// Learns to find a coin in one of four boxes.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "The last line of standard output is `summary {…}`, a JSON object."
)]
struct Args {
    /// Decides every random draw [default: 3]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Training steps in all, those before a resume included [default: 30]
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Folder of a new run [default: one among the temporary files]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in this folder; only --steps may change
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "config", "seed", "smoke"])]
    resume: Option<PathBuf>,
    /// Settings over this example's, in TOML
    #[arg(long, value_name = "FILE", conflicts_with = "smoke")]
    config: Option<PathBuf>,
    /// Three steps
    #[arg(long)]
    smoke: bool,
}

fn config() -> TrainConfig<Nothing> {
    let mut config = TrainConfig::small(Benchmark::ScienceWorld, Algorithm::Grpo, Nothing {});
    (config.seed, config.steps, config.environments) = (3, 30, 8);
    (config.learning_rate, config.schedule) = (1e-3, LrSchedule::default());
    config.evaluation = EvaluationConfig { every: 0, episodes: 16, ..config.evaluation };
    config.advantage = Some(AdvantageConfig::default());
    config.policy = PolicyConfig { vocabulary: 300, hidden_size: 32, layers: 2, context: 96 };
    let (demonstrations, epochs, batch, learning_rate, observation_weight) = (4, 25, 4, 3e-3, 0.1);
    config.cloning =
        CloningConfig { demonstrations, epochs, batch, learning_rate, observation_weight };
    // Sixteen episodes of each task, whose returns, and turns from the same situation, are compared.
    config.rollout =
        RolloutConfig { tasks: 4, group: 16, max_turns: 3, max_action_tokens: 8, ..config.rollout };
    config.optimizer.beta2 = 0.95;
    config
}

fn folder(args: &Args) -> Result<RunFolder<TrainConfig<Nothing>>> {
    if let Some(dir) = &args.resume {
        return Ok(RunFolder::resume(dir, TrainConfig::resumed(args.steps, None))?);
    }
    let steps = if args.smoke { args.steps.or(Some(3)) } else { args.steps };
    let overrides = Overrides { seed: args.seed, steps, ..Overrides::default() };
    let config = config().with(args.config.as_deref(), &overrides)?;
    config.grpo()?;
    config.validate()?;
    let temporary = || std::env::temp_dir().join(format!("epo-quickstart-{}", std::process::id()));
    Ok(RunFolder::create(args.out.clone().unwrap_or_else(temporary), config)?)
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
    let turn =
        |action: &str, step| DemonstratedTurn { action: action.into(), step, imitated: true };
    Ok(Demonstration {
        task: task(variation),
        start,
        turns: vec![turn("look", seen), turn(&open, end)],
    })
}

fn begin() -> epo::Result<Setup> {
    let panel = TaskSet::new("toy", (0..4).map(task).collect())?;
    let demonstrations = (0..4).map(solve).collect::<epo::Result<_>>()?;
    Ok(Setup { train: panel.clone(), evaluation: vec![panel], demonstrations })
}

fn main() -> Result<()> {
    let (began, folder, stop) = (Instant::now(), folder(&Args::parse())?, stop_on_ctrl_c()?);
    let config = folder.config.clone();
    let advantage = config.grpo()?;
    let environments =
        (0..config.environments).map(|_| Box::new(ToyEnvironment::new()) as Box<dyn Environment>);
    let beginning = folder.checkpoint.is_none().then(begin).transpose()?;
    let mut run = Trainer::open(folder, environments.collect(), beginning)?.stopping_at(stop);
    while let Some(step) = run.next_step() {
        let (began, rollouts) = (Instant::now(), run.play(step)?);
        let rewards = run.rewards(step, &rollouts)?;
        let advantages = turn_advantages(&rollouts.trajectories, rewards.turns(), &advantage)?;
        let (settings, advantages) =
            (config.settings(step, run.lr_factor()), Advantages::Turns(advantages));
        let record =
            update_policy(&mut run.agent, &rollouts, &rewards.returns(), &advantages, &settings)?;
        run.record(record, &rollouts, began)?;
        run.evaluate_and_save()?;
    }
    let [before, after] = run.finish()?;
    println!("before: {}\nafter:  {}", before[0], after[0]);
    println!("summary {}", run.summary(began, &before[0], &after[0]));
    Ok(())
}
