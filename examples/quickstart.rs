//! The whole training loop on a toy world, in seconds: imitation, then GRPO with EPO.
//!
//! A coin lies in one of four boxes: `look` tells which, `open COLOUR` ends the episode. A policy
//! of about thirty thousand weights imitates the four solutions, too briefly to solve the task,
//! and then learns by playing.
//!
//! `cargo run --release --example quickstart`

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use epo::run::stop_on_ctrl_c;
use epo::train::credit::turn_advantages;
use epo::train::{update_policy, Advantages, Trainer};

use common::output::{self, print_line};
use common::{toy, RunArgs};

mod common;

/// Learns to find a coin in one of four boxes.
#[derive(Debug, Parser)]
#[command(version, after_help = common::AFTER_HELP)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    output::run(train)
}

fn train() -> Result<()> {
    let began = Instant::now();
    let mut args = Args::parse();
    if args.run.out.is_none() {
        let name = format!("epo-quickstart-{}", std::process::id());
        args.run.out = args.run.resume.is_none().then(|| std::env::temp_dir().join(name));
    }
    let base = toy::config(args.run.smoke);
    let Some(folder) = args.run.folder("quickstart", base)? else { return Ok(()) };
    let config = folder.config.clone();
    let advantage = config.algorithm.grpo()?;
    let stop = stop_on_ctrl_c()?;
    let setup = folder.checkpoint.is_none().then(toy::setup).transpose()?;
    let environments = toy::environments(config.environments.get());
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
    print_line(format_args!("before: {}\nafter:  {}", before[0], after[0]))?;
    print_line(format_args!("summary {}", run.summary(began, &before[0], &after[0])))?;
    Ok(())
}
