//! GRPO with EPO in ALFWorld's text games, on a CPU, from fresh weights: no Python, no download.
//!
//! A small policy first imitates an expert that has to search, then plays. GRPO (arXiv 2402.03300)
//! compares episodes of the same game, GiGPO (arXiv 2505.10978) turns with the same observation,
//! and EPO (arXiv 2509.22576) holds the entropy inside a band around its own history. The games
//! are ALFWorld's if `ALFWORLD_DATA` names their folder, and otherwise household games made by
//! this crate.
//!
//! ```text
//! cargo run --release --example alfworld_grpo -- --seed 1 --out runs/seed1
//! ALFWORLD_DATA=~/.cache/alfworld cargo run --release --example alfworld_grpo -- --out runs/alf
//! ```

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use epo::console::note;
use epo::run::stop_on_ctrl_c;
use epo::train::config::Algorithm;
use epo::train::credit::turn_advantages;
use epo::train::{update_policy, Advantages, Trainer};
use epo::worlds::AlfWorldTasks;

use common::output::{self, print_line};
use common::TrainArgs;

mod common;

/// Trains an agent with GRPO and EPO in ALFWorld's text games.
#[derive(Debug, Parser)]
#[command(version, after_help = common::AFTER_HELP)]
struct Args {
    #[command(flatten)]
    train: TrainArgs,
}

fn main() -> ExitCode {
    output::run(train)
}

fn train() -> Result<()> {
    let began = Instant::now();
    let args = Args::parse();
    let folder = args.train.folder::<AlfWorldTasks>("alfworld_grpo", Algorithm::Grpo)?;
    let Some(folder) = folder else { return Ok(()) };
    let config = folder.config.clone();
    let advantage = config.algorithm.grpo()?;
    let stop = stop_on_ctrl_c()?;
    let is_new = folder.checkpoint.is_none();

    note(format_args!("playing {}", config.environment.games));
    let games = config.environment.games()?;
    let setup = is_new.then(|| AlfWorldTasks::begin(&config, &games)).transpose()?;
    let environments = config.environment.environments(&games, config.environments.get());
    let mut run = Trainer::open(folder, environments, setup)?.stopping_at(stop);

    while let Some(step) = run.next_step() {
        let began = Instant::now();
        let rollouts = run.play(step)?;
        let trajectories = &rollouts.trajectories;
        let rewards = run.rewards(step, &rollouts)?;
        let returns = rewards.returns();
        let settings = config.settings(step, run.lr_factor());
        let advantages = turn_advantages(trajectories, rewards.turns(), &advantage)?;
        let advantages = Advantages::Turns(advantages);
        let record = update_policy(&mut run.agent, &rollouts, &returns, &advantages, &settings)?;
        run.record(record, &rollouts, began)?;
        run.evaluate_and_save()?;
    }
    let [before, after] = run.finish()?;
    // The second evaluation set is of rooms and things never seen in training.
    let mut summary = run.summary(began, &before[1], &after[1]);
    summary["success_before_seen"] = before[0].success.mean.into();
    summary["success_after_seen"] = after[0].success.mean.into();
    print_line(format_args!("summary {summary}"))?;
    Ok(())
}
