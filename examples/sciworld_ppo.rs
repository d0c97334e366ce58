//! PPO with EPO in the ScienceWorld simulator, on a CPU, from fresh weights.
//!
//! A small policy first imitates the simulator's reference solutions, then plays. A critic of the
//! same shape estimates the value of each turn (generalised advantage estimation, arXiv
//! 1506.02438), PPO (arXiv 1707.06347) updates both on the same rows, and EPO (arXiv 2509.22576)
//! holds the entropy inside a band around its own history. In the first steps the critic learns
//! alone.
//!
//! ```text
//! cargo run --release --example sciworld_ppo -- --seed 1 --out runs/seed1
//! cargo run --release --example sciworld_ppo -- --entropy none --out runs/plain
//! ```

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use epo::console::note;
use epo::env::scienceworld::{Provision, ScienceWorldPool};
use epo::env::Environment;
use epo::run::stop_on_ctrl_c;
use epo::train::config::Algorithm;
use epo::train::{record_without_update, update_critic, update_policy, Advantages, Trainer};
use epo::worlds::ScienceWorldTasks;

use common::output::{self, print_line};
use common::TrainArgs;

mod common;

/// Trains an agent with PPO, a critic and EPO in the ScienceWorld simulator.
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
    let folder = args.train.folder::<ScienceWorldTasks>("sciworld_ppo", Algorithm::Ppo)?;
    let Some(folder) = folder else { return Ok(()) };
    let config = folder.config.clone();
    let (gae, _) = config.algorithm.ppo()?;
    let stop = stop_on_ctrl_c()?;
    let is_new = folder.checkpoint.is_none();

    let installation = Provision::default().install(&|line| note(line))?;
    let simulator = &config.environment.simulator;
    let mut pool = ScienceWorldPool::new(&installation, simulator, config.environments.get())?;
    let setup = is_new.then(|| ScienceWorldTasks::begin(&config, &mut pool)).transpose()?;
    let environments = pool.take_environments().into_iter();
    let environments = environments.map(|e| Box::new(e) as Box<dyn Environment>).collect();
    let mut run = Trainer::open(folder, environments, setup)?.stopping_at(stop);

    while let Some(step) = run.next_step() {
        let began = Instant::now();
        let rollouts = run.play(step)?;
        let trajectories = &rollouts.trajectories;
        let rewards = run.rewards(step, &rollouts)?;
        let returns = rewards.returns();
        let settings = config.settings(step, run.lr_factor());
        let (agent, critic) = run.actor_critic()?;
        let values = critic.values(trajectories, config.rollout.rows, &config.update)?;
        let credit = rewards.credit(trajectories, &values, &gae)?;
        let mut record = if critic.warms_up(step) {
            record_without_update(agent, &rollouts, &returns, &settings)?
        } else {
            let advantages = Advantages::Tokens(credit.advantages);
            update_policy(agent, &rollouts, &returns, &advantages, &settings)?
        };
        update_critic(critic, &rollouts, &values, &credit.returns, &settings, &mut record)?;
        record.set("restarts", pool.restarts());
        run.record(record, &rollouts, began)?;
        run.evaluate_and_save()?;
    }
    let [before, after] = run.finish()?;
    print_line(format_args!("summary {}", run.summary(began, &before[0], &after[0])))?;
    Ok(())
}
